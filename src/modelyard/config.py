"""Settings, read once from the environment (`MODELYARD_*`). Nothing else reads `os.environ` for configuration."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from modelyard.domain.errors import BackendFailed, InvalidInput

_PREFIX = "MODELYARD_"
_OTHERS = frozenset({"DEBUG", "SERVICE_INSTANCE"})  # of the command line, of the process engine


@dataclass(frozen=True)
class Settings:
    """Every setting with its default. Each is documented in docs/settings.md (a test keeps that true).

    `home`: data directory. `database_url`: hub metadata, SQLite in `home` by default. `blobs_url`: local path or any
    fsspec URL. `price_per_core_hour`: for cost per 1M requests; `price_currency`, `price_source` and
    `price_as_of` say what it is.
    `convert_timeout_s`, `convert_memory_bytes`: limits of each conversion child. `trust`: open formats that run code
    on load (pickle, joblib) without asking for `--trust` each time. `cgroup`: in which replicas' limits may have
    groups.
    """

    home: Path
    database_url: str
    blobs_url: str
    price_per_core_hour: float = 0.0425
    price_currency: str = "USD"
    price_source: str = "AWS EC2 c5.large on demand, us-east-1: 0.085 USD/h for 2 vCPU"
    price_as_of: str = "2026-11"
    convert_timeout_s: float = 600.0
    convert_memory_bytes: int = 8 * 1024**3
    trust: bool = False
    cgroup: str = ""

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @property
    def services_dir(self) -> Path:
        return self.home / "services"

    @property
    def work_dir(self) -> Path:
        return self.home / "work"

    def prepare(self) -> None:
        """Make the data directory. Raises InvalidInput where none can be, BackendFailed where the disk says no."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            wrong = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL)
            why = "it is a file" if error.errno == errno.EEXIST else error.strerror or str(error)
            raise (InvalidInput if wrong else BackendFailed)(
                f"{self.home} cannot be the data directory",
                why=why,
                hint="set MODELYARD_HOME, or --home, to a directory of yours",
            ) from error

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, *, home: Path | None = None) -> Settings:
        """Read the settings from `environ` (default: the process'). Raises InvalidInput naming the variable."""
        env = os.environ if environ is None else environ
        root = home or Path(env.get("MODELYARD_HOME") or _default_home())
        root = root.expanduser().absolute()
        return cls(
            home=root,
            database_url=env.get("MODELYARD_DATABASE_URL") or f"sqlite:///{root / 'hub.db'}",
            blobs_url=env.get("MODELYARD_BLOBS_URL") or str(root / "blobs"),
            price_per_core_hour=_positive(env, "MODELYARD_PRICE_PER_CORE_HOUR", cls.price_per_core_hour),
            price_currency=env.get("MODELYARD_PRICE_CURRENCY") or cls.price_currency,
            price_source=env.get("MODELYARD_PRICE_SOURCE")
            or ("MODELYARD_PRICE_PER_CORE_HOUR" if env.get("MODELYARD_PRICE_PER_CORE_HOUR") else cls.price_source),
            price_as_of=env.get("MODELYARD_PRICE_AS_OF")
            or ("" if env.get("MODELYARD_PRICE_PER_CORE_HOUR") else cls.price_as_of),
            convert_timeout_s=_positive(env, "MODELYARD_CONVERT_TIMEOUT_S", cls.convert_timeout_s),
            convert_memory_bytes=int(_positive(env, "MODELYARD_CONVERT_MEMORY_BYTES", cls.convert_memory_bytes)),
            trust=_flag(env, "MODELYARD_TRUST"),
            cgroup=env.get("MODELYARD_CGROUP", ""),
        )


def unknown_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """`MODELYARD_*` variables that nothing reads, each with the known one most like it (empty where none is)."""
    env = os.environ if environ is None else environ
    known = {field.name.upper() for field in fields(Settings)} | _OTHERS
    given = sorted(name.removeprefix(_PREFIX) for name in env if name.startswith(_PREFIX))
    nearest = {name: difflib.get_close_matches(name, sorted(known), n=1) for name in given if name not in known}
    return {_PREFIX + name: "".join(_PREFIX + found for found in close) for name, close in nearest.items()}


def _default_home() -> str:
    import platformdirs

    return platformdirs.user_data_dir("modelyard")


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidInput(f"{name}={text} is not a positive number", hint=f"unset it to use {default:g}")
    return value


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").lower()
    if text not in ("", "0", "1", "true", "false", "yes", "no"):
        raise InvalidInput(f"{name}={text} is not a yes or no", hint="use 1 or 0")
    return text in ("1", "true", "yes")
