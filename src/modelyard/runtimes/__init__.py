"""Runtimes execute artifacts: one file per framework, all behind `Runtime` and `Predictor`."""

from modelyard.runtimes.capture import CapturedModel, capture
from modelyard.runtimes.ports import Availability, Predictor, Runtime, RuntimeOptions
from modelyard.runtimes.registry import Runtimes
from modelyard.runtimes.signatures import read_signature

__all__ = [
    "Availability",
    "CapturedModel",
    "Predictor",
    "Runtime",
    "RuntimeOptions",
    "Runtimes",
    "capture",
    "read_signature",
]
