"""The node a number was made on, so that numbers from different machines are never compared unawares."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from modelyard.domain.measurement import Fingerprint

_LIBRARIES = (
    "modelyard", "numpy", "torch", "onnx", "onnxruntime", "openvino", "nncf", "scikit-learn", "xgboost", "xgboost-cpu",
    "lightgbm", "tensorflow-cpu", "tensorflow", "jax", "uvloop", "httptools", "grpcio", "msgspec", "pysimdjson",
)  # fmt: skip
_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimddp", "bf16", "i8mm",
    "sve", "sve2", "hypervisor",
)  # fmt: skip


def fingerprint() -> Fingerprint:
    """Describe this node. Library versions are read from installed metadata; nothing is imported."""
    model, flags = _cpu(Path("/proc/cpuinfo"))
    facts = {
        "cpu_model": model or platform.processor() or platform.machine(),
        "cpu_flags": flags,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "os": _os(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": _versions(),
        "gpus": _gpus(),
    }
    digest = hashlib.sha256(msgspec.json.encode({**facts, "memory_bytes": _gib(facts["memory_bytes"])}, order="sorted"))
    return msgspec.convert({"id": digest.hexdigest()[:16], **facts}, Fingerprint)


def _gib(memory: object) -> int:
    """Whole GiB: the kernel's reserve differs by some MB between boots of the same machine."""
    return round(int(str(memory)) / 2**30)


def _cpu(cpuinfo: Path) -> tuple[str, tuple[str, ...]]:
    try:
        text = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return "", ()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name", "")
    if "cpu family" in fields:
        # Virtual machines often hide the name ("Intel(R) Xeon(R) Processor"); family and model tell generations apart.
        name += f" (family {fields['cpu family']} model {fields.get('model')} stepping {fields.get('stepping')})"
    return name, tuple(flag for flag in _FLAGS if flag in present)


def _os() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", sys.platform)
    except OSError:
        name = sys.platform
    return f"{name}, {platform.system()} {platform.release()} {platform.machine()}"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _gpus() -> tuple[str, ...]:
    """Name, memory and driver of each NVIDIA GPU, from nvidia-smi; none where it is absent or fails."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
