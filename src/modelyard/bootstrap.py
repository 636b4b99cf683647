"""The composition root: the one place that picks implementations, and the facade over every use case.

The CLI and the Python API (`modelyard.open()`) both call `Yard`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from modelyard.config import Settings
from modelyard.convert import ConversionService, Converters, Limits
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.artifacts import Conversion
from modelyard.domain.configuration import Slo
from modelyard.domain.services import Service
from modelyard.domain.study import Study
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.domain.versions import DatasetSpec, Definition, Description, ModelRef
from modelyard.hub import Freed, Hub, Registration
from modelyard.manifest import ManifestDocument
from modelyard.profile import Comparison, Price, Profiler, compare
from modelyard.runtimes import Runtimes, capture
from modelyard.tune.strategies import Strategies
from modelyard.workflow import inspecting
from modelyard.workflow.converting import Converting
from modelyard.workflow.deploying import Deployer
from modelyard.workflow.exporting import Exported, Exporting, format_of
from modelyard.workflow.max_rate import FoundMaxRate, MaxRateRequest, MaxRates
from modelyard.workflow.predicting import Predicting
from modelyard.workflow.profiling import Profiling
from modelyard.workflow.progress import Listener, silent
from modelyard.workflow.proof import Proof
from modelyard.workflow.publishing import Publisher
from modelyard.workflow.registering import Registering
from modelyard.workflow.reporting import Reporting
from modelyard.workflow.rows import Rows
from modelyard.workflow.simulating import Simulating
from modelyard.workflow.tuning import Tuning
from modelyard.workflow.values import (
    DeployRequest,
    Finding,
    ProfileRequest,
    Publication,
    PublishRequest,
    ServiceStatus,
    Sweep,
    TunePlan,
    TuneRequest,
    VersionDiff,
)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Dataset:
    """Held-out data of an in-memory model: inputs by name (or the only input's array), and true labels."""

    inputs: Tensors | Tensor
    labels: Tensor | None = None


class Yard:
    """Everything one can do, on this machine's hub and engine. Use as a context manager or `close` it.

    One `Yard` is for one thread; several processes may work on the same home at once.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.prepare()
        self.runtimes = Runtimes.discover()
        self.hub = Hub.open(settings.database_url, settings.blobs_url, settings.cache_dir)
        self.engine = ProcessEngine(settings.services_dir, cgroup=settings.cgroup or None)
        limits = Limits(convert_s=settings.convert_timeout_s, memory_bytes=settings.convert_memory_bytes)
        self._conversions = ConversionService(self.runtimes, Converters.discover(), settings.work_dir, limits)
        self._rows = Rows(self.hub)
        self._registering = Registering(self.hub, self._conversions, settings.work_dir)
        self._converting = Converting(self.hub, self._conversions, _now)
        self.deployer = Deployer(self.hub, self.engine, Proof(self.hub, self.runtimes), self._rows, _now)
        price = Price(
            settings.price_per_core_hour, settings.price_currency, settings.price_source, settings.price_as_of
        )
        traces = settings.home / "traces"
        profiler = Profiler(settings.work_dir / "profile", price, traces=traces)
        self.profiling = Profiling(
            self.hub, self.runtimes, self.deployer, self._rows, profiler, settings.work_dir, traces
        )
        self._reporting = Reporting(self.hub, price)
        self._exporting = Exporting(self.hub)
        predicting = Predicting(Simulating(self.profiling), price)
        self.tuning = Tuning(self.hub, self.profiling, predicting, Strategies.discover())
        self._publisher = Publisher(
            self.hub,
            self._registering,
            self._converting,
            self.profiling,
            self.deployer,
            self._reporting,
            self._rows,
            settings.home / "samples",
        )

    @classmethod
    def open(cls, settings: Settings | None = None) -> Yard:
        """Open with `settings`, by default those of the environment. Raises InvalidInput, BackendFailed."""
        return cls(settings or Settings.read())

    def close(self) -> None:
        """Close the hub and kill what conversions still run. Services go on."""
        self._conversions.close()
        self.hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_manifest(self, path: str | Path, *, trust: bool = False, listener: Listener = silent) -> ManifestDocument:
        """Check everything that `register` checks, the source's behaviour included, and write nothing."""
        return self._registering.check(Path(path), trust=trust or self.settings.trust, listener=listener)

    def register(self, path: str | Path, *, trust: bool = False, listener: Listener = silent) -> Registration:
        """Register the manifest file `path`. Identical content gives the version that has it, `created` False."""
        return self._registering.register(Path(path), trust=trust or self.settings.trust, listener=listener)

    def register_model(
        self,
        model: object,
        name: str,
        *,
        inputs: Tensors | Tensor | None = None,
        dataset: Dataset | None = None,
        outputs: Sequence[str] | None = None,
        task: str = "",
        slo: Slo | str | None = None,
        metrics: Mapping[str, float] | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        convert: Sequence[str] = ("auto",),
        trust: bool = False,
        listener: Listener = silent,
    ) -> Registration:
        """Register a PyTorch module, scikit-learn estimator, XGBoost or LightGBM model that is in memory.

        `inputs` are example inputs with at least two rows (needed for PyTorch unless there is a `dataset`). Raises
        what `register` raises, and Unsupported for an object of another framework.
        """
        if inputs is None and dataset is not None:
            inputs = _first_rows(dataset.inputs)
        self.settings.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="capture-", dir=self.settings.work_dir) as folder:
            captured = capture(model, Path(folder), inputs=inputs, outputs=outputs, trusted=trust)
            files = dict(captured.files)
            spec = None
            if dataset is not None:
                spec = _save_dataset(dataset, Path(folder, "dataset.npz"), [s.name for s in captured.signature.inputs])
                files[spec.path] = Path(folder, spec.path)
            definition = Definition(
                name=name,
                framework=captured.framework,
                source=captured.source,
                signature=captured.signature,
                task=task,
                dataset=spec,
                metrics=dict(metrics or {}),
                slo=Slo.parse(slo) if isinstance(slo, str) else slo,
                convert=tuple(convert),
            )
            document = ManifestDocument.of(
                definition, Description(description=description, tags=tuple(tags)), files, tuple(captured.files)
            )
            return self._registering.register_document(document, listener)

    def convert(self, ref: str, targets: Sequence[str] = ("auto",), *, listener: Listener = silent) -> list[Conversion]:
        """Convert a version to `targets` and prove each result; outcomes are values. Raises NotFound, InvalidInput."""
        return self._converting.convert(self.hub.versions.get(ModelRef.parse(ref)), targets, listener)

    def profile(self, ref: str, request: ProfileRequest | None = None, *, listener: Listener = silent) -> Sweep:
        """Measure configurations of a version on this node, each under each of the request's workloads."""
        return self.profiling.profile(ref, request or ProfileRequest(), listener)

    def max_rate(self, ref: str, request: MaxRateRequest | None = None, *, listener: Listener = silent) -> FoundMaxRate:
        """Find the highest rate at which a configuration of a version meets an SLO, measured on this node."""
        return MaxRates(self.profiling).find(ref, request or MaxRateRequest(), listener)

    def compare(self, a: str, b: str) -> Comparison:
        """Compare two measurements by their ids, from their raw samples. Raises NotFound."""
        left, right = self.hub.measurements.get(a), self.hub.measurements.get(b)
        return compare(left, self.hub.measurements.samples(left), right, self.hub.measurements.samples(right))

    def publish(
        self,
        what: str | Path,
        request: PublishRequest | None = None,
        *,
        trust: bool = False,
        listener: Listener = silent,
    ) -> Publication:
        """Take a manifest file or a registered version to a live, proven, profiled service."""
        trust = trust or self.settings.trust
        return self._publisher.publish(what, request or PublishRequest(), trust=trust, listener=listener)

    def deploy(self, ref: str, request: DeployRequest | None = None, *, listener: Listener = silent) -> Service:
        """Deploy a version: as last published, else as the request says."""
        return self.deployer.deploy(ref, request or DeployRequest(), listener)

    def tune(self, ref: str, request: TuneRequest | None = None, *, listener: Listener = silent) -> Study:
        """Search the best configuration of a version on this node; what was begun and not finished is gone on with."""
        return self.tuning.tune(ref, request or TuneRequest(), listener)

    def plan_tune(self, ref: str, request: TuneRequest | None = None, *, listener: Listener = silent) -> TunePlan:
        """What `tune` would do now, without measuring a service."""
        return self.tuning.plan(ref, request or TuneRequest(), listener)

    def studies(self, ref: str) -> list[Study]:
        """The studies of a version, oldest first. Raises NotFound."""
        return self.hub.studies.list(ModelRef.parse(ref))

    def study(self, study_id: str) -> Study:
        """A study by its id or the beginning of it. Raises NotFound, InvalidInput."""
        return self.hub.studies.get(study_id)

    def report_study(self, study_id: str, path: str | Path) -> Path:
        """Write the HTML report of a study; it opens offline. Raises NotFound, BackendFailed."""
        return self._reporting.write_study(self.hub.studies.get(study_id), Path(path))

    def services(self) -> list[ServiceStatus]:
        """Every service, with the state of its processes now."""
        return self.deployer.list()

    def service(self, name: str) -> ServiceStatus:
        """One service, and what each of its versions did, summed over its replicas. Raises NotFound."""
        return self.deployer.show(name)

    def stop(self, name: str) -> None:
        """Drain and stop a service. Raises NotFound."""
        self.deployer.stop(name)

    def logs(self, name: str, *, replica: int | None = None, follow: bool = False, tail: int = 100) -> Iterator[str]:
        """Log lines of a service. Raises NotFound."""
        return self.deployer.logs(name, replica=replica, follow=follow, tail=tail)

    def predict(self, service: str, tensors: Tensors) -> dict[str, Tensor]:
        """Ask a running service. Raises NotFound, InvalidInput, Unavailable."""
        return self.deployer.predict(service, tensors)

    def diff(self, left: str, right: str) -> VersionDiff:
        """What differs between two versions. Raises NotFound."""
        return inspecting.diff(self.hub, left, right)

    def report(self, ref: str, path: str | Path) -> Path:
        """Write the HTML report of a version; it opens offline. Raises NotFound."""
        return self._reporting.write(self.hub.versions.get(ModelRef.parse(ref)), Path(path))

    def report_measurements(self, ids: Sequence[str], path: str | Path) -> Path:
        """Write the HTML report of measurements, by their ids. Raises NotFound, InvalidInput, BackendFailed."""
        return self._reporting.write_measurements(self._exporting.select(None, ids), Path(path))

    def report_comparison(self, a: str, b: str, path: str | Path) -> Path:
        """Write the HTML report of two measurements, or two versions' choices, side by side. Raises NotFound."""
        return self._reporting.write_comparison(a, b, Path(path))

    def export(
        self,
        path: str | Path,
        *,
        ref: str | None = None,
        measurements: Sequence[str] = (),
        format: str | None = None,  # noqa: A002  (the word of the command line)
    ) -> Exported:
        """Write measurements of a version, or those with the ids, as csv, json or parquet (default: by the suffix).

        Raises NotFound, InvalidInput, BackendFailed; Unsupported for parquet without pyarrow.
        """
        path = Path(path)
        chosen = format_of(path, format)
        return self._exporting.write(self._exporting.select(ref, measurements), path, chosen)

    def doctor(self) -> list[Finding]:
        """Check this installation."""
        return inspecting.doctor(self.settings.home, self.runtimes, self.hub)

    def gc(self, *, dry_run: bool = False) -> Freed:
        """Remove what no version, alias or service references, and what crashed services left behind."""
        self.deployer.collect(dry_run=dry_run)
        files, size = self.profiling.sweep(dry_run=dry_run)
        freed = self.hub.gc(dry_run=dry_run)
        return replace(freed, temp_files=freed.temp_files + files, size_bytes=freed.size_bytes + size)


def _first_rows(inputs: Tensors | Tensor, rows: int = 8) -> Tensors | Tensor:
    return inputs[:rows] if isinstance(inputs, np.ndarray) else {n: t[:rows] for n, t in inputs.items()}


def _save_dataset(dataset: Dataset, path: Path, names: Sequence[str]) -> DatasetSpec:
    inputs = {names[0]: dataset.inputs} if isinstance(dataset.inputs, np.ndarray) else dataset.inputs
    arrays = {f"input_{n}": _plain(t) for n, t in inputs.items()}
    if dataset.labels is not None:
        arrays["label"] = _plain(dataset.labels)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    label = None if dataset.labels is None else "label"
    return DatasetSpec(path.name, {n: f"input_{n}" for n in inputs}, label)


def _plain(array: Tensor) -> Tensor:
    """Strings as fixed-width unicode, so that the file needs no pickle."""
    array = np.asarray(array)
    if array.dtype != object:
        return array
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel()]).reshape(array.shape)
