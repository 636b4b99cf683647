"""From plain values to a checked definition: keys, steps, files, checksums, dataset, trust."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from modelyard.domain.artifacts import Precision
from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput, ModelyardError, Rejected
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec, Definition, Description, SourceSpec, StepSpec
from modelyard.manifest import datasets, python_files, sources
from modelyard.manifest.folder import Folder, sha256_of
from modelyard.manifest.frameworks import EXCHANGE_FORMATS, FRAMEWORK_OF, parse_framework
from modelyard.manifest.problems import KeyPath, Problems, describe, nearest
from modelyard.manifest.schema import REQUIRED, DatasetModel, Manifest, SourceModel, TensorModel
from modelyard.manifest.sources import FORMATS
from modelyard.manifest.step_options import AFTER, BEFORE, StepOptions
from modelyard.manifest.steps import Phase, Pipeline
from modelyard.manifest.yaml_text import Plain

_T = TypeVar("_T")
_BATCH: Final = "batch"


def build(
    value: Mapping[str, Plain], base: Path, problems: Problems, trust: bool
) -> tuple[Definition, Description, dict[str, Path], tuple[str, ...]]:
    """Check everything the manifest says and the files it names; all problems are told in one InvalidInput."""
    return _Build(value, Folder(base), problems, trust).result()


@dataclass
class _Build:
    value: Mapping[str, Plain]
    folder: Folder
    problems: Problems
    trust: bool
    files: dict[str, Path] = field(default_factory=dict)
    source_files: dict[str, None] = field(default_factory=dict)
    untrusted: str = ""

    def result(self) -> tuple[Definition, Description, dict[str, Path], tuple[str, ...]]:
        manifest = self._manifest()
        signature = self._signature(manifest)
        source = self._source(manifest.source) if manifest.source else None
        framework, constraint = self._framework(manifest, source)
        pre = self._steps("preprocess", manifest.preprocess or [], BEFORE)
        post = self._steps("postprocess", manifest.postprocess or [], AFTER)
        outer = self._pipeline(("preprocess",), pre, Phase.BEFORE, signature) if signature else None
        if signature:
            self._pipeline(("postprocess",), post, Phase.AFTER, signature)
        dataset = self._dataset(manifest.dataset, signature, outer or signature) if manifest.dataset else None
        if manifest.metrics and not (manifest.dataset and manifest.dataset.label):
            self.problems.add(("metrics",), "claimed metrics are checked, so they need a dataset with a label")
        for i, name in enumerate(manifest.files or []):
            self._attempt(("files", i), lambda name=name: self._take(name))  # type: ignore[misc]
        card = self._card(manifest)
        self.problems.raise_if_any()
        if source is None or signature is None:  # unreachable: both are required keys, so a problem was raised
            raise InvalidInput(f"{self.problems.source_name} is incomplete")
        if self.untrusted:
            raise Rejected(
                f"'{self.untrusted}' is a pickle, which runs code when it is loaded",
                why="neither the manifest nor the command trusts it",
                hint="save it with skops.io.dump (.skops), or allow it with `--trust`, or `trust: true` in the "
                "source, if you know who made it",
            )
        definition = Definition(
            name=manifest.name,
            framework=framework,
            source=source,
            signature=signature,
            task=manifest.task,
            framework_constraint=constraint,
            preprocess=pre,
            postprocess=post,
            dataset=dataset,
            metrics=dict(manifest.metrics or {}),
            slo=Slo(manifest.slo.p99_ms, manifest.slo.rate_rps) if manifest.slo else None,
            convert=tuple(manifest.convert),
        )
        description = Description(
            description=manifest.description,
            license=manifest.license,
            authors=tuple(manifest.authors or ()),
            references=tuple(manifest.references or ()),
            tags=tuple(manifest.tags or ()),
            card=card,
        )
        return definition, description, dict(sorted(self.files.items())), tuple(self.source_files)

    def _manifest(self) -> Manifest:
        for key in REQUIRED:
            if self.value.get(key) is None and ((key,) not in self.problems.lines):
                self.problems.add((key,), "this key is required", line=1)
            elif self.value.get(key) is None:
                self.problems.add((key,), "expected a value, got nothing")
        # A key without a value is as if it were not there.
        value: dict[str, Plain] = {key: item for key, item in self.value.items() if item is not None}
        for key in self.value.keys() - value.keys() - Manifest.model_fields.keys() - {"apiVersion"}:
            value[key] = None
        try:
            return Manifest.model_validate(value)
        except ValidationError as error:
            self.problems.add_validation((), Manifest, error)
            wrong = {detail["loc"][0] for detail in error.errors()}
            if "convert" in wrong:
                self._doubt_targets(value["convert"])
        # Go on with the sections that are right, so that one run tells all problems.
        return Manifest.model_validate({key: item for key, item in value.items() if key not in wrong})

    def _doubt_targets(self, targets: Plain) -> None:
        """Name beside a wrong target those that only a plug-in could make, so that one run tells all."""
        for i, text in enumerate(targets if isinstance(targets, list) else []):
            target = text.partition(":")[0] if isinstance(text, str) else ""
            known = target in FORMATS or target in set(Precision) or target in ("", "auto")
            if not known and ("convert", i) not in self.problems.paths:
                self.problems.add(("convert", i), f"no known format '{target}', unless a plug-in converts to it")

    def _signature(self, manifest: Manifest) -> Signature | None:
        for side, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
            seen: set[str] = set()
            for i, tensor in enumerate(tensors or []):
                if tensor.name in seen:
                    self.problems.add((side, i, "name"), f"another of the {side} is called '{tensor.name}' too")
                seen.add(tensor.name)
        if manifest.inputs is None or manifest.outputs is None:
            return None
        self._check_batch(manifest.inputs, manifest.outputs)
        return Signature(tuple(map(_spec, manifest.inputs)), tuple(map(_spec, manifest.outputs)))

    def _check_batch(self, inputs: list[TensorModel], outputs: list[TensorModel]) -> None:
        """An output's `batch` is that of the inputs. Other symbols may be the outputs' own: a count of boxes, say."""
        known = {dim: None for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
        for i, tensor in enumerate(outputs):
            if _BATCH in tensor.shape and _BATCH not in known:
                symbols = ", ".join(f"'{symbol}'" for symbol in known)
                self.problems.add(
                    ("outputs", i, "shape"),
                    f"'{_BATCH}' is a dimension of no input; give it to the input whose rows the output has, or write "
                    + (f"one of their symbols ({symbols}) or " if symbols else "")
                    + "a number",
                )

    def _source(self, source: SourceModel) -> SourceSpec | None:
        found = self._attempt(("source", "path"), lambda: self._take(source.path, source=True))
        if source.factory:
            self._take_python(("source", "factory"), source.factory, source=True)
        if not found:
            return None
        name, path = found
        format_ = self._attempt(
            ("source", "format") if source.format else ("source", "path"),
            lambda: sources.detect_format(path, factory=source.factory is not None, declared=source.format),
        )
        if source.sha256 and (digest := sha256_of(path)) != source.sha256:
            self.problems.add(
                ("source", "sha256"),
                f"'{name}' has another checksum: expected {source.sha256}, the file has {digest}; "
                "take the right file, or correct the checksum",
            )
        if not format_:
            return None
        for companion in self._attempt(("source", "path"), lambda: sources.companions(path, name, format_)) or []:
            self._attempt(("source", "path"), lambda c=companion: self._take(c, source=True))  # type: ignore[misc]
        trusted = source.trust or self.trust or source.factory is not None
        if sources.is_pickle(path) and not trusted:
            self.untrusted = name
        options = {"factory": source.factory} if source.factory else {}
        if source.classes is not None:
            options["classes"] = json.dumps(source.classes)
        return SourceSpec(format_, name, options, trusted)

    def _framework(self, manifest: Manifest, source: SourceSpec | None) -> tuple[str, str]:
        writes = FRAMEWORK_OF[source.format] if source else ""
        if manifest.framework is None:
            return writes, ""
        name, constraint = parse_framework(manifest.framework)
        if source and name != writes and source.format not in EXCHANGE_FORMATS:
            self.problems.add(("framework",), f"'{source.entry}' is {source.format}, which is {writes}, not {name}")
        return name, constraint

    def _steps(self, key: str, steps: list[Any], kinds: Mapping[str, type[StepOptions]]) -> tuple[StepSpec, ...]:
        result = []
        for i, step in enumerate(steps):
            kind = step.get("kind") if isinstance(step, dict) else None
            if not isinstance(step, dict):
                self.problems.add((key, i), f"expected a mapping of keys to values, got {describe(step)}")
            elif kind is None:
                self.problems.add((key, i), "a step needs a 'kind'" + nearest("", kinds))
            elif not isinstance(kind, str) or kind not in kinds:
                self.problems.add((key, i, "kind"), f"unknown step {describe(kind)}{nearest(str(kind), kinds)}")
            else:
                try:
                    options = kinds[kind].model_validate(step)
                except ValidationError as error:
                    self.problems.add_validation((key, i), kinds[kind], error)
                    continue
                if isinstance(file := getattr(options, "labels_file", None), str):
                    self._attempt((key, i, "labels_file"), lambda file=file: self._take(file))  # type: ignore[misc]
                if isinstance(function := getattr(options, "function", None), str):
                    self._take_python((key, i, "function"), function)
                result.append(StepSpec(kind, {name: item for name, item in step.items() if name != "kind"}))
        return tuple(result)

    def _pipeline(
        self, path: KeyPath, steps: tuple[StepSpec, ...], phase: Phase, signature: Signature
    ) -> Signature | None:
        """Check that the steps fit each other and the model. Their Python code is not run."""
        if any(found[:1] == path for found in self.problems.paths):
            return None
        return self._attempt(path, lambda: Pipeline.build(steps, self.folder.base, phase).outer_signature(signature))

    def _dataset(
        self, dataset: DatasetModel, signature: Signature | None, outer: Signature | None
    ) -> DatasetSpec | None:
        """The dataset covers the model's inputs, or the raw ones that only preprocessing knows, or both."""
        found = self._attempt(("dataset", "path"), lambda: self._take(dataset.path))
        inputs = dict(dataset.inputs)
        specs = signature.inputs if signature else ()
        if signature and outer:
            names = [spec.name for spec in specs]
            raw = [spec for spec in outer.inputs if spec.name not in names and spec.name in inputs]
            known = [*names, *(spec.name for spec in outer.inputs if spec.name not in names)]
            for name in inputs.keys() - set(known):
                self.problems.add(("dataset", "inputs", name), f"the model has no input '{name}'{nearest(name, known)}")
            if raw and not inputs.keys() & set(names):
                specs = tuple(raw)
            else:
                specs = (*specs, *raw)
                for name in names:
                    inputs.setdefault(name, name)  # an array called like the input feeds it
        headers = self._attempt(("dataset", "path"), lambda: datasets.read_headers(found[1])) if found else None
        if not found or headers is None:
            return None
        for name, error in datasets.check_inputs(headers, inputs, specs):
            self.problems.add_error(("dataset", "inputs", name), error)
        if dataset.label is not None and (wrong := datasets.check_label(headers, dataset.label, inputs)):
            self.problems.add_error(("dataset", "label"), wrong)
        for dim, error in datasets.check_lengths(found[1], dataset.lengths, headers, inputs, specs):
            self.problems.add_error(("dataset", "lengths", dim), error)
        return DatasetSpec(found[0], inputs, dataset.label, dataset.lengths)

    def _card(self, manifest: Manifest) -> str:
        if isinstance(manifest.card, str):
            return manifest.card
        path = manifest.card.path
        return self._attempt(("card", "path"), lambda: _text(self.folder.file(path)[1])) or ""

    def _take(self, text: str, *, source: bool = False) -> tuple[str, Path]:
        """Make a file one of the version's."""
        name, path = self.folder.file(text)
        self.files[name] = path
        if source:
            self.source_files[name] = None
        return name, path

    def _take_python(self, path: KeyPath, reference: str, *, source: bool = False) -> None:
        found = self._attempt(path, lambda: python_files.python_files(reference, self.folder)) or {}
        self.files.update(found)
        if source:
            self.source_files.update(dict.fromkeys(found))

    def _attempt(self, path: KeyPath, check: Callable[[], _T]) -> _T | None:
        """Run a check; what it raises on purpose becomes a problem at `path`."""
        try:
            return check()
        except ModelyardError as error:
            self.problems.add_error(path, error)
            return None


def _spec(tensor: TensorModel) -> TensorSpec:
    return TensorSpec(tensor.name, Datatype(tensor.datatype), tuple(tensor.shape))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidInput(f"'{path.name}' is not readable UTF-8 text", why=str(error)) from error
