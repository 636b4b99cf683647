"""Start, scale, roll and stop services: engines, and a small client to call what they run."""

from modelyard.dispatch.client import InferenceClient, infer, metadata
from modelyard.dispatch.ports import AppliedLimits, Engine, Limits, Probe, ServiceStatus

__all__ = ["AppliedLimits", "Engine", "InferenceClient", "Limits", "Probe", "ServiceStatus", "infer", "metadata"]
