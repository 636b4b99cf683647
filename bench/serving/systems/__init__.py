"""The systems under test, in the order of the table."""

from bench.serving.systems import limits, ours, peers, triton
from bench.serving.systems.ports import Deployment, JsonForm, Launch, System

SYSTEMS: dict[str, System] = {
    system.name: system for system in (*limits.SYSTEMS, *ours.SYSTEMS, *triton.SYSTEMS, *peers.SYSTEMS)
}

__all__ = ["SYSTEMS", "Deployment", "JsonForm", "Launch", "System"]
