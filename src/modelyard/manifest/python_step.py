"""A step in the version's own Python code: `def function(tensors: dict[str, ndarray]) -> dict[str, ndarray]`."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from modelyard.domain.errors import BackendFailed, InvalidInput
from modelyard.manifest.folder import Folder
from modelyard.manifest.python_files import module_path, split_reference
from modelyard.manifest.step import Arrays, Specs, irreversible
from modelyard.manifest.step_options import parse_spec

_IMPORTING = threading.Lock()


class PythonStep:
    """Calls a function of a module in the version's directory, loaded by the first `apply`."""

    kind = "python"

    def __init__(self, reference: str, declared: list[str] | None, directory: Path) -> None:
        self._reference = reference
        self._declared = None if declared is None else {spec.name: spec for spec in map(parse_spec, declared)}
        self._directory = directory
        self._function: Callable[[Arrays], object] | None = None

    def specs_before(self, specs: Specs) -> Specs:
        return specs if self._declared is None else dict(self._declared)

    specs_after = specs_before

    def apply(self, arrays: Arrays) -> Arrays:
        """Run the function. InvalidInput and ValueError from it are the client's fault, all else its own."""
        if self._function is None:
            self._function = self._load()
        try:
            result = self._function(arrays)
        except InvalidInput:
            raise
        except ValueError as error:
            raise InvalidInput(f"step {self._reference} refused the request", why=str(error)) from error
        except Exception as error:
            raise BackendFailed(
                f"step {self._reference} failed",
                why=f"{type(error).__name__}: {error}",
                hint="correct the function, register the model again",
            ) from error
        if not isinstance(result, dict) or not all(isinstance(item, np.ndarray) for item in result.values()):
            raise BackendFailed(
                f"step {self._reference} returned {type(result).__name__}",
                why="a step returns a dict of numpy arrays by tensor name",
                hint="correct the function, register the model again",
            )
        return result

    def undo(self, arrays: Arrays) -> Arrays:
        raise irreversible(f"python {self._reference}", arrays)

    def _load(self) -> Callable[[Arrays], object]:
        module_name, function_name = split_reference(self._reference)
        _, path = Folder(self._directory).file(module_path(module_name))
        with _IMPORTING:
            module = _import(module_name, path, self._directory)
        function: Any = getattr(module, function_name, None)
        if not callable(function):
            raise InvalidInput(f"{path.name} does not define a function '{function_name}'")
        return function  # type: ignore[no-any-return]


def _import(name: str, path: Path, directory: Path) -> ModuleType:
    """Import a module under a private name; what it imports from its directory stays hidden from other versions."""
    private = f"_yard_{sha256(str(path).encode()).hexdigest()[:16]}_{name.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path.name} cannot be imported", hint="give a .py file")
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    sys.modules[private] = module  # dataclasses and pickling look their module up
    sys.path.insert(0, str(directory))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[private]
        raise BackendFailed(
            f"{path.name} cannot be imported",
            why=f"{type(error).__name__}: {error}",
            hint="install what it imports beside Modelyard, or correct the module",
        ) from error
    finally:
        sys.path.remove(str(directory))
        for other in set(sys.modules) - known - {private}:
            file = getattr(sys.modules[other], "__file__", None)
            if file and Path(file).is_relative_to(directory):
                del sys.modules[other]
    return module
