"""Tiny models and data for the tests of modelyard.convert. Frameworks are imported where a model needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.convert import Evidence
from modelyard.domain.artifacts import (
    LIGHTGBM,
    ONNX,
    PYTORCH_EAGER,
    SKLEARN,
    XGBOOST,
    LocalArtifact,
    Precision,
    Target,
)
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec


def spec(name: str, datatype: Datatype, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, datatype, ("batch", *shape))


def artifact(directory: Path, entry: str, format_: str, signature: Signature, **rest: Any) -> LocalArtifact:
    return LocalArtifact(str(directory), entry, Target(format_), Precision.FP32, signature, **rest)


LINEAR = Signature((spec("x", Datatype.FP32, 8),), (spec("scores", Datatype.FP32, 3),))


def linear_onnx(directory: Path, weights: np.ndarray | None = None) -> LocalArtifact:
    """x (batch, 8) -> scores (batch, 3): MatMul, Add; no bias beside given weights. Opens in milliseconds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    bias = np.zeros(3, np.float32) if weights is not None else rng.standard_normal(3).astype(np.float32)
    weights = rng.standard_normal((8, 3)).astype(np.float32) if weights is None else weights
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    directory.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, directory / "model.onnx")
    return artifact(directory, "model.onnx", ONNX, LINEAR)


def eager(directory: Path, code: str, signature: Signature, seed: int = 0) -> LocalArtifact:
    """A PyTorch module from the source text of its file, whose `build()` makes it, with seeded weights."""
    import safetensors.torch
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "net.py").write_text("import torch\nfrom torch import nn\n\n" + code)
    scope: dict[str, Callable[[], Any]] = {}
    # torch.jit reads sources by file name, so the code is compiled under the file it lies in
    exec(compile((directory / "net.py").read_text(), str(directory / "net.py"), "exec"), scope)
    torch.manual_seed(seed)
    safetensors.torch.save_model(scope["build"](), str(directory / "weights.safetensors"))
    return artifact(
        directory, "weights.safetensors", PYTORCH_EAGER, signature, options={"factory": "net:build"}, trusted=True
    )


def sklearn(directory: Path, estimator: Any, signature: Signature) -> LocalArtifact:
    import skops.io

    directory.mkdir(parents=True, exist_ok=True)
    skops.io.dump(estimator, directory / "model.skops")
    return artifact(directory, "model.skops", SKLEARN, signature)


def xgboost(directory: Path, booster: Any, signature: Signature) -> LocalArtifact:
    directory.mkdir(parents=True, exist_ok=True)
    booster.save_model(directory / "model.ubj")
    return artifact(directory, "model.ubj", XGBOOST, signature)


def lightgbm(directory: Path, booster: Any, signature: Signature) -> LocalArtifact:
    directory.mkdir(parents=True, exist_ok=True)
    booster.save_model(directory / "model.txt")
    return artifact(directory, "model.txt", LIGHTGBM, signature)


def dataset(path: Path, inputs: Mapping[str, np.ndarray], labels: np.ndarray | None = None, **rest: Any) -> Evidence:
    """Evidence with a dataset whose arrays are named as the inputs, labels `y`."""
    np.savez(path, **inputs, **({} if labels is None else {"y": labels}))
    described = DatasetSpec(path.name, {name: name for name in inputs}, None if labels is None else "y")
    return Evidence(dataset=path, dataset_spec=described, **rest)
