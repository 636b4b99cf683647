"""Files on their way into the hub: where they are, what they contain, and which paths they may have."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelyard.domain.artifacts import ArtifactFile
from modelyard.domain.errors import InvalidInput
from modelyard.hub.blobs import hash_file

_MAX_PATH = 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to be stored: its path in the version or artifact, where its content is, and what that is."""

    entry: ArtifactFile
    source: Path

    @classmethod
    def read(cls, path: str, source: Path) -> LocalFile:
        """Hash `source`. Raises InvalidInput where it cannot be read."""
        try:
            if not source.exists():
                raise InvalidInput(f"'{source}' does not exist", hint=f"check the path given for '{path}'")
            if not source.is_file():
                raise InvalidInput(f"'{source}' is not a regular file", hint=f"check the path given for '{path}'")
            blob = hash_file(source)
        except OSError as error:
            raise InvalidInput(
                f"'{source}' cannot be read", why=error.strerror or str(error), hint="check its mode and owner"
            ) from error
        return cls(ArtifactFile(path, blob.digest, blob.size_bytes), source)


def read_files(files: Mapping[str, Path]) -> tuple[LocalFile, ...]:
    """Check the paths of `files` and hash them, sorted by path. Links are followed. Raises InvalidInput."""
    check_paths(files)
    return tuple(LocalFile.read(path, Path(files[path])) for path in sorted(files))


def read_directory(directory: Path) -> tuple[LocalFile, ...]:
    """Hash all files below a directory that other people's code may have written.

    Only regular files with one link are accepted: a link could bring any file of this machine into the hub.
    Raises InvalidInput.
    """
    found: dict[str, Path] = {}
    try:
        for folder, folders, names in os.walk(directory, onerror=_raise):
            for name in [*folders, *names]:
                path = Path(folder) / name
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    continue
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    raise InvalidInput(
                        f"'{path}' is a link or a special file",
                        why="an artifact holds regular files only",
                        hint="replace it by a copy of the file",
                    )
                found[path.relative_to(directory).as_posix()] = path
    except OSError as error:
        raise InvalidInput(f"'{directory}' cannot be read", why=str(error), hint="check that it exists") from error
    return read_files(found)


def check_paths(paths: Mapping[str, Path]) -> None:
    """Raise InvalidInput unless every path is relative, normal and inside, and none is a folder of another."""
    for path in paths:
        pure = PurePosixPath(path)
        normal = pure.as_posix() == path and ".." not in pure.parts and path != "."
        if pure.is_absolute() or not normal or "\\" in path or not path.isprintable() or len(path) > _MAX_PATH:
            raise InvalidInput(
                f"'{path}' cannot be a path in a version",
                why="it must be relative and inside the version's directory",
                hint="write e.g. model.onnx or weights/model.bin, without .. and without a leading /",
            )
        for parent in pure.parents:
            if parent.as_posix() in paths:
                raise InvalidInput(f"'{parent}' is both a file and the folder of '{path}'", hint="rename one of them")


def _raise(error: OSError) -> None:
    raise error
