"""One small seeded model per framework and format, with a reference answer made without Modelyard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Built:
    artifact: LocalArtifact
    reference: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Case:
    name: str
    runtime: str
    format: str
    build: Callable[[Path], Built]
    tolerance: float = 1e-5
    carries_signature: bool = True


def signature(
    inputs: dict[str, tuple[Datatype, tuple[Any, ...]]], outputs: dict[str, tuple[Datatype, tuple[Any, ...]]]
):
    return Signature(
        tuple(TensorSpec(name, datatype, ("batch", *tail)) for name, (datatype, tail) in inputs.items()),
        tuple(TensorSpec(name, datatype, ("batch", *tail)) for name, (datatype, tail) in outputs.items()),
    )


def rows(sig: Signature, count: int, seed: int = 7) -> Arrays:
    """Random inputs of `count` rows that fit a signature whose only symbol is the batch."""
    rng = np.random.default_rng(seed)
    out: Arrays = {}
    for spec in sig.inputs:
        shape = (count, *spec.shape[1:])
        if spec.datatype is Datatype.BYTES:
            out[spec.name] = np.array([b"word%d" % i for i in range(np.prod(shape))], dtype=object).reshape(shape)
        elif spec.datatype.numpy.kind == "i":
            out[spec.name] = rng.integers(0, 9, shape).astype(spec.datatype.numpy)
        else:
            out[spec.name] = rng.normal(size=shape).astype(spec.datatype.numpy)
    return out


# --- neural: two inputs, two outputs: logits = relu(image @ W + b), doubled = 2 * count ----------------------------

NEURAL = signature(
    {"image": (Datatype.FP32, (4,)), "count": (Datatype.INT64, (2,))},
    {"logits": (Datatype.FP32, (3,)), "doubled": (Datatype.INT64, (2,))},
)
WEIGHT = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
BIAS = np.random.default_rng(2).normal(size=3).astype(np.float32)


def neural_reference(inputs: Arrays) -> Arrays:
    return {"logits": np.maximum(inputs["image"] @ WEIGHT + BIAS, 0), "doubled": inputs["count"] * 2}


def write_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Gemm", ["image", "w", "b"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["logits"]),
        helper.make_node("Add", ["count", "count"], ["doubled"]),
    ]
    graph = helper.make_graph(
        nodes,
        "neural",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("doubled", TensorProto.INT64, ["batch", 2]),
        ],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def artifact(directory: Path, entry: str, target: str, sig: Signature, **more: Any) -> LocalArtifact:
    parsed = Target.parse(target)
    return LocalArtifact(str(directory), entry, parsed, more.pop("precision", parsed.precision), sig, **more)


def onnx(directory: Path) -> Built:
    write_onnx(directory / "model.onnx")
    return Built(artifact(directory, "model.onnx", "onnx", NEURAL), neural_reference)


def openvino(directory: Path, target: str = "openvino") -> Built:
    from modelyard.runtimes.openvino import import_openvino

    ov = import_openvino()
    write_onnx(directory / "model.onnx")
    ov.save_model(ov.Core().read_model(directory / "model.onnx"), directory / "model.xml", compress_to_fp16=False)
    return Built(artifact(directory, "model.xml", target, NEURAL), neural_reference)


NET = """
import torch
from parts import Head

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = Head()

    def forward(self, image, count):
        return {"doubled": count * 2, "logits": torch.relu(self.head(image))}

def build():
    return Net()
"""
PARTS = """
import torch

