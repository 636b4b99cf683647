"""Questions a user asks of what is there: how two versions differ, whether this installation is in order."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import psutil

from modelyard.domain.artifacts import Artifact
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.profile import fingerprint
from modelyard.runtimes import Runtimes
from modelyard.workflow.values import Finding, VersionDiff

LEAST_FREE_BYTES = 2 * 1024**3
NEEDED_FREE_BYTES = 100 * 1024**2
_BF16 = ("amx_bf16", "avx512_bf16")


def diff(hub: Hub, left: str, right: str) -> VersionDiff:
    """What differs between two versions: definition, description, files of the source, artifacts. Raises NotFound."""
    a, b = (hub.versions.get(ModelRef.parse(text)) for text in (left, right))
    one, two = _facts(hub, a), _facts(hub, b)
    rows = [(key, one.get(key, ""), two.get(key, "")) for key in sorted({*one, *two})]
    return VersionDiff(a.ref, b.ref, tuple(row for row in rows if row[1] != row[2]))


def _facts(hub: Hub, version: Version) -> dict[str, str]:
    facts = dict(_flat("", version.definition)) | dict(_flat("", version.description))
    facts |= {"aliases": ", ".join(version.aliases), "digest": version.digest}
    for artifact in hub.artifacts.list(ModelRef(version.model, version.number)):
        facts |= _artifact_facts(artifact, version)
    return facts


def _artifact_facts(artifact: Artifact, version: Version) -> dict[str, str]:
    if artifact.id == version.source_artifact:
        return {f"file {f.path}": f"sha256 {f.digest[:12]}, {f.size_bytes} bytes" for f in artifact.files}
    return {f"artifact {artifact.target}": f"{artifact.standing}, {artifact.size_bytes} bytes"}


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if is_dataclass(value) and "__str__" not in vars(type(value)):  # those with one print as users write them
        for f in fields(value):
            yield from _flat(f"{prefix}.{f.name}" if prefix else f.name, getattr(value, f.name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}", item)
    elif isinstance(value, tuple):
        yield prefix, ", ".join(str(item) for item in value)
    elif value not in (None, ""):
        yield prefix, str(value)


def doctor(home: Path, runtimes: Runtimes, hub: Hub) -> list[Finding]:
    """Check this installation, the required things first."""
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    machine = fingerprint()
    flags = [f for f in _BF16 if f in machine.cpu_flags]
    found = [
        Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11+", required=True),
        Finding("data directory", os.access(home, os.W_OK), str(home), "set MODELYARD_HOME", required=True),
        Finding("hub", True, f"{len(hub.versions.models())} models", required=True),
        Finding(
            "disk space",
            free > LEAST_FREE_BYTES,
            f"{free / 1024**3:.1f} GiB free",
            "yard gc, or free some space",
            required=free < NEEDED_FREE_BYTES,
        ),
        Finding(
            "memory",
            psutil.virtual_memory().available > LEAST_FREE_BYTES,
            f"{psutil.virtual_memory().available / 1024**3:.1f} GiB available of {machine.memory_bytes / 1024**3:.1f}",
        ),
        Finding("cpu", True, f"{machine.cores} cores, {machine.cpu_model}"),
        Finding(
            "bf16 in hardware",
            bool(flags),
            ", ".join(flags) or "not on this CPU",
            "" if flags else "openvino:bf16 is left out here",
        ),
    ]
    for runtime in runtimes:
        a = runtime.availability()
        found.append(Finding(f"runtime {runtime.name}", a.available, a.version or a.reason, a.hint))
    return found
