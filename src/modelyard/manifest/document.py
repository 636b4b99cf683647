"""A manifest from file to domain values, and back to YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.versions import Definition, Description
from modelyard.manifest import yaml_text
from modelyard.manifest.checks import build
from modelyard.manifest.problems import Problems
from modelyard.manifest.schema import API_VERSION
from modelyard.manifest.yaml_text import Plain


@dataclass(frozen=True)
class ManifestDocument:
    """A checked manifest: what it defines, what it says, and the local files of the version.

    `files` maps each path in the version to the local file: source, factory and step modules, dataset, labels.
    `source_files` are those of them that make up the source artifact.
    """

    definition: Definition
    description: Description
    files: Mapping[str, Path]
    source_files: tuple[str, ...]

    @classmethod
    def of(
        cls,
        definition: Definition,
        description: Description,
        files: Mapping[str, Path],
        source_files: Sequence[str] | None = None,
    ) -> ManifestDocument:
        """A document made in Python, without YAML. Without `source_files` every file but the dataset is source.

        Raises InvalidInput where the definition names a file that `files` lacks.
        """
        dataset = definition.dataset.path if definition.dataset else None
        sources = tuple(source_files) if source_files is not None else tuple(f for f in files if f != dataset)
        for name in (definition.source.entry, *sources, *((dataset,) if dataset else ())):
            if name not in files:
                raise InvalidInput(f"file '{name}' of {definition.name} is not given", hint="add it to files")
        return cls(definition, description, dict(files), sources)


def load(path: Path, *, trust: bool = False) -> ManifestDocument:
    """Read and check a manifest file and the files it names.

    `trust` allows a source that runs code on load (a pickle), as `trust: true` in the manifest does. Raises NotFound
    where there is no such file, InvalidInput with every problem found, Rejected for a pickle without trust.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a directory", hint=f"give the manifest's file, e.g. {path / 'model.yaml'}")
    try:
        with path.open("rb") as file:
            data = file.read(yaml_text.MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no manifest {path}", hint="give the path of a model.yaml") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read", why=str(error), hint="check its permissions") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", why=str(error), hint="save the manifest as UTF-8") from error
    return parse(text, path.parent, str(path), trust=trust)


def parse(text: str, base: Path, source_name: str, *, trust: bool = False) -> ManifestDocument:
    """Check a manifest's text; relative paths are looked up in `base`, errors are told for `source_name`. As `load`."""
    problems = Problems(source_name)
    value = yaml_text.read(text, problems).value
    if not isinstance(value, dict):
        problems.raise_if_any()
        raise InvalidInput(
            f"{source_name} is {'empty' if value is None else 'no mapping of keys to values'}",
            hint="start with 'apiVersion: modelyard/v1' and 'name: ...'",
        )
    definition, description, files, source_files = build(value, base, problems, trust)
    return ManifestDocument(definition, description, files, source_files)


def to_yaml(definition: Definition, description: Description, files: Sequence[str] = ()) -> str:
    """Write a manifest that `parse` reads back to the same values. `files`: extra files for its `files` key."""
    source: dict[str, Plain] = {"path": definition.source.entry, "format": definition.source.format}
    factory = definition.source.options.get("factory")
    if factory:
        source["factory"] = factory
    elif definition.source.trusted:
        source["trust"] = True
    if "classes" in definition.source.options:
        source["classes"] = json.loads(definition.source.options["classes"])
    value: dict[str, Plain] = {
        "apiVersion": API_VERSION,
        "name": definition.name,
        "task": definition.task,
        "framework": definition.framework + definition.framework_constraint,
        "source": source,
        "inputs": [
            {"name": t.name, "datatype": str(t.datatype), "shape": list(t.shape)} for t in definition.signature.inputs
        ],
        "outputs": [
            {"name": t.name, "datatype": str(t.datatype), "shape": list(t.shape)} for t in definition.signature.outputs
        ],
        "preprocess": [{"kind": s.kind, **_plain(s.options)} for s in definition.preprocess],
        "postprocess": [{"kind": s.kind, **_plain(s.options)} for s in definition.postprocess],
    }
    if definition.dataset:
        dataset: dict[str, Plain] = {"path": definition.dataset.path, "inputs": dict(definition.dataset.inputs)}
        if definition.dataset.label is not None:
            dataset["label"] = definition.dataset.label
        if definition.dataset.lengths:
            dataset["lengths"] = dict(definition.dataset.lengths)
        value["dataset"] = dataset
    value["metrics"] = dict(definition.metrics)
    if definition.slo:
        value["slo"] = {"p99_ms": definition.slo.p99_ms, **_rate(definition.slo.rate_rps)}
    value["convert"] = "auto" if definition.convert == ("auto",) else list(definition.convert)
    value |= {"files": list(files), "description": description.description, "license": description.license}
    value |= {"authors": list(description.authors), "references": list(description.references)}
    value |= {"tags": list(description.tags), "card": description.card}
    return yaml_text.dump({key: item for key, item in value.items() if item not in ("", [], {})})


def _plain(options: Mapping[str, object]) -> dict[str, Plain]:
    return {key: list(item) if isinstance(item, (list, tuple)) else item for key, item in options.items()}  # type: ignore[misc]


def _rate(rate_rps: float | None) -> dict[str, Plain]:
    return {} if rate_rps is None else {"rate_rps": rate_rps}
