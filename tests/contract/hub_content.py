"""What the hub's tests register: small definitions and files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from modelyard.domain.artifacts import (
    Artifact,
    Conversion,
    LocalArtifact,
    Outcome,
    Precision,
    Standing,
    Target,
)
from modelyard.domain.measurement import Interval
from modelyard.domain.services import Endpoint, Service
from modelyard.domain.study import Aim, Point, Prediction, Result, Study, Trial, TrialState
from modelyard.domain.versions import DatasetSpec, Definition, Description, ModelRef, SourceSpec, StepSpec, Version
from modelyard.hub import Hub
from tests.builders import SIGNATURE, configuration

PREDICTION = Prediction((-1.5,), 200.0, 2.0, 1.8, 3.0, 4.5, 0.6, feasible=True, spread=0.1)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by


@dataclass
class Place:
    """A hub, where it keeps its things, and a folder for the files that go into it."""

    hub: Hub
    database_url: str
    blobs_url: str
    directory: Path
    clock: Clock

    def reopen(self) -> Hub:
        """The same hub as another process would see it, with a cache of its own."""
        cache = self.directory / f"cache-{len(list(self.directory.iterdir()))}"
        return Hub.open(self.database_url, self.blobs_url, cache, self.clock)

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:  # threads share these files: no rewriting
            path.write_bytes(content)
        return path

    def register(
        self, name: str = "digits", content: bytes = b"weights", description: Description | None = None, **more: object
    ) -> Version:
        """Register a version with a source file, a dataset and a factory module; `more` goes to `definition`."""
        files = self.files(content)
        made = self.hub.versions.register(
            definition(name, **more), description or Description(), files, ["model.pt2", "net/model.py"]
        )
        return made.version

    def files(self, content: bytes = b"weights") -> dict[str, Path]:
        return {
            "model.pt2": self.file(f"model-{content.hex()[:40]}.pt2", content),
            "net/model.py": self.file("net.py", b"def build(): ..."),
            "holdout.npz": self.file("holdout.npz", b"dataset"),
        }

    def converted(self, target: str = "onnx", content: bytes = b"onnx") -> LocalArtifact:
        folder = f"converted-{target.replace(':', '-')}-{content.hex()[:40]}"
        self.file(f"{folder}/model.onnx", content)
        self.file(f"{folder}/data/model.onnx.data", content * 2)
        parsed = Target.parse(target)
        return LocalArtifact(
            str(self.directory / "files" / folder), "model.onnx", parsed, parsed.precision, SIGNATURE, {"opset": "20"}
        )

    def add(self, version: Version, target: str = "onnx", standing: Standing = Standing.PROVEN) -> Artifact:
        return self.hub.artifacts.add(version, self.converted(target), version.source_artifact, None, standing)


def definition(name: str = "digits", **more: object) -> Definition:
    values: dict[str, object] = {
        "framework": "pytorch",
        "source": SourceSpec("pytorch-exported", "model.pt2", {"factory": "net.model:build"}, trusted=True),
        "signature": SIGNATURE,
        "task": "image-classification",
        "preprocess": (StepSpec("normalize", {"mean": [0.5, 1], "channels_last": True, "name": None}),),
        "dataset": DatasetSpec("holdout.npz", {"image": "x"}, "y"),
        "metrics": {"accuracy": 0.98, "f1": 0.9},
    }
    return Definition(name=name, **(values | more))  # type: ignore[arg-type]


def ref(text: str) -> ModelRef:
    return ModelRef.parse(text)


def conversion(version: Version, *, key: str = "k1", **more: object) -> Conversion:
    values: dict[str, object] = {
        "id": "",
        "target": Target("onnx", "int8-dynamic"),
        "route": "dynamo",
        "outcome": Outcome.FAILED,
        "detail": "unsupported operator",
        "duration_s": 1.5,
        "peak_memory_bytes": 1 << 20,
        "tool_versions": {"onnx": "1.23"},
        "log": "line one\nline two",
    }
    values |= more
    return Conversion(
        key=key,
        model=version.model,
        version=version.number,
        source_artifact=version.source_artifact,
        **values,  # type: ignore[arg-type]
    )


def service(name: str, artifact: Artifact, *, created_at: str = "2026-11-22T00:00:00+00:00", port: int = 1) -> Service:
    return Service(
        name=name,
        model=artifact.model,
        version=artifact.version,
        configuration=configuration(artifact.id),
        endpoint=Endpoint("127.0.0.1", port),
        directory="engine/state",
        created_at=created_at,
    )


def study(version: Version, **changes: object) -> Study:
    values: dict[str, object] = {
        "id": "",
        "model": version.model,
        "version": version.number,
        "aim": Aim.parse("min cost under p99 <= 20 ms at 200 rps"),
        "workload": None,
        "space": "knobs:\n  threads: [1, 2]\n",
        "strategy": "random",
        "options": {"initial": 8, "xi": 0.01, "kind": "sobol"},
        "budget": 6,
        "seed": 0,
        "fingerprint": "f" * 12,
        "default": Point.of({"threads": 1}),
    }
    return Study(**(values | changes))  # type: ignore[arg-type]


def trial(number: int, *, measurements: tuple[str, ...] = (), **changes: object) -> Trial:
    result = Result(
        (-1.4,), (0.02,), (Interval(0.25, 0.2, 0.3),), Interval(9.0, 8.0, 11.0), True, "valid", measurements
    )
    base = Trial(
        number,
        Point.of({"threads": number, "delay_ms": 0.5, "runtime": "torch"}),
        TrialState.MEASURED,
        "seeded",
        result,
    )
    return replace(base, prediction=PREDICTION, seconds=1.5, **changes)


__all__ = ["Clock", "Place", "Precision", "conversion", "definition", "ref", "service", "study", "trial"]
