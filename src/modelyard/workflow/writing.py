"""Files that users ask for: written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.domain.errors import BackendFailed


@contextmanager
def whole_file(path: Path, option: str) -> Iterator[Path]:
    """A new file beside `path` to write into, put in its place when the block ends well: no reader finds half a file.

    Folders on the way are made. Raises BackendFailed, naming the `option` that another path can be given with.
    """
    path = path.absolute()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BackendFailed(f"{path} cannot be written", why=str(error), hint=f"give another {option}") from error
