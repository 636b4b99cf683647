"""One virtual environment per peer, made once under the cache folder from pinned requirements."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

_DEBIAN = Path("/usr/bin/python3.11")
"""nvidia-pytriton's Python backend stub wants a shared libpython: Debian's has one, builds of pyenv and uv do not."""


class CannotInstall(Exception):
    """A peer's packages could not be installed; the message says why in one line."""


def interpreter(*, shared_libpython: bool) -> str:
    """The Python that an environment is made from: this one's base, or Debian's where the peer needs it."""
    if shared_libpython and _DEBIAN.exists():
        return str(_DEBIAN)
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def python_of(folder: Path, name: str, requirements: Sequence[str], *, shared_libpython: bool = False) -> str:
    """The Python of the environment `name` in `folder`; made, or made again, where its requirements differ.

    Without requirements it is this Python. Raises CannotInstall with pip's last error.
    """
    if not requirements:
        return sys.executable
    home = folder / name
    python = home / "bin" / "python"
    stamp, wanted = home / "requirements.txt", "\n".join(requirements) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print(f"making the environment of {name}: {', '.join(requirements)}", file=sys.stderr, flush=True)
    if home.exists():
        shutil.rmtree(home)
    _do([interpreter(shared_libpython=shared_libpython), "-m", "venv", str(home)])
    _do([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    stamp.write_text(wanted)
    return str(python)


def versions(python: str, names: Sequence[str]) -> dict[str, str]:
    """Installed versions of `names` in an environment; those that are not installed are left out."""
    done = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        check=True,
    )
    listed = msgspec.json.decode(done.stdout, type=list[dict[str, str]])
    return {p["name"].lower(): p["version"] for p in listed if p["name"].lower() in {n.lower() for n in names}}


def _do(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise CannotInstall((errors or lines or [f"exit code {done.returncode}"])[-1][:300])
