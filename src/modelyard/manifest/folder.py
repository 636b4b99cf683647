"""The manifest's folder: every file of a version is a plain file inside it, named by a relative path."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path, PurePosixPath

from modelyard.domain.errors import InvalidInput, NotFound

_CHUNK_BYTES = 1024 * 1024


class Folder:
    """Resolves the relative paths of a manifest. Nothing outside the folder is ever opened."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._real = base.resolve()

    def name(self, text: str) -> str:
        """Return `text` as a clean POSIX path relative to the folder. Raises InvalidInput if it leads outside."""
        path = PurePosixPath(text)
        if not text.strip() or "\0" in text or path == PurePosixPath("."):
            raise InvalidInput("an empty path names no file", hint="give a file's path relative to the manifest")
        if path.is_absolute() or ".." in path.parts:
            raise InvalidInput(
                f"'{text}' leads outside the manifest's folder",
                hint=f"copy the file beside the manifest and write its relative path, e.g. {path.name}",
            )
        return str(path)

    def file(self, text: str) -> tuple[str, Path]:
        """Return the clean name and the local path of a readable, non-empty, regular file.

        Raises NotFound where it does not exist, InvalidInput where it cannot be a file of a version.
        """
        name = self.name(text)
        path = self.base / name
        try:
            real = path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"file '{name}' does not exist", why=f"looked in {self.base}", hint=self._hint(name)
            ) from None
        except (OSError, RuntimeError) as error:
            raise InvalidInput(f"'{name}' cannot be opened", why=str(error), hint="check the path and links") from error
        if not real.is_relative_to(self._real):
            raise InvalidInput(
                f"'{name}' is a link that leads outside the manifest's folder",
                hint="replace the link by a copy of the file",
            )
        if real.is_dir():
            raise InvalidInput(f"'{name}' is a directory", hint="give a file")
        if not real.is_file():
            raise InvalidInput(f"'{name}' is not a regular file", hint="give a plain file, no pipe or device")
        if real.stat().st_size == 0:
            raise InvalidInput(f"file '{name}' is empty", hint="write it again; was the disk full?")
        try:
            real.open("rb").close()
        except OSError as error:
            raise InvalidInput(f"file '{name}' cannot be read", why=str(error), hint="check its permissions") from error
        return name, path

    def exists(self, text: str) -> bool:
        """Whether `text` names a file inside the folder."""
        return (self.base / self.name(text)).is_file()

    def _hint(self, name: str) -> str:
        parent = (self.base / name).parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        wanted = PurePosixPath(name)
        close = difflib.get_close_matches(wanted.name, names, n=1, cutoff=0.6)
        if close:
            return f"did you mean '{wanted.with_name(close[0])}'?"
        return "create it (run the script that makes it) or correct the path"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
