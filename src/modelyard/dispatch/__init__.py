"""Start, scale, roll and stop services: engines."""

from modelyard.dispatch.ports import AppliedLimits, Engine, Limits, Probe, ServiceStatus, Throttling

__all__ = ["AppliedLimits", "Engine", "Limits", "Probe", "ServiceStatus", "Throttling"]
