"""Register a version: check the manifest, run the source in a child, write it to the hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelyard.convert import Claim, ConversionService, Evidence, SourceCheck, plan_targets
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import Rejected
from modelyard.domain.versions import Definition
from modelyard.hub import Hub, Registration
from modelyard.manifest import ManifestDocument, check_framework, load
from modelyard.workflow.progress import Listener, Progress, Step


@dataclass(frozen=True)
class Registering:
    """Turns manifests into versions; nothing is written before the source has shown what its manifest says."""

    hub: Hub
    conversions: ConversionService
    work_dir: Path

    def check(self, path: Path, *, trust: bool, listener: Listener) -> ManifestDocument:
        """Everything `register` checks; writes nothing. Raises InvalidInput, NotFound, Unsupported, Rejected."""
        document = load(path, trust=trust)
        self._verify(document, listener)
        return document

    def register(self, path: Path, *, trust: bool, listener: Listener) -> Registration:
        """Register a manifest file. Raises what `check` raises, BackendFailed where the hub cannot store it."""
        return self.register_document(load(path, trust=trust), listener)

    def register_document(self, document: ManifestDocument, listener: Listener) -> Registration:
        """Register a checked document; identical content gives the version that has it, `created` False."""
        known = self.hub.versions.identical(document.definition, document.files, document.source_files)
        if known is not None:
            listener(Progress(Step.REGISTER, f"the same content is registered already as {known.ref}", 1.0))
            return Registration(known, created=False)
        self._verify(document, listener)
        registration = self.hub.versions.register(
            document.definition, document.description, document.files, document.source_files
        )
        listener(Progress(Step.REGISTER, f"registered {registration.version.ref}", 1.0))
        return registration

    def _verify(self, document: ManifestDocument, listener: Listener) -> None:
        definition = document.definition
        check_framework(definition)
        plan_targets(definition.source.format, definition.framework, definition.convert, has_data=True)
        listener(Progress(Step.REGISTER, f"running {definition.source.entry} on generated and given inputs"))
        with self._staged(document) as directory:
            checked = self.conversions.verify_source(
                local_source(definition, directory), evidence(definition, directory), definition.metrics
            )
        _require(checked, listener)

    @contextmanager
    def _staged(self, document: ManifestDocument) -> Iterator[Path]:
        """All files of the version in one directory, as the hub will give them back."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="register-", dir=self.work_dir) as folder:
            for name, path in document.files.items():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, target)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(path, target)
            yield Path(folder)


def local_source(definition: Definition, directory: Path) -> LocalArtifact:
    """The source artifact as it lies in `directory`."""
    source = definition.source
    return LocalArtifact(
        directory=str(directory),
        entry=source.entry,
        target=Target(source.format),
        precision=Precision.FP32,
        signature=definition.signature,
        options=source.options,
        trusted=source.trusted,
    )


def evidence(definition: Definition, directory: Path) -> Evidence:
    """What equivalence may use of a version whose files are in `directory`: the dataset where it has model inputs."""
    dataset = definition.dataset
    names = {spec.name for spec in definition.signature.inputs}
    if dataset is None or not names <= set(dataset.inputs):
        return Evidence(task=definition.task)
    return Evidence(
        dataset=directory / dataset.path,
        dataset_spec=replace(dataset, inputs={n: a for n, a in dataset.inputs.items() if n in names}),
        metrics=tuple(definition.metrics),
        task=definition.task,
    )


def _require(checked: SourceCheck, listener: Listener) -> None:
    for warning in checked.warnings:
        listener(Progress(Step.REGISTER, f"note: {warning}"))
    for claim in checked.claims:
        listener(Progress(Step.REGISTER, _words(claim)))
    if checked.unmet:
        raise Rejected(
            f"the claimed {checked.unmet[0].metric} is not what the model reaches on its dataset",
            why="; ".join(_words(claim) for claim in checked.unmet),
            hint="correct metrics: in the manifest, or the dataset",
        )


def _words(claim: Claim) -> str:
    claimed = "" if claim.claimed is None else f", claimed {claim.claimed:g}"
    return f"{claim.metric} {claim.measured:.4f} on {claim.rows} rows{claimed}"
