"""PyTorch sources: routes, their named failures, and artifacts that only look converted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import ConversionService, Converters, Evidence
from modelyard.domain.artifacts import (
    PYTORCH_EXPORTED,
    FailureClass,
    LocalArtifact,
    Outcome,
    RejectionReason,
    Target,
)
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature
from modelyard.runtimes import RuntimeOptions, Runtimes
from tests.integration.convert_models import artifact, dataset, eager, spec

VECTOR = Signature((spec("x", Datatype.FP32, 8),), (spec("y", Datatype.FP32, 4),))

BRANCH = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 4)
        self.down = nn.Linear(8, 4)

    def forward(self, x):
        if x.sum() > 0:
            return self.up(x)
        return self.down(x)

def build():
    return Net()
"""
BAKED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        rows = int(x.shape[0])
        return self.fc(x.reshape(rows, 8))

def build():
    return Net()
"""
RANDOM = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x) + torch.rand(4)

def build():
    return Net()
"""
MULTI = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 6)
        self.fc = nn.Linear(6 + 3, 4)

    def forward(self, tokens, numbers):
        mean = self.words(tokens).mean(dim=1)
        scores = self.fc(torch.cat([mean, numbers], dim=1))
        return {"best": scores.argmax(dim=1), "scores": scores}

def build():
    return Net()
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ConversionService]:
    with ConversionService(Runtimes.discover(), Converters.discover(), tmp_path / "work") as made:
        yield made


def test_a_data_dependent_branch_is_named_rejected_and_saved_by_scripting(
    service: ConversionService, tmp_path: Path
) -> None:
    """Dynamo refuses, tracing freezes the branch and is caught, the compiled source keeps it and is proven."""
    source = eager(tmp_path / "source", BRANCH, VECTOR)
    result = service.convert(source, Target("onnx"), Evidence())
    by_route = {a.route: a for a in result.attempts}
    assert by_route["torch-onnx-dynamo"].failure is FailureClass.DATA_DEPENDENT_CONTROL_FLOW
    assert "torch.cond" in by_route["torch-onnx-dynamo"].hint
    traced = by_route["torch-onnx-legacy"]
    assert traced.outcome is Outcome.REJECTED
    assert traced.equivalence
    assert traced.equivalence.reason is RejectionReason.NUMERICAL_ERROR
    assert result.winner
    assert result.winner.route == "torch-onnx-scripted"
    assert result.outcome is Outcome.PROVEN
    assert result.artifact
    assert Path(result.artifact.directory, result.artifact.entry).is_file()


def test_a_trace_that_bakes_the_batch_is_rejected_and_scripting_proves(
    service: ConversionService, tmp_path: Path
) -> None:
    source = eager(tmp_path / "source", BAKED, VECTOR)
    result = service.convert(source, Target("torchscript"), Evidence())
    traced = next(a for a in result.attempts if a.route == "torch-trace")
    assert traced.equivalence
    assert traced.equivalence.reason is RejectionReason.BATCH_BAKED_IN
    assert result.winner
    assert result.winner.route == "torch-script"


def test_export_of_a_baked_batch_is_a_lost_dynamic_shape(service: ConversionService, tmp_path: Path) -> None:
    source = eager(tmp_path / "source", BAKED, VECTOR)
    result = service.convert(source, Target(PYTORCH_EXPORTED), Evidence())
    assert result.outcome is Outcome.FAILED
    assert result.deciding.failure is FailureClass.DYNAMIC_SHAPE_LOST


def test_a_model_that_draws_random_numbers_cannot_be_verified(service: ConversionService, tmp_path: Path) -> None:
    source = eager(tmp_path / "source", RANDOM, VECTOR)
    with pytest.raises(InvalidInput, match="different outputs for the same input"):
        service.verify_source(source, Evidence())


