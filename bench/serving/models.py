"""The models of the bench, made from seeds and kept as ONNX files: every system runs the same file."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec

_ROOT = Path(__file__).parents[2]
_RESNET = _ROOT / "examples" / "resnet50" / "net.py"
_VOCABULARY, _LENGTHS = 8192, (4, 9, 16, 23, 32, 41, 52, 64)


@dataclass(frozen=True, slots=True)
class Model:
    """One model: its interface, how its file is made, the requests that the load consists of.

    `max_batch` bounds dynamic batching in all systems. `slow` models are measured by a client that counts whole cycles
    per connection: with a handful of batches per second the edges of a timed window would be several per cent.
    `ragged`: requests differ in shape, and what a system cannot stack it has to run one by one.
    """

    name: str
    title: str
    signature: Signature
    write: Callable[[Path], None]
    requests: Callable[[], list[Tensors]]
    max_batch: int = 32
    slow: bool = False
    ragged: bool = False

    def file(self, folder: Path) -> Path:
        """The model's ONNX file in `folder`, made if it is not there; the code that makes it is part of the name."""
        digest = hashlib.sha256(Path(__file__).read_bytes() + _RESNET.read_bytes()).hexdigest()[:12]
        path = folder / f"{self.name}-{digest}.onnx"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            self.write(unfinished)
            unfinished.rename(path)
        return path


def write_mlp(path: Path) -> None:
    """32-64-10, two matrix products and a ReLU."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((32, 64)).astype(np.float32),
        "w2": random.standard_normal((64, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def _write_cnn(path: Path) -> None:
    """Three convolutions of stride 2 (16, 32, 64 channels), a mean, one linear layer."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    _export(net, (torch.randn(2, 3, 32, 32),), ["x"], [{0: "batch"}], path)


def _write_resnet50(path: Path) -> None:
    """The example's architecture with seeded weights: speed is a ResNet-50's, answers mean nothing."""
    import torch
    from torch import nn

    spec = importlib.util.spec_from_file_location("bench_resnet50", _RESNET)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{_RESNET} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    net = module.build()
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, module.Bottleneck):
            nn.init.constant_(part.bn3.weight, 0.2)  # as at the start of training: sums over 50 layers stay finite
    _export(net, (torch.randn(2, 3, 224, 224),), ["x"], [{0: "batch"}], path)


def _write_encoder(path: Path) -> None:
    """A BERT-like sentence encoder: 4 layers of width 256, 4 heads, masked mean, unit length."""
    import torch
    from torch import nn

    class Encoder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(_VOCABULARY, 256), nn.Embedding(max(_LENGTHS), 256)
            self.layers = nn.ModuleList(_encoder_layer(256, 4) for _ in range(4))

        def forward(self, ids: Any, mask: Any) -> Any:
            h = self.words(ids) + self.places(torch.arange(ids.shape[1]))
            hidden = (1.0 - mask[:, None, None, :].float()) * -1e4
            for layer in self.layers:
                h = layer(h, hidden)
            weight = mask[:, :, None].float()
            return nn.functional.normalize((h * weight).sum(1) / weight.sum(1), dim=1)

    torch.manual_seed(0)
    net = Encoder()
    example = (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))
    _export(net, example, ["ids", "mask"], [{0: "batch", 1: "tokens"}] * 2, path)


def _encoder_layer(width: int, heads: int) -> Any:
    import torch
    from torch import nn

    class Layer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, h: Any, hidden: Any) -> Any:
            batch, tokens = h.shape[0], h.shape[1]
            q, k, v = self.qkv(h).reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            scores = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + hidden, dim=-1)
            h = self.norm1(h + self.out((scores @ v).transpose(1, 2).reshape(batch, tokens, width)))
            return self.norm2(h + self.down(nn.functional.gelu(self.up(h))))

    return Layer()


def _export(net: Any, example: tuple[Any, ...], names: list[str], shapes: list[dict[int, str]], path: Path) -> None:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # one line per operator of packages that are not installed
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    torch.onnx.export(
        net.eval(),
        example,
        str(path),
        input_names=names,
        output_names=["y"],
        dynamic_shapes=tuple({d: torch.export.Dim(n, max=1024) for d, n in shape.items()} for shape in shapes)
        if len(names) == 1
        else tuple(dict.fromkeys(shape, torch.export.Dim.DYNAMIC) for shape in shapes),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _constant(shape: tuple[int, ...]) -> Callable[[], list[Tensors]]:
    return lambda: [{"x": np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)}]


def _sentences() -> list[Tensors]:
    random = np.random.default_rng(1)
    lengths = random.permutation(_LENGTHS)
    return [
        {"ids": random.integers(1, _VOCABULARY, (1, n), dtype=np.int64), "mask": np.ones((1, n), np.int64)}
        for n in lengths
    ]


def _images(*shape: int, classes: int) -> Signature:
    return Signature(
        (TensorSpec("x", Datatype.FP32, ("batch", *shape)),), (TensorSpec("y", Datatype.FP32, ("batch", classes)),)
    )


_TEXT = Signature(
    (TensorSpec("ids", Datatype.INT64, ("batch", "tokens")), TensorSpec("mask", Datatype.INT64, ("batch", "tokens"))),
    (TensorSpec("y", Datatype.FP32, ("batch", 256)),),
)

MODELS = {
    model.name: model
    for model in (
        Model("mlp", "MLP 32-64-10", _images(32, classes=10), write_mlp, _constant((32,))),
        Model("cnn", "small CNN, 3x32x32", _images(3, 32, 32, classes=10), _write_cnn, _constant((3, 32, 32))),
        Model("encoder", "sentence encoder, 4 to 64 tokens", _TEXT, _write_encoder, _sentences, ragged=True),
        Model(
            "resnet50",
            "ResNet-50, 3x224x224",
            _images(3, 224, 224, classes=1000),
            _write_resnet50,
            _constant((3, 224, 224)),
            max_batch=8,
            slow=True,
        ),
    )
}
