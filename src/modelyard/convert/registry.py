"""All converters by name: the built-in ones, and what other packages register as entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, cast

from modelyard.convert.ports import Converter, Edge
from modelyard.domain.artifacts import Target
from modelyard.domain.errors import Unsupported

ENTRY_POINTS: Final = "modelyard.converters"
"""Group of entry points; each names a module attribute that is a Converter."""

BUILT_IN: Final[Mapping[str, str]] = {
    # In order of preference where a target can be reached equally fast: what builds on ONNX needs no torch.
    "onnx": "modelyard.convert.converters.from_onnx:CONVERTER",
    "openvino": "modelyard.convert.converters.from_openvino:CONVERTER",
    "pytorch": "modelyard.convert.converters.from_pytorch:CONVERTER",
    "sklearn": "modelyard.convert.converters.from_sklearn:CONVERTER",
    "boosting": "modelyard.convert.converters.from_boosting:CONVERTER",
}


@dataclass(frozen=True, slots=True)
class KnownEdge:
    """An edge and where its child finds the converter (`module:attribute`)."""

    edge: Edge
    converter: str


class Converters:
    """The format graph's edges, in order of preference."""

    def __init__(self, references: Mapping[str, str]) -> None:
        """`references`: converter name -> `module:attribute`. Raises Unsupported where one cannot be imported."""
        self._edges = tuple(
            KnownEdge(edge, reference) for reference in references.values() for edge in _load(reference).edges
        )

    @classmethod
    def discover(cls) -> Converters:
        """The built-in converters and those of installed packages, which come after."""
        found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
        return cls({**BUILT_IN, **found})

    @property
    def edges(self) -> Sequence[KnownEdge]:
        return self._edges

    def into(self, target: Target) -> list[KnownEdge]:
        """The edges that end in `target`."""
        return [known for known in self._edges if known.edge.target == target]

    def reachable(self, source_format: str) -> list[Target]:
        """Every target that edges lead to from a source of that format, nearest first."""
        start = Target(source_format)
        found = [start]
        for node in found:
            found += dict.fromkeys(
                k.edge.target for k in self._edges if k.edge.source == node and k.edge.target not in found
            )
        return found[1:]


def _load(reference: str) -> Converter:
    module, _, attribute = reference.partition(":")
    try:
        return cast(Converter, getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise Unsupported(
            f"converter '{reference}' cannot be imported",
            why=str(error),
            hint="uninstall or update the package that registers it",
        ) from error
