"""Builds an eager PyTorch module by the factory function that lies in the artifact's directory."""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput, Rejected
from modelyard.runtimes.loading import summary

_IMPORTING: Final = threading.RLock()  # sys.path and sys.modules belong to the whole process
_TRUST_HINT: Final = "if you trust the author, allow code with `--trust`, or `trust: true` in the manifest's source"


def build_from_factory(artifact: LocalArtifact) -> Any:
    """Call the factory `module:function` of the artifact's options and return what it builds, a `torch.nn.Module`.

    The module file, and files beside it that it imports, are loaded under names of their own per directory, so that
    two versions of a model with equal file names live in one process. Nothing is written (no bytecode cache), and
    `sys.path` is as before afterwards: the factory's files must do their imports at import time or inside the factory.
    Raises Rejected (not trusted), InvalidInput (no such file or function, or the code failed).
    """
    factory = artifact.options.get("factory", "")
    module_name, _, function_name = factory.partition(":")
    if not module_name.isidentifier() or not function_name.isidentifier():
        raise InvalidInput(
            f"'{factory}' names no factory",
            hint='write "net:build" for the function build in net.py beside the weights',
        )
    if not artifact.trusted:
        raise Rejected(f"the factory {factory} is Python code and the artifact is not trusted", hint=_TRUST_HINT)
    directory = Path(artifact.directory).resolve()
    if not (directory / f"{module_name}.py").is_file() and not (directory / module_name / "__init__.py").is_file():
        raise InvalidInput(f"there is no {module_name}.py beside the model file", hint="list it in the source's files")
    with _IMPORTING, _isolated_imports(directory):
        try:
            module = importlib.import_module(module_name)
            build = getattr(module, function_name, None)
            if not callable(build):
                raise InvalidInput(f"{module_name}.py has no function {function_name}")
            built = build()
        except InvalidInput:
            raise
        except Exception as error:  # boundary to the user's code
            raise InvalidInput(
                f"the factory {factory} failed",
                why=f"{type(error).__name__}: {summary(error)}",
                hint="run it by itself",
            ) from error
    import torch

    if not isinstance(built, torch.nn.Module):
        raise InvalidInput(f"the factory {factory} built a {type(built).__name__}", hint="return a torch.nn.Module")
    return built


@contextmanager
def _isolated_imports(directory: Path) -> Iterator[None]:
    """Imports come from `directory` first; afterwards its modules are known only under a prefix of its own."""
    own = {path.stem for path in directory.glob("*.py")} | {
        path.parent.name for path in directory.glob("*/__init__.py")
    }
    if clash := own & (sys.stdlib_module_names | {"numpy", "torch", "safetensors", "modelyard"}):
        raise InvalidInput(f"{sorted(clash)[0]}.py would hide a module of that name", hint="rename the file")

    def pop() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}

    others = pop()  # a module of the same name that the program itself, or another version, has imported
    wrote_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.path_importer_cache.pop(str(directory), None)
        sys.dont_write_bytecode = wrote_bytecode
        prefix = f"_modelyard_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
        for name, module in pop().items():
            # torch.export looks modules up by their __name__, so they must stay importable under the new one
            module.__name__ = f"{prefix}_{name}"
            sys.modules[module.__name__] = module
        sys.modules.update(others)