def test_two_inputs_two_outputs_integers_and_a_symbolic_length(service: ConversionService, tmp_path: Path) -> None:
    """Names, datatypes and both symbolic dimensions survive on every format; a dict of outputs is put in order."""
    signature = Signature(
        (spec("tokens", Datatype.INT64, "length"), spec("numbers", Datatype.FP32, 3)),
        (spec("scores", Datatype.FP32, 4), spec("best", Datatype.INT64)),
    )
    source = eager(tmp_path / "source", MULTI, signature)
    rng = np.random.default_rng(0)
    rows = {
        "tokens": rng.integers(0, 50, (40, 5)),
        "numbers": rng.standard_normal((40, 3)).astype(np.float32),
    }
    evidence = dataset(tmp_path / "data.npz", rows)
    targets = [Target("onnx"), Target("torchscript"), Target("openvino"), Target("onnx", "int8-dynamic")]
    results = service.convert_all(source, targets, evidence)
    assert [(str(r.target), r.outcome) for r in results] == [(str(t), Outcome.PROVEN) for t in targets]
    predictor = _load(results[0].artifact)
    outputs = predictor.predict({"tokens": np.full((3, 11), 49), "numbers": np.zeros((3, 3), np.float32)})
    assert outputs["scores"].shape == (3, 4)
    assert outputs["best"].dtype == np.int64
    assert results[0].equivalence
    assert "resized" in results[0].equivalence.cases


def test_an_exported_program_reaches_every_target_of_auto(service: ConversionService, tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    program = torch.export.export(
        module, (torch.zeros(2, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    (tmp_path / "source").mkdir()
    torch.export.save(program, tmp_path / "source" / "net.pt2")
    source = artifact(tmp_path / "source", "net.pt2", PYTORCH_EXPORTED, VECTOR)
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    labels = module(torch.from_numpy(x)).argmax(dim=1).numpy()
    evidence = dataset(tmp_path / "data.npz", {"x": x}, labels, task="classification")
    targets = [Target("onnx"), Target("onnx", "int8-static"), Target("openvino"), Target("torchscript")]
    results = service.convert_all(source, targets, evidence)
    assert [r.outcome for r in results] == [Outcome.PROVEN] * 4
    openvino = results[2].winner
    assert openvino
    assert openvino.route == "onnx-openvino", "what is made anyway is built upon"
    assert results[0].equivalence
    assert [m.metric for m in results[0].equivalence.metrics] == ["accuracy"]
    assert results[0].equivalence.metrics[0].source == 1.0


def test_an_exported_program_is_called_as_it_was_exported_whatever_its_inputs_are_called(
    service: ConversionService, tmp_path: Path
) -> None:
    """By position, by keyword, and with the manifest's inputs in another order: each route asks the program itself."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Linear(8, 4)

        def forward(self, image: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.scale(image)) - offset

    rows = {0: torch.export.Dim("batch")}
    image, offset = torch.zeros(2, 8), torch.zeros(2, 4)
    ways = {
        "positional": ((image, offset), {}),
        "keywords": ((), {"image": image, "offset": offset}),
        "mixed": ((image,), {"offset": offset}),
    }
    inputs = (spec("offset", Datatype.FP32, 4), spec("image", Datatype.FP32, 8))
    signature = Signature(inputs, (spec("scores", Datatype.FP32, 4),))
    (tmp_path / "source").mkdir()
    for way, (args, kwargs) in ways.items():
        program = torch.export.export(Net().eval(), args, kwargs, dynamic_shapes={"image": rows, "offset": rows})
        torch.export.save(program, tmp_path / "source" / f"{way}.pt2")
        source = artifact(tmp_path / "source", f"{way}.pt2", PYTORCH_EXPORTED, signature)
        for target in ("torchscript", "openvino"):
            result = service.convert(source, Target(target), Evidence())
            first = result.attempts[0]
            assert first.outcome is Outcome.PROVEN, f"{way}: {first.route}: {first.detail}"
            assert first.route.startswith("exported-")


def test_a_module_captured_from_memory_becomes_torchscript(service: ConversionService, tmp_path: Path) -> None:
    import torch

    from modelyard.runtimes import capture

    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    captured = capture(module, tmp_path, inputs={"x": np.zeros((4, 8), np.float32)})
    source = artifact(tmp_path, captured.source.entry, PYTORCH_EXPORTED, captured.signature)
    result = service.convert(source, Target("torchscript"), Evidence())
    assert result.attempts[0].outcome is Outcome.PROVEN, result.attempts[0].detail


def _load(made: LocalArtifact | None):  # type: ignore[no-untyped-def]
    assert made is not None
    return Runtimes.discover().for_format(made.target.format)[0].load(made, RuntimeOptions())
