"""Python code of a version, named `module:function`: found and checked by its syntax tree, never imported here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from modelyard.domain.errors import InvalidInput
from modelyard.manifest.folder import Folder
from modelyard.manifest.problems import nearest

_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def split_reference(text: str) -> tuple[str, str]:
    """Split `module:function`. Raises InvalidInput."""
    if not _REFERENCE.fullmatch(text):
        raise InvalidInput(f"'{text}' does not name a function", hint="write 'module:function', e.g. 'net:build'")
    module, _, function = text.partition(":")
    return module, function


def module_path(module: str) -> str:
    """The file of a module relative to the version's folder: `pkg.net` is `pkg/net.py`."""
    return module.replace(".", "/") + ".py"


def python_files(reference: str, folder: Folder) -> dict[str, Path]:
    """The file of `module:function` and those beside it that it imports, by name.

    Raises InvalidInput where the module is missing, has a syntax error or does not define the function.
    """
    module, function = split_reference(reference)
    name, path = folder.file(module_path(module))
    tree = _parse(name, path)
    defined = set(_top_level_names(tree))
    if function not in defined:
        raise InvalidInput(
            f"{name} does not define '{function}'" + (nearest(function, sorted(defined)) if defined else "")
        )
    files: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in files:
            continue
        _, files[current] = folder.file(current)
        waiting += _neighbours(_parse(current, files[current]), current, folder)
    return dict(sorted(files.items()))


def _parse(name: str, path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=name)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not valid Python", why=str(error), hint="correct the file") from error


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0]
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _neighbours(tree: ast.Module, name: str, folder: Folder) -> list[str]:
    """Files of the manifest's folder that the module imports (the module works from its folder, as a script does)."""
    parent = PurePosixPath(name).parent
    wanted: list[PurePosixPath] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [PurePosixPath(*alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = PurePosixPath(".")
            if node.level:
                base = parent
                for _ in range(node.level - 1):
                    base = base.parent
            base = base.joinpath(*(node.module or "").split(".")) if node.module else base
            wanted += [base, *(base / alias.name for alias in node.names)]
    found = [str(path) + ".py" for path in wanted if path != PurePosixPath(".")]
    packages = [str(parent / "__init__.py") for path in wanted for parent in (path, *path.parents)]
    # Non-empty files only: an empty __init__.py says nothing that a namespace package does not.
    return [file for file in found + packages if folder.exists(file) and (folder.base / file).stat().st_size > 0]
