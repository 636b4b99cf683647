"""Where a replica's models come from: its spec, and a directory that may change while it runs.

In the directory `M/V.json` is version V of model M (a ServedModel), and `M/policy.json` the model's VersionPolicy.

Operators write the directory; clients only ever give names, which are looked up among what was found.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from modelyard.domain.errors import InvalidInput, ModelyardError
from modelyard.domain.services import ServedModel, VersionPolicy
from modelyard.serving.models import policy as policies
from modelyard.serving.models import strict

_T = TypeVar("_T")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}\.json")
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_MAX_FILES: Final = 10_000
"""Files of an artifact that a fingerprint looks at."""
OVERRIDABLE: Final = ("batching", "queue", "threads", "instances", "weight", "cache_bytes", "coalesce")
"""Settings that a client may change when it loads a model: how it is scheduled, never what is run or from where."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model's versions: those that can be tried, and why the others cannot; its policy, or why that is none."""

    versions: dict[int, ServedModel] = field(default_factory=dict)
    invalid: dict[int, ModelyardError] = field(default_factory=dict)
    policy: VersionPolicy | None = None
    policy_error: ModelyardError | None = None

    @property
    def numbers(self) -> set[int]:
        """All versions, those that cannot be tried included."""
        return {*self.versions, *self.invalid}


def listed(models: tuple[ServedModel, ...]) -> dict[str, Found]:
    """The models of a spec. Raises InvalidInput for a version listed twice."""
    found: dict[str, Found] = {}
    for served in models:
        versions = found.setdefault(served.name, Found()).versions
        if served.version in versions:
            raise InvalidInput(f"model '{served.name}' version {served.version} is listed twice")
        if served.version < 1:
            raise InvalidInput(f"model '{served.name}' has version {served.version}", hint="versions are 1 or more")
        versions[served.version] = served
    return found


def scan(directory: str) -> dict[str, Found]:
    """The models of a repository directory. Blocking. Raises InvalidInput where it cannot be read at all.

    A file that is wrong spoils only its own version.
    """
    root = Path(directory)
    try:
        folders = sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())
        return {folder.name: _folder(root.resolve(), folder) for folder in folders}
    except OSError as error:
        raise InvalidInput(f"cannot read the model repository {directory}", why=str(error)) from error


def troubles(directory: str, besides: str = "") -> list[ModelyardError]:
    """Why models cannot be served, as far as their files tell: an error for each, `besides` one. Blocking.

    A model of which one wanted version may load is none of them. Raises InvalidInput as `scan`.
    """
    found = (_trouble(name, model) for name, model in scan(directory).items() if name != besides)
    return [error for error in found if error is not None]


def _trouble(name: str, found: Found) -> ModelyardError | None:
    policy = found.policy or policies.LATEST
    try:
        if found.policy_error is not None:
            raise found.policy_error
        policies.check(name, policy, found.numbers)
    except ModelyardError as error:
        return error
    wanted = sorted(policies.wanted(policy, found.numbers))
    errors = [found.invalid[n] if n in found.invalid else _absent(found.versions[n]) for n in wanted]
    return errors[-1] if errors and None not in errors else None


def _absent(served: ServedModel) -> ModelyardError | None:
    artifact = served.artifact
    file = Path(artifact.directory, artifact.entry)
    which = f"model '{served.name}' version {served.version}"
    return None if file.exists() else InvalidInput(f"{which} has no artifact", why=f"there is no file {file}")


def _folder(root: Path, folder: Path) -> Found:
    policy, policy_error = None, None
    try:
        policy = _policy(root, folder / "policy.json")
    except ModelyardError as error:
        policy_error = error
    found = Found(policy=policy, policy_error=policy_error)
    for file in sorted(folder.iterdir()):
        if not _VERSION.fullmatch(file.name):
            continue
        version = int(file.stem)
        try:
            found.versions[version] = _read(root, file, folder.name, version)
        except ModelyardError as error:
            found.invalid[version] = error
    return found


