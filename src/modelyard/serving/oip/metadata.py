"""What the protocol tells of a replica and its models besides their figures: metadata and configuration.

The configuration has the shape of Triton's ModelConfig, so that its clients and tools read it:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
"""

from __future__ import annotations

from typing import Final

import msgspec

from modelyard.domain.services import ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.serving.models.dataplane import DataPlane

_EXTENSIONS: Final = (
    "classification", "model_repository", "schedule_policy", "model_configuration", "binary_tensor_data", "parameters",
    "statistics", "trace", "logging",
)  # fmt: skip
SHARED_MEMORY: Final = "system_shared_memory"


class ServerMetadata(msgspec.Struct):
    """`GET /v2`."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    """An input or output; symbolic dimensions are -1."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """`GET /v2/models/M[/versions/V]`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(msgspec.Struct):
    """An input or output in a ModelConfig; the batch dimension is left out where requests are joined along it."""

    name: str
    data_type: str
    dims: list[int]


class QueueConfig(msgspec.Struct):
    """ModelQueuePolicy: requests that wait too long are refused; a request may set a limit of its own."""

    max_queue_size: int
    default_timeout_microseconds: int
    timeout_action: str = "REJECT"
    allow_timeout_override: bool = True


class BatchingConfig(msgspec.Struct):
    """ModelDynamicBatching."""

    max_queue_delay_microseconds: int
    priority_levels: int
    default_priority_level: int
    default_queue_policy: QueueConfig
    preferred_batch_size: list[int] = []
    preserve_ordering: bool = False


class InstanceGroup(msgspec.Struct):
    """ModelInstanceGroup."""

    name: str
    kind: str
    count: int
    gpus: list[int]


class Specific(msgspec.Struct):
    """ModelVersionPolicy.Specific."""

    versions: list[int]


class VersionChoice(msgspec.Struct):
    """ModelVersionPolicy: what is served at this moment."""

    specific: Specific


class Text(msgspec.Struct):
    """ModelParameter."""

    string_value: str


class Switch(msgspec.Struct):
    """ModelResponseCache."""

    enable: bool


class ModelConfig(msgspec.Struct):
    """`GET /v2/models/M/config`. `parameters` are settings that Triton has no field for."""

    name: str
    platform: str
    backend: str
    version_policy: VersionChoice
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[InstanceGroup]
    default_model_filename: str
    dynamic_batching: BatchingConfig
    response_cache: Switch
    parameters: dict[str, Text]


def server_metadata(plane: DataPlane) -> ServerMetadata:
    """The server: name, version, extensions that work here."""
    shared = () if plane.regions.refusal else (SHARED_MEMORY,)
    return ServerMetadata("modelyard", plane.version, [*_EXTENSIONS, *shared])


def model_metadata(plane: DataPlane, name: str, version: str = "") -> ModelMetadata:
    """A model: its platform, tensors and served versions. Raises NotFound, Unavailable, InvalidInput."""
    signature = plane.find(name, version).interface.signature
    return ModelMetadata(
        name,
        [str(v) for v in _versions(plane, name)],
        _platform(plane.served(name, version)),
        [_tensor(spec) for spec in signature.inputs],
        [_tensor(spec) for spec in signature.outputs],
    )


def model_config(plane: DataPlane, name: str, version: str = "") -> ModelConfig:
    """How a model is run and batched. Raises NotFound, Unavailable, InvalidInput."""
    signature = plane.find(name, version).interface.signature
    return config_of(plane.served(name, version), signature, _versions(plane, name))


def config_of(served: ServedModel, signature: Signature, versions: list[int]) -> ModelConfig:
    """The configuration of a model as the spec or the repository has it. `signature`: as clients see it."""
    queue, batching = served.queue, served.batching
    batched = signature.batched
    gpu = served.device.partition(":")[2]
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    return ModelConfig(
        name=served.name,
        platform=_platform(served),
        backend=served.runtime,
        version_policy=VersionChoice(Specific(versions)),
        max_batch_size=batching.max_size if batched else 0,
        input=[_tensor_config(spec, batched=batched) for spec in signature.inputs],
        output=[_tensor_config(spec, batched=batched) for spec in signature.outputs],
        instance_group=[InstanceGroup(f"{served.name}_0", kind, served.instances, [int(gpu)] if gpu else [])],
        default_model_filename=served.artifact.entry,
        dynamic_batching=BatchingConfig(
            batching.max_delay_us,
            queue.priorities,
            queue.default_level,
            QueueConfig(queue.max_requests, int(queue.max_wait_s * 1e6)),
        ),
        response_cache=Switch(served.cache_bytes > 0),
        parameters={key: Text(value) for key, value in _parameters(served).items()},
    )


def _parameters(served: ServedModel) -> dict[str, str]:
    found = {
        "threads": str(served.threads),
        "precision": str(served.artifact.precision),
        "isolation": str(served.isolation),
        "weight": f"{served.weight:g}",
        "cache_bytes": str(served.cache_bytes),
        "coalesce": str(served.coalesce).lower(),
    }
    if served.batching.max_cost is not None:
        found["max_cost"] = str(served.batching.max_cost)
    if served.queue.slo_ms is not None:
        found["slo_ms"] = f"{served.queue.slo_ms:g}"
    return found


def _versions(plane: DataPlane, name: str) -> list[int]:
    return sorted(e.interface.version for e in plane.executors if e.interface.name == name)


def _platform(served: ServedModel) -> str:
    return f"{served.runtime}_{served.artifact.target.format}"


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(spec.name, str(spec.datatype), [-1 if isinstance(d, str) else d for d in spec.shape])


def _tensor_config(spec: TensorSpec, *, batched: bool) -> TensorConfig:
    kind = "TYPE_STRING" if spec.datatype is Datatype.BYTES else f"TYPE_{spec.datatype}"
    dims = [-1 if isinstance(d, str) else d for d in spec.shape]
    return TensorConfig(spec.name, kind, dims[1:] if batched else dims)
