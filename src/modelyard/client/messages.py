"""What a service says about itself and its models. Fields it leaves out have their defaults; others are ignored."""

from __future__ import annotations

import msgspec

from modelyard.domain.errors import Unsupported
from modelyard.domain.tensors import Datatype, Dim, Signature, TensorSpec


class ServerMetadata(msgspec.Struct, frozen=True):
    """Name, version and protocol extensions of a service."""

    name: str
    version: str = ""
    extensions: tuple[str, ...] = ()


class TensorMetadata(msgspec.Struct, frozen=True):
    """One input or output; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model as the service states it."""

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()

    @property
    def signature(self) -> Signature:
        """The same as a signature. Raises Unsupported for a datatype that Modelyard does not know.

        The protocol does not name dimensions: a first one of any size is `batch`, others get a name of their own.
        """
        return Signature(tuple(map(_spec, self.inputs)), tuple(map(_spec, self.outputs)))


def _spec(tensor: TensorMetadata) -> TensorSpec:
    try:
        datatype = Datatype(tensor.datatype)
    except ValueError:
        raise Unsupported(f"'{tensor.name}' has the unknown datatype {tensor.datatype}") from None
    shape: list[Dim] = []
    for position, size in enumerate(tensor.shape):
        free = "batch" if position == 0 else f"{tensor.name}_{position}"
        shape.append(free if size < 0 else size)
    return TensorSpec(tensor.name, datatype, tuple(shape))


class Duration(msgspec.Struct, frozen=True):
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct, frozen=True):
    """Requests by outcome and by stage, since the model was loaded."""

    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class BatchStatistics(msgspec.Struct, frozen=True):
    """Executions of one batch size."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class ModelStatistics(msgspec.Struct, frozen=True):
    """Statistics of one version of a model, as Triton counts them. `last_inference`: Unix time in milliseconds."""

    name: str
    version: str = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferStatistics = InferStatistics()
    batch_stats: tuple[BatchStatistics, ...] = ()


class StatisticsAnswer(msgspec.Struct, frozen=True):
    """The envelope of statistics."""

    model_stats: tuple[ModelStatistics, ...]


class RepositoryModel(msgspec.Struct, frozen=True):
    """One version in a service's repository. `state`: `READY`, `UNAVAILABLE` ...; `reason` says why not ready."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""
