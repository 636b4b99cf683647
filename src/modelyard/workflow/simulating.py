"""The simulator of one version on this node: curves and the server's overhead, measured once and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from modelyard.domain.artifacts import Artifact
from modelyard.domain.batching import RowCost
from modelyard.domain.configuration import Configuration
from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.domain.latency import ContentionPoint, Curve, Overhead
from modelyard.domain.tensors import Datatype, Signature, Tensors
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import fingerprint
from modelyard.profile.cell import connections
from modelyard.profile.curve import measure_contention, measure_curve
from modelyard.profile.overhead import measure_overhead
from modelyard.profile.recording import Recording
from modelyard.profile.requests import encode
from modelyard.profile.schedule import draw
from modelyard.tune.simulator import Forecast, Load, Simulator
from modelyard.workflow.in_service import InService, Predict
from modelyard.workflow.planning import thread_choices
from modelyard.workflow.profiling import Profiling, payloads_of, reporter
from modelyard.workflow.progress import Listener, Progress, Step

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Sizes at which a batched model is measured; between them the curve is interpolated."""
POINT_S: Final = 0.12
_JSON_BYTES: Final = 11.0
"""Of a number in JSON, about; an answer's length only moves a small cost."""
_CORRECTED_BY: Final = 1500
"""Simulated requests of one load by which a curve is corrected."""
_REVISION: Final = 7
"""Of how curves and overhead are measured: what another one measured is measured again."""
T = TypeVar("T")


@dataclass(frozen=True)
class Simulating:
    """Builds simulators. What it measures is kept by version, node and libraries; a second time takes milliseconds."""

    profiling: Profiling

    def simulator(
        self,
        version: Version,
        artifacts: Sequence[Artifact],
        protocols: Sequence[Protocol],
        listener: Listener,
        *,
        threads: Sequence[int] = (),
        recording: Recording | None = None,
    ) -> Simulator:
        """For these artifacts, each on its own runtime, over these protocols.

        `threads`: numbers of intra-op threads to know, by default 1, powers of two, and all cores. Measures what is not
        kept yet: seconds per artifact, some eight per protocol; nothing else may load the node meanwhile. An artifact
        that does not run is left out, and reported. Raises BackendFailed, Unavailable where the overhead cannot be
        measured.
        """
        counts = tuple(threads) or thread_choices(self.profiling.cores)
        curves: dict[tuple[str, str], Curve] = {}
        for artifact in artifacts:
            for runtime in self.profiling.runtimes_for(artifact):
                curve = self.curve(version, artifact, runtime, counts, listener)
                if curve.error:
                    listener(Progress(Step.PROFILE, f"{artifact.target} on {runtime} left out: {curve.error}"))
                else:
                    curves[artifact.id, runtime] = curve
        loads = Loads(self.profiling, version, recording)
        units = loads.curve_units
        return Simulator(curves, self.overhead(protocols, listener), self.profiling.cores, loads, curve_units=units)

    def curve(
        self, version: Version, artifact: Artifact, runtime: str, threads: tuple[int, ...], listener: Listener
    ) -> Curve:
        """The batch-latency curve with its spread, and how much slower copies run at the same time."""
        batches = BATCHES if version.definition.signature.batched else (1,)
        report = reporter(listener, str(artifact.target))

        def measure() -> Curve:
            report(f"in-process on {runtime}, {len(batches)} batch sizes")
            local, rows = self.profiling.hub.artifacts.checkout(artifact), self.profiling.rows.model_rows(version)
            curve = measure_curve(
                local, runtime, rows, threads=threads, batches=batches, point_budget_s=POINT_S, rested=True
            )
            if curve.error:
                return curve
            together: list[ContentionPoint] = []
            with suppress(BackendFailed):  # a second copy may not fit the memory: then none will be deployed
                for count, copies in _copies(threads, self.profiling.cores):
                    sizes = batches[:4:3]
                    together += measure_contention(
                        local, runtime, rows, threads=count, copies=copies, batches=sizes, point_budget_s=POINT_S
                    )
            report("in a replica")
            try:
                overhead = self.overhead([Protocol.HTTP_BINARY], listener)
                predict, jitter_s = self._predict(version, overhead), overhead.path(Protocol.HTTP_BINARY).jitter_s
                service = InService(self.profiling, predict, jitter_s)
                return service.corrected(version, artifact, replace(curve, contention=tuple(together)))
            except (BackendFailed, Unavailable) as error:  # it runs alone and not in a replica: never to be chosen
                return replace(curve, points=(), error=str(error))

        return self._kept(f"curve {artifact.id} {runtime} {threads} {batches}", Curve, measure, lambda c: not c.error)

    def _predict(self, version: Version, overhead: Overhead) -> Predict:
        """Simulations with a curve that is not known yet."""
        loads = Loads(self.profiling, version)

        def predict(curve: Curve, configuration: Configuration, workload: Workload) -> Forecast:
            key = (configuration.artifact, configuration.runtime)
            units = loads.curve_units
            simulator = Simulator({key: curve}, overhead, self.profiling.cores, loads, curve_units=units)
            return simulator.predict(configuration, workload, requests=_CORRECTED_BY)

        return predict

    def overhead(self, protocols: Sequence[Protocol], listener: Listener) -> Overhead:
        """Of the server and the load client on this node over these protocols."""
        found = []
        for protocol in dict.fromkeys(protocols):

            def measure(protocol: Protocol = protocol) -> Overhead:
                listener(Progress(Step.PROFILE, f"the server's own cost over {protocol}"))
                return measure_overhead([protocol])

            found.append(self._kept(f"overhead {protocol}", Overhead, measure))
        return replace(found[0], paths={p: path for one in found for p, path in one.paths.items()})

    def _kept(
        self, what: str, kind: type[T], measure: Callable[[], T], worth: Callable[[T], bool] = lambda _: True
    ) -> T:
        identity = f"{_REVISION} {what} {fingerprint().id}"
        file = self.profiling.work_dir / "curves" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.json.decode(file.read_bytes(), type=kind)
        found = measure()
        if worth(found):
            _write(file, msgspec.json.encode(found))
        return found


