"""Modelyard turns a trained model into the cheapest service that meets its latency target.

    import modelyard

    with modelyard.open() as yard:
        registered = yard.register_model(model, "digits", inputs=images, task="image-classification")
        publication = yard.publish(registered.version.ref)

Importing this module imports no framework; names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modelyard.bootstrap import Dataset, Yard
    from modelyard.config import Settings
    from modelyard.domain.artifacts import Target
    from modelyard.domain.configuration import Slo
    from modelyard.domain.study import Aim
    from modelyard.workflow.max_rate import MaxRateRequest
    from modelyard.workflow.values import DeployRequest, ProfileRequest, PublishRequest, TuneRequest

_WHERE = {
    "Aim": "modelyard.domain.study",
    "Dataset": "modelyard.bootstrap",
    "DeployRequest": "modelyard.workflow.values",
    "MaxRateRequest": "modelyard.workflow.max_rate",
    "ProfileRequest": "modelyard.workflow.values",
    "PublishRequest": "modelyard.workflow.values",
    "Settings": "modelyard.config",
    "Slo": "modelyard.domain.configuration",
    "Target": "modelyard.domain.artifacts",
    "TuneRequest": "modelyard.workflow.values",
    "Yard": "modelyard.bootstrap",
}
__all__ = [
    "Aim",
    "Dataset",
    "DeployRequest",
    "MaxRateRequest",
    "ProfileRequest",
    "PublishRequest",
    "Settings",
    "Slo",
    "Target",
    "TuneRequest",
    "Yard",
    "open",
]


def open(settings: Settings | None = None) -> Yard:  # noqa: A001 - reads as modelyard.open()
    """Open the hub and the engine of `settings`, by default those of the environment (`MODELYARD_*`)."""
    from modelyard.bootstrap import Yard

    return Yard.open(settings)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'modelyard' has no attribute '{name}'")