def _policy(root: Path, file: Path) -> VersionPolicy | None:
    return _decoded(root, file, VersionPolicy) if file.is_symlink() or file.exists() else None


def _decoded(root: Path, file: Path, kind: type[_T]) -> _T:
    """A JSON file of the repository. Raises InvalidInput."""
    name = f"{file.parent.name}/{file.name}"
    try:
        if not file.resolve(strict=True).is_relative_to(root):
            raise InvalidInput(f"{name} leads out of the model repository")
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidInput(f"{name} exceeds {_MAX_FILE_BYTES} bytes")
        return strict.decode(file.read_bytes(), kind)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInput(f"cannot read {name} of the model repository", why=str(error)) from error


def _read(root: Path, file: Path, name: str, version: int) -> ServedModel:
    served = _decoded(root, file, ServedModel)
    if (served.name, served.version) != (name, version):
        raise InvalidInput(
            f"{name}/{file.name} describes model '{served.name}' version {served.version}",
            hint="name the file MODEL/VERSION.json",
        )
    artifact = replace(served.artifact, directory=_inside(root, file.parent, served.artifact.directory, file))
    entry = Path(artifact.directory, artifact.entry)
    if not entry.resolve().is_relative_to(Path(artifact.directory).resolve()):
        raise InvalidInput(f"{name}/{file.name}: 'entry' leads out of the artifact's directory")
    steps = served.steps_directory and _inside(root, file.parent, served.steps_directory, file)
    return replace(served, artifact=artifact, steps_directory=steps)


def _inside(root: Path, base: Path, given: str, file: Path) -> str:
    """A relative path is one of the repository and stays in it; an absolute one is as the operator wrote it."""
    if Path(given).is_absolute():
        return given
    path = Path(base, given).resolve()
    if not path.is_relative_to(root):
        raise InvalidInput(
            f"{file.parent.name}/{file.name}: '{given}' leads out of the model repository",
            hint="write an absolute path",
        )
    return str(path)


def overridden(served: ServedModel, override: dict[str, Any]) -> ServedModel:
    """The model with some of its settings changed. Raises InvalidInput for others than `OVERRIDABLE`."""
    unknown = sorted(set(override) - set(OVERRIDABLE))
    if unknown:
        raise InvalidInput(
            f"failed to load '{served.name}', setting '{unknown[0]}' cannot be overridden",
            hint=f"these can: {', '.join(OVERRIDABLE)}",
        )
    plain = msgspec.to_builtins(served)
    for key, value in override.items():
        plain[key] = {**plain[key], **value} if isinstance(plain[key], dict) and isinstance(value, dict) else value
    try:
        changed = msgspec.convert(plain, ServedModel)
    except (msgspec.ValidationError, ModelyardError) as error:
        raise InvalidInput(f"failed to load '{served.name}', the override is wrong", why=str(error)) from error
    if changed.threads < 1 or changed.instances < 1 or changed.weight <= 0 or changed.cache_bytes < 0:
        raise InvalidInput(
            f"failed to load '{served.name}', the override is wrong",
            why="threads and instances are 1 or more, weight above 0, cache_bytes 0 or more",
        )
    return replace(changed, artifact=served.artifact)


def fingerprint(served: ServedModel) -> tuple[object, ...]:
    """Name, size and modification time of the artifact's and the steps' files: what tells changed ones. Blocking."""
    seen: list[object] = []
    roots = dict.fromkeys(root for root in (served.artifact.directory, served.steps_directory) if root)
    for directory, folders, files in chain.from_iterable(map(os.walk, roots)):
        folders.sort()
        for name in sorted(files):
            try:
                status = os.stat(os.path.join(directory, name))  # noqa: PTH116, PTH118 - os.walk's own strings
            except OSError:
                continue  # it went while we looked: the next look differs
            seen.append((directory, name, status.st_size, status.st_mtime_ns))
            if len(seen) >= _MAX_FILES:
                return tuple(seen)
    return tuple(seen)