class Head(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
"""


def neural_module() -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 3)

        def forward(self, image, count):  # type: ignore[no-untyped-def]
            return torch.relu(self.head(image)), count * 2

    net = Net()
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(WEIGHT.T.copy()))
        net.head.bias.copy_(torch.from_numpy(BIAS.copy()))
    return net.eval()


def pytorch_exported(directory: Path) -> Built:
    import torch

    batch = torch.export.Dim("batch", min=1)
    examples = (torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.int64))
    program = torch.export.export(neural_module(), examples, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, directory / "model.pt2")
    return Built(artifact(directory, "model.pt2", "pytorch-exported", NEURAL), neural_reference)


def torchscript(directory: Path) -> Built:
    import torch

    examples = (torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.int64))
    torch.jit.save(torch.jit.trace(neural_module(), examples), directory / "model.pt")
    return Built(artifact(directory, "model.pt", "torchscript", NEURAL), neural_reference)


def pytorch_eager(directory: Path) -> Built:
    import torch
    from safetensors.torch import save_file

    (directory / "net.py").write_text(NET)
    (directory / "parts.py").write_text(PARTS)
    state = {"head.weight": torch.from_numpy(WEIGHT.T.copy()), "head.bias": torch.from_numpy(BIAS.copy())}
    save_file(state, directory / "weights.safetensors")
    made = artifact(
        directory, "weights.safetensors", "pytorch-eager", NEURAL, options={"factory": "net:build"}, trusted=True
    )
    return Built(made, neural_reference)


# --- tabular ---------------------------------------------------------------------------------------------------------


def data(classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(120, 5)).astype(np.float32)
    target = features[:, 0] + 0.5 * features[:, 1] * features[:, 2]
    if classes == 0:
        return features, target
    return features, np.digitize(target, np.quantile(target, np.arange(1, classes) / classes)).astype(np.int64)


def classifier_signature(classes: int) -> Signature:
    return signature(
        {"features": (Datatype.FP32, (5,))},
        {"label": (Datatype.INT64, ()), "probabilities": (Datatype.FP32, (classes,))},
    )


REGRESSOR = signature({"features": (Datatype.FP32, (5,))}, {"value": (Datatype.FP32, (1,))})


def _classified(model: Any) -> Callable[[Arrays], Arrays]:
    return lambda x: {
        "label": np.asarray(model.predict(x["features"])),
        "probabilities": np.asarray(model.predict_proba(x["features"])),
    }


def _valued(model: Any) -> Callable[[Arrays], Arrays]:
    return lambda x: {"value": np.asarray(model.predict(x["features"])).reshape(-1, 1)}


def sklearn_pipeline(directory: Path) -> Built:
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*data(3))
    skops.io.dump(model, directory / "model.skops")
    return Built(artifact(directory, "model.skops", "sklearn", classifier_signature(3)), _classified(model))


def sklearn_forest(directory: Path) -> Built:
    import joblib
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(5, random_state=0, n_jobs=1).fit(*data(0))
    joblib.dump(model, directory / "model.joblib")
    return Built(artifact(directory, "model.joblib", "sklearn", REGRESSOR, trusted=True), _valued(model))


def xgboost(directory: Path, classes: int, entry: str = "model.ubj") -> Built:
    import xgboost as xgb

    kind = xgb.XGBClassifier if classes else xgb.XGBRegressor
    model = kind(n_estimators=8, max_depth=3, n_jobs=1, random_state=0).fit(*data(classes))
    model.save_model(directory / entry)
    if not classes:
        return Built(artifact(directory, entry, "xgboost", REGRESSOR), _valued(model))
    return Built(artifact(directory, entry, "xgboost", classifier_signature(classes)), _classified(model))


def lightgbm(directory: Path, classes: int) -> Built:
    import lightgbm as lgb

    kind = lgb.LGBMClassifier if classes else lgb.LGBMRegressor
    model = kind(n_estimators=8, num_leaves=7, n_jobs=1, random_state=0, verbose=-1).fit(*data(classes))
    model.booster_.save_model(directory / "model.txt")
    if not classes:
        return Built(artifact(directory, "model.txt", "lightgbm", REGRESSOR), _valued(model))
    return Built(artifact(directory, "model.txt", "lightgbm", classifier_signature(classes)), _classified(model))


CASES = [
    Case("onnx", "onnxruntime", "onnx", onnx),
    Case("onnx-by-openvino", "openvino", "onnx", onnx),
    Case("openvino", "openvino", "openvino", openvino),
    Case("openvino-int8-hint", "openvino", "openvino", lambda d: openvino(d, "openvino:int8")),
    Case("pytorch-exported", "torch", "pytorch-exported", pytorch_exported),
    Case("torchscript", "torch", "torchscript", torchscript, carries_signature=False),
    Case("pytorch-eager", "torch", "pytorch-eager", pytorch_eager, carries_signature=False),
    Case("sklearn-skops", "sklearn", "sklearn", sklearn_pipeline),
    Case("sklearn-joblib", "sklearn", "sklearn", sklearn_forest),
    Case("xgboost-binary", "xgboost", "xgboost", lambda d: xgboost(d, 2)),
    Case("xgboost-multiclass", "xgboost", "xgboost", lambda d: xgboost(d, 3, "model.json")),
    Case("xgboost-regression", "xgboost", "xgboost", lambda d: xgboost(d, 0)),
    Case("lightgbm-binary", "lightgbm", "lightgbm", lambda d: lightgbm(d, 2)),
    Case("lightgbm-multiclass", "lightgbm", "lightgbm", lambda d: lightgbm(d, 3)),
    Case("lightgbm-regression", "lightgbm", "lightgbm", lambda d: lightgbm(d, 0)),
]

__all__ = ["CASES", "Arrays", "Built", "Case", "Precision", "artifact", "rows", "signature"]
