"""Reads the signature that a model file itself carries."""

from __future__ import annotations

import importlib
from typing import Final

from modelyard.domain.artifacts import LIGHTGBM, ONNX, OPENVINO, PYTORCH_EXPORTED, SKLEARN, XGBOOST, LocalArtifact
from modelyard.domain.tensors import Signature

_READERS: Final = {
    ONNX: "onnxruntime",
    OPENVINO: "openvino",
    PYTORCH_EXPORTED: "torch",
    SKLEARN: "sklearn",
    XGBOOST: "xgboost",
    LIGHTGBM: "lightgbm",
}


def read_signature(artifact: LocalArtifact) -> Signature | None:
    """The signature in the artifact's file; None where the format (or this file) does not carry one.

    `artifact.signature` is not looked at. This opens the model with its framework: call it in a child process for files
    of other people. Raises as `Runtime.load` does.
    """
    module = _READERS.get(artifact.target.format)
    if module is None:
        return None
    signature: Signature | None = importlib.import_module(f"modelyard.runtimes.{module}").read_signature(artifact)
    return signature
