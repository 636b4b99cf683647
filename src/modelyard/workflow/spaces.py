"""The space of a version's configurations, and what a point means: what to measure and how it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelyard.domain.artifacts import Artifact, Standing
from modelyard.domain.configuration import Batching, Configuration, Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Knob, Point
from modelyard.domain.workload import Protocol
from modelyard.manifest.problems import nearest
from modelyard.tune.knobs import Choice, Dimension, Integer
from modelyard.tune.space import Space

MAX_BATCH: Final = 64
"""The largest batch of the default space: beyond it throughput grows little on CPUs, and latency in proportion."""
MAX_DELAY_US: Final = 2000
"""The longest queue delay of the default space: 0 (greedy), 500, 1000, 2000."""
KNOBS: Final = {
    "artifact": "which servable artifact, as yard models show writes it (onnx, openvino:int8-static)",
    "threads": "the runtime's intra-op threads per replica",
    "replicas": "processes of the service",
    "max_batch": "rows of a dynamic batch; 1: off",
    "max_delay_us": "longest wait for a batch to fill, in microseconds",
    "cpu_limit": "cores a replica may use",
    "memory_mb": "MiB a replica may use",
    "protocol": "how the requests travel: http-json, http-binary, grpc",
}


@dataclass(frozen=True)
class Meaning:
    """Points of a space as configurations of one version. `runtimes`: by artifact id, what each was proven on.

    A knob that the space does not have is as in the default configuration: the source, all cores in one replica's
    threads, no batching, http-binary.
    """

    artifacts: Mapping[str, Artifact]
    runtimes: Mapping[str, str]
    cores: int
    slo: Slo | None = None

    @classmethod
    def of(cls, artifacts: Sequence[Artifact], runtimes: Mapping[str, str], cores: int, slo: Slo | None) -> Meaning:
        """Of the servable artifacts that have a runtime here."""
        return cls({str(a.target): a for a in artifacts if a.id in runtimes}, runtimes, cores, slo)

    @property
    def source(self) -> str:
        """The source's target, or the first artifact's where the source cannot run here."""
        return next((t for t, a in self.artifacts.items() if a.standing is Standing.SOURCE), next(iter(self.artifacts)))

    @property
    def defaults(self) -> dict[str, Knob]:
        """What one would deploy without a search, as knobs."""
        return {
            "artifact": self.source,
            "threads": self.cores,
            "replicas": 1,
            "max_batch": 1,
            "max_delay_us": 0,
            "protocol": str(Protocol.HTTP_BINARY),
        }

    def configuration(self, point: Point) -> Configuration:
        """The configuration that a point means. Raises InvalidInput for values that no configuration has."""
        knobs = {**self.defaults, **dict(point)}
        artifact = self.artifacts[str(knobs["artifact"])]
        max_batch = int(knobs["max_batch"])
        cpu_limit, memory_mb = knobs.get("cpu_limit"), knobs.get("memory_mb")
        configuration = Configuration(
            artifact=artifact.id,
            target=artifact.target,
            runtime=self.runtimes[artifact.id],
            precision=artifact.precision,
            threads=int(knobs["threads"]),
            replicas=int(knobs["replicas"]),
            batching=Batching(max_batch, int(knobs["max_delay_us"]) if max_batch > 1 else 0),
            memory_limit_bytes=None if memory_mb is None else int(float(memory_mb) * 2**20),
            cpu_limit=None if cpu_limit is None else float(cpu_limit),
        )
        if self.slo is None:
            return configuration
        return replace(configuration, queue=replace(configuration.queue, slo_ms=self.slo.p99_ms))

    def protocol(self, point: Point) -> Protocol:
        """How the clients of a point call it."""
        return Protocol(str(point.get("protocol", self.defaults["protocol"])))

    def default(self, space: Space) -> Point:
        """The default configuration as a point of the space; a knob that cannot have its value has the nearest.

        Raises InvalidInput where that breaks a constraint and no neighbour keeps it.
        """
        knobs: dict[str, Knob] = {}
        for name, dimension in space.knobs.items():
            knobs[name] = _nearest(dimension, self.defaults.get(name))
        point = Point.of(knobs)
        known = {**dict(point)}
        for name, dimension in space.knobs.items():
            if any(known.get(other) not in values for other, values in dimension.when.items()):
                known.pop(name, None)
        point = Point.of(known)
        if space.check(point) is None:
            return point
        near = space.neighbours(point)
        return near[0] if near else space.sobol(1, 0)[0]

    def fixed(self, space: Space) -> Point:
        """What holds for every point because the space has no such knob."""
        left_out = {name: value for name, value in self.defaults.items() if name not in space.knobs}
        if "max_batch" in left_out:
            left_out.pop("max_delay_us", None)  # without batches nothing waits for one
        return Point.of(left_out)

    def check(self, space: Space, *, batched: bool = True) -> None:
        """Raises the first of the `mistakes`."""
        for _, error in self.mistakes(space, batched=batched):
            raise error

    def mistakes(self, space: Space, *, batched: bool = True) -> Iterator[tuple[str, InvalidInput]]:
        """Knobs that no configuration has, and values that this version does not, each with its knob.

        `batched`: whether the model has a batch dimension.
        """
        for name, dimension in space.knobs.items():
            if name not in KNOBS:
                text = f"no configuration has a knob '{name}'" + nearest(name, KNOBS)
                yield name, InvalidInput(text, hint="docs/tuning.md tells what each of them means")
            elif name == "max_batch" and not batched:
                text = "this model has no batch dimension, so max_batch chooses nothing"
                yield name, InvalidInput(text, hint="leave max_batch out")
            elif name in ("artifact", "protocol"):
                known = list(self.artifacts) if name == "artifact" else [str(p) for p in Protocol]
                yield from ((name, error) for error in _unknown(name, dimension, known))


def _unknown(name: str, dimension: Dimension, known: Sequence[str]) -> Iterator[InvalidInput]:
    """Values that such a knob cannot have."""
    if not isinstance(dimension, Choice):
        yield InvalidInput(f"the knob '{name}' must be a choice", hint=f"write {name}: {{choice: [{known[0]}]}}")
        return
    for value in dimension.values:
        if value not in known:
            yield InvalidInput(
                f"'{value}' is no {name} that can be served" + nearest(str(value), known),
                hint="yard convert makes other artifacts" if name == "artifact" else "docs/protocols.md",
            )


def default_space(meaning: Meaning, *, batched: bool) -> Space:
    """What is searched where the user gives no space: every artifact, split of the cores, batch size and delay."""
    cores = meaning.cores
    counts = Integer(1, cores, log2=True)
    knobs: dict[str, Dimension] = {
        "artifact": Choice(tuple(meaning.artifacts)),
        "threads": counts,
        "replicas": counts,
    }
    if batched:
        sizes = Integer(1, MAX_BATCH, log2=True)
        on = {"max_batch": tuple(size for size in sizes.levels if size > 1)}
        knobs["max_batch"] = sizes
        knobs["max_delay_us"] = Integer(0, MAX_DELAY_US, log2=True, step=500, when=on)
    return Space(knobs, ("replicas * threads <= cores",), {"cores": cores})


def _nearest(dimension: Dimension, wanted: Knob | None) -> Knob:
    levels = dimension.spread(16)
    if wanted in levels:
        return wanted  # type: ignore[return-value]  # one of the levels
    if isinstance(wanted, int | float) and all(isinstance(level, int | float) for level in levels):
        return min(levels, key=lambda level: abs(float(level) - float(wanted)))
    return levels[-1] if wanted is None else levels[0]