def _copies(threads: Sequence[int], cores: int) -> list[tuple[int, int]]:
    """The (threads, copies) that fit the cores: two of each, and as many as there is room for."""
    return sorted({(t, copies) for t in threads for copies in (2, cores // t) if copies > 1 and t * copies <= cores})


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    part.replace(file)


@dataclass
class Loads:
    """What the load client does in one block of a workload on a configuration: `tune.simulator.Loads`."""

    profiling: Profiling
    version: Version
    recording: Recording | None = None
    _shapes: dict[Workload, _Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inner = self.version.definition.signature
        self._outer = self.profiling.rows.outer_signature(self.version)
        self._groups = self.profiling.rows.groups(self.version)
        self._cost = RowCost(self._inner)

    @property
    def curve_units(self) -> float | None:
        """What a row of the curve costs, where rows differ."""
        if not self._cost.varies:
            return None
        return float(self._units(self.profiling.rows.model_rows(self.version, 64)))

    def __call__(self, workload: Workload, configuration: Configuration, block: int) -> Load:
        """The load of one block."""
        shape = self._shape(workload)
        schedule = draw(workload, block, len(shape.units), self.recording)
        units = (1,) if not self._cost.varies else tuple(shape.units[i] for i in schedule.payloads.tolist())
        return Load(
            due_s=schedule.times_s,
            concurrency=workload.concurrency,
            requests=workload.requests,
            rows=(workload.batch,),
            units=units,
            connections=connections(workload, configuration.replicas),
            timeout_s=workload.timeout_s,
            request_bytes=shape.request_bytes,
            answer_bytes=shape.answer_bytes,
        )

    def _shape(self, workload: Workload) -> _Shape:
        key = Workload(Arrival.CLOSED, batch=workload.batch, protocol=workload.protocol, seed=workload.seed)
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = self._measured(key)
        return found

    def _measured(self, workload: Workload) -> _Shape:
        payloads = payloads_of(self._groups, workload, self._outer.batched)
        sizes = [self._request_bytes(p, workload.protocol) for p in payloads[:8]]
        same = set(self._inner.inputs) <= set(self._outer.inputs)
        units = tuple(self._units(p) if self._cost.varies and same else 1 for p in payloads)
        return _Shape(float(np.mean(sizes)), _answer_bytes(self._outer, payloads[0], workload), units)

    def _request_bytes(self, payload: Tensors, protocol: Protocol) -> int:
        model, number = self.version.model, self.version.number
        return len(encode(payload, protocol, model=model, version=number, host="127.0.0.1:0"))

    def _units(self, payload: Tensors) -> int:
        first = 1 if self._inner.batched else 0
        return self._cost([payload[spec.name].shape[first:] for spec in self._inner.inputs])


@dataclass(frozen=True, slots=True)
class _Shape:
    request_bytes: float
    answer_bytes: float
    units: tuple[int, ...]


def _answer_bytes(signature: Signature, payload: Tensors, workload: Workload) -> float:
    """About: symbolic dimensions of outputs are as long as the inputs' of that name, else 1."""
    sizes: Mapping[str, int] = {
        dim: payload[spec.name].shape[i]
        for spec in signature.inputs
        if spec.name in payload
        for i, dim in enumerate(spec.shape)
        if isinstance(dim, str) and i < payload[spec.name].ndim
    }
    total = 0.0
    for spec in signature.outputs:
        numbers = float(np.prod([sizes.get(d, 1) if isinstance(d, str) else d for d in spec.shape]))
        binary = 8.0 if spec.datatype is Datatype.BYTES else float(spec.datatype.numpy.itemsize)
        total += numbers * (_JSON_BYTES if workload.protocol is Protocol.HTTP_JSON else binary)
    return total
