"""The model that a request of this protocol names, its status and metadata, in TF Serving's words."""

from __future__ import annotations

from modelyard.domain.errors import InvalidInput, ModelyardError, NotFound
from modelyard.domain.tensors import TensorSpec
from modelyard.serving.faults import status_of
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.models.states import ModelState
from modelyard.serving.models.target import Target
from modelyard.serving.oip.plan import Interface
from modelyard.serving.tfs.plan import DEFAULT_SIGNATURE, PREDICT
from modelyard.serving.tfs.tensors import DT


def target(plane: DataPlane, name: str, version: str = "", label: str = "") -> Target:
    """Where a request goes. Raises NotFound and InvalidInput with TF Serving's texts, Unavailable."""
    if not name:
        raise InvalidInput("Missing model name in request.")
    try:
        return plane.target(name, version, label)
    except NotFound as error:
        raise unknown(plane, name, version, label) from error


def unknown(plane: DataPlane, name: str, version: str = "", label: str = "") -> ModelyardError:
    """TF Serving's answer to a model, version or label that is not served."""
    if label and any(state.name == name for state in plane.index()):
        return InvalidInput(f"Unrecognized servable version label: {label}")
    which = f"Specific({name}, {version})" if version else f"Latest({name})"
    return NotFound(f"Servable not found for request: {which}")


def states(plane: DataPlane, name: str, version: str = "", label: str = "") -> list[ModelState]:
    """The states of a model's versions, or of one of them, newest first. Raises NotFound, InvalidInput."""
    try:
        found = plane.states(name)
    except NotFound as error:
        raise NotFound(f"Could not find any versions of model {name}") from error
    if label:
        labels = plane.labels(name)
        if label not in labels:
            raise InvalidInput(f"Unrecognized servable version label: {label}")
        version = str(labels[label])
    chosen = [s for s in found if not version or str(s.version) == version]
    if not chosen:
        raise NotFound(f"Could not find version {version} of model {name}")
    return sorted(chosen, key=lambda state: -state.version)


def status(state: ModelState) -> tuple[str, str]:
    """Error code and message of a version's status; OK where nothing went wrong."""
    if state.error is None:
        return "OK", ""
    _, code = status_of(state.error)
    return code, str(state.error)


def signature_json(interface: Interface) -> dict[str, object]:
    """The metadata's `signature_def` as TF Serving's REST shows it."""
    signature = interface.signature
    definition = {
        "inputs": {spec.name: _tensor_json(spec) for spec in signature.inputs},
        "outputs": {spec.name: _tensor_json(spec) for spec in signature.outputs},
        "method_name": PREDICT,
    }
    return {"signature_def": {"signature_def": {DEFAULT_SIGNATURE: definition}}}


def sizes(spec: TensorSpec) -> list[int]:
    """The dimensions of a tensor; -1 is any."""
    return [-1 if isinstance(dim, str) else dim for dim in spec.shape]


def _tensor_json(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in sizes(spec)]
    return {"dtype": DT[spec.datatype], "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": spec.name}
