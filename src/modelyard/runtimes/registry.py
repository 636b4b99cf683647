"""All runtimes by name: the built-in ones, and what other packages register under the entry points group."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from typing import Final

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import Conflict, Unsupported
from modelyard.runtimes.lightgbm import LightgbmRuntime
from modelyard.runtimes.loading import summary
from modelyard.runtimes.onnxruntime import OnnxRuntime
from modelyard.runtimes.openvino import OpenvinoRuntime
from modelyard.runtimes.ports import Availability, Predictor, Runtime, RuntimeOptions
from modelyard.runtimes.sklearn import SklearnRuntime
from modelyard.runtimes.torch import TorchRuntime
from modelyard.runtimes.xgboost import XgboostRuntime

ENTRY_POINTS: Final = "modelyard.runtimes"
"""Group of entry points whose objects, called without arguments, give a Runtime."""


class Runtimes:
    """The runtimes this installation knows, in order of preference: for a format, the first is the default."""

    def __init__(self, runtimes: Iterable[Runtime]) -> None:
        self._by_name: dict[str, Runtime] = {}
        for runtime in runtimes:
            if runtime.name in self._by_name:
                raise Conflict(
                    f"two runtimes are named '{runtime.name}'",
                    hint=f"uninstall the package that registers it under {ENTRY_POINTS}",
                )
            self._by_name[runtime.name] = runtime

    @classmethod
    def discover(cls) -> Runtimes:
        """The built-in runtimes and those of installed packages. A plug-in that cannot be imported is kept as
        unavailable, with its reason, so that `yard doctor` shows it and the others keep working."""
        plugins = [_from_entry_point(entry) for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]
        return cls([*_built_in(), *plugins])

    def get(self, name: str) -> Runtime:
        """The runtime of that name. Raises Unsupported listing the known ones."""
        try:
            return self._by_name[name]
        except KeyError:
            raise Unsupported(
                f"there is no runtime '{name}'", hint=f"known runtimes: {', '.join(self._by_name)}"
            ) from None

    def for_format(self, format: str) -> list[Runtime]:  # noqa: A002 - the vocabulary's word
        """The runtimes that execute a format, whether installed or not."""
        return [runtime for runtime in self._by_name.values() if format in runtime.formats]

    def __iter__(self) -> Iterator[Runtime]:
        return iter(self._by_name.values())


def _built_in() -> list[Runtime]:
    return [
        OnnxRuntime(),
        OpenvinoRuntime(),
        TorchRuntime(),
        SklearnRuntime(),
        XgboostRuntime(),
        LightgbmRuntime(),
    ]


def _from_entry_point(entry: importlib.metadata.EntryPoint) -> Runtime:
    try:
        runtime: Runtime = entry.load()()
    except Exception as error:  # noqa: BLE001 - boundary to foreign code: a plug-in's import may raise anything
        package = entry.dist.name if entry.dist else entry.value
        return BrokenRuntime(entry.name, package, summary(error))
    return runtime


class BrokenRuntime:
    """Stands for a registered runtime whose package does not work."""

    formats: frozenset[str] = frozenset()

    def __init__(self, name: str, package: str, reason: str) -> None:
        self.name = name
        self._package = package
        self._reason = reason

    def availability(self) -> Availability:
        return Availability(
            False,
            reason=f"the plug-in of package '{self._package}' cannot be imported: {self._reason}",
            hint=f"upgrade or uninstall {self._package}",
        )

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> Predictor:  # noqa: ARG002 - the Protocol's
        availability = self.availability()
        raise Unsupported(f"runtime '{self.name}' is broken", why=availability.reason, hint=availability.hint)
