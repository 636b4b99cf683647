"""Which targets to aim at, from what the manifest asks for."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from modelyard.convert.registry import Converters
from modelyard.domain.artifacts import (
    LIGHTGBM,
    ONNX,
    OPENVINO,
    PYTORCH_EAGER,
    PYTORCH_EXPORTED,
    SKLEARN,
    TORCHSCRIPT,
    XGBOOST,
    Precision,
    Target,
)
from modelyard.domain.errors import InvalidInput

BF16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU flags (x86, ARM) that mean bf16 arithmetic in hardware; elsewhere it is emulated and slower than fp32."""

_BY_PRECISION: Final = {
    Precision.FP32: Target(ONNX),
    Precision.FP16: Target(ONNX, "fp16"),
    Precision.BF16: Target(OPENVINO, "bf16"),
    Precision.INT8: Target(ONNX, "int8-static"),
}


def cpu_flags() -> frozenset[str]:
    """This CPU's feature flags as Linux names them; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def plan_targets(
    source_format: str,
    framework: str,
    requested: tuple[str, ...],
    *,
    has_data: bool = False,
    flags: Collection[str] | None = None,
    converters: Converters | None = None,
) -> list[Target]:
    """The targets to convert to, in order of preference, without duplicates.

    `requested` is `("auto",)` or targets (`onnx`, `onnx:int8-dynamic`) and precisions (`bf16`), which stand for their
    usual target. `auto` is kept short, for it runs at every publish: ONNX; int8 where `has_data` (calibration needs
    it); OpenVINO in fp32 and, where the CPU has it in hardware, bf16; TorchScript for PyTorch. Trees and scikit-learn
    get ONNX alone. The source's own format is no target. Raises InvalidInput that names every target that no converter
    reaches from `source_format`.
    """
    known = (converters or Converters.discover()).reachable(source_format)
    flags = cpu_flags() if flags is None else flags
    chosen: list[Target] = []
    wrong: list[str] = []
    for text in requested:
        if text == "auto":
            chosen += [t for t in _auto(source_format, framework, has_data, flags) if t in known]
        elif text != source_format:  # the source itself is served as it is
            target = _requested(text)
            if target in known:
                chosen.append(target)
            else:
                wrong.append(text)
    if wrong:
        raise _out_of_reach(list(dict.fromkeys(wrong)), source_format, known)
    return list(dict.fromkeys(chosen))


def _auto(source_format: str, framework: str, has_data: bool, flags: Collection[str]) -> list[Target]:
    if source_format in (SKLEARN, XGBOOST, LIGHTGBM) or framework in ("sklearn", "scikit-learn", "xgboost", "lightgbm"):
        return [Target(ONNX)]
    targets = []
    if source_format in (PYTORCH_EAGER, PYTORCH_EXPORTED, TORCHSCRIPT):
        targets.append(Target(ONNX))
    if has_data:
        targets.append(Target(ONNX, "int8-static"))
    targets.append(Target(OPENVINO))
    if any(flag in flags for flag in BF16_FLAGS):
        targets.append(Target(OPENVINO, "bf16"))
    if source_format in (PYTORCH_EAGER, PYTORCH_EXPORTED):
        targets.append(Target(TORCHSCRIPT))
    return targets


def _requested(text: str) -> Target | None:
    """The target that `text` means; None where it is not even spelled like one."""
    if text in {str(precision) for precision in _BY_PRECISION}:
        return _BY_PRECISION[Precision(text)]
    try:
        return Target.parse(text)
    except InvalidInput:
        return None


def _out_of_reach(wrong: Sequence[str], source_format: str, known: Collection[Target]) -> InvalidInput:
    names = [str(t) for t in known]
    near = {text: match[0] for text in wrong if (match := difflib.get_close_matches(text, names, n=1))}
    meant = "".join(f"for '{text}', did you mean {name}? " for text, name in near.items())
    listed = ", ".join(f"'{text}'" for text in wrong)
    return InvalidInput(
        f"{listed} cannot be made from {source_format}",
        hint=f"{meant}targets: {', '.join(names) or 'none'}, or auto",
    )
