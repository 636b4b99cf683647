"""PyTorch: what is called how, what is refused, what stays isolated."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.runtimes import RuntimeOptions, read_signature
from modelyard.runtimes.torch import TorchRuntime, load_module
from tests.contract.runtime_cases import artifact

X = TensorSpec("x", Datatype.FP32, ("batch", 2))
Y = TensorSpec("y", Datatype.FP32, ("batch", 2))
ONES = np.ones((3, 2), np.float32)


def scripted(directory: Path, module: torch.nn.Module, signature: Signature) -> LocalArtifact:
    torch.jit.save(torch.jit.script(module), directory / "model.pt")
    return artifact(directory, "model.pt", "torchscript", signature)


def eager(directory: Path, code: str, signature: Signature, module: torch.nn.Module | None = None) -> LocalArtifact:
    directory.mkdir(exist_ok=True)
    (directory / "net.py").write_text(code)
    save_model(module or torch.nn.Linear(2, 2), str(directory / "w.safetensors"))
    return artifact(
        directory, "w.safetensors", "pytorch-eager", signature, options={"factory": "net:build"}, trusted=True
    )


class Subtract(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


def test_inputs_are_matched_by_name_not_by_the_order_of_the_signature(tmp_path: Path) -> None:
    reverse = Signature((replace(X, name="b"), replace(X, name="a")), (Y,))
    predictor = TorchRuntime().load(scripted(tmp_path, Subtract(), reverse), RuntimeOptions())
    np.testing.assert_array_equal(predictor.predict({"b": ONES, "a": ONES * 3})["y"], ONES * 2)


def test_other_names_are_matched_by_order(tmp_path: Path) -> None:
    other = Signature((replace(X, name="left"), replace(X, name="right")), (Y,))
    predictor = TorchRuntime().load(scripted(tmp_path, Subtract(), other), RuntimeOptions())
    np.testing.assert_array_equal(predictor.predict({"left": ONES * 3, "right": ONES})["y"], ONES * 2)


def test_too_many_inputs_are_refused_at_load(tmp_path: Path) -> None:
    three = Signature(tuple(replace(X, name=n) for n in "pqr"), (Y,))
    with pytest.raises(InvalidInput, match="3 inputs, the model takes 2") as caught:
        TorchRuntime().load(scripted(tmp_path, Subtract(), three), RuntimeOptions())
    assert "a, b" in caught.value.hint


class Nested(torch.nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor], *, scale: torch.Tensor) -> dict[str, Any]:
        return {"both": (pair[0] * scale, pair[1] * scale)}


def test_nested_and_keyword_arguments_of_an_exported_program(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Nested(),
        ((torch.ones(2, 2), torch.ones(2, 2)),),
        {"scale": torch.ones(2, 2)},
        dynamic_shapes={"pair": ({0: batch}, {0: batch}), "scale": {0: batch}},
    )
    torch.export.save(program, tmp_path / "model.pt2")
    found = read_signature(artifact(tmp_path, "model.pt2", "pytorch-exported", Signature((), ())))
    assert found is not None
    assert len(found.inputs) == 3
    assert all(spec.shape == ("batch", 2) for spec in (*found.inputs, *found.outputs))
    predictor = TorchRuntime().load(artifact(tmp_path, "model.pt2", "pytorch-exported", found), RuntimeOptions())
    values = {spec.name: ONES * (i + 2) for i, spec in enumerate(found.inputs)}
    first, second = predictor.predict(values).values()
    np.testing.assert_array_equal(first, ONES * 8)
    np.testing.assert_array_equal(second, ONES * 12)


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


def test_a_module_that_writes_into_its_input_harms_nobody(tmp_path: Path) -> None:
    predictor = TorchRuntime().load(scripted(tmp_path, InPlace(), Signature((X,), (Y,))), RuntimeOptions())
    mine = ONES.copy()
    np.testing.assert_array_equal(predictor.predict({"x": mine})["y"], ONES * 2)
    np.testing.assert_array_equal(mine, ONES)


def test_threads_reach_the_thread_that_predicts(tmp_path: Path) -> None:
    """PyTorch keeps the number per OS thread, so one set at load would not hold on the server's worker thread."""
    predictor = TorchRuntime().load(scripted(tmp_path, Subtract(), two_inputs()), RuntimeOptions(threads=2))
    torch.set_num_threads(1)
    seen: list[int] = []

    def work() -> None:
        predictor.predict({"a": ONES, "b": ONES})
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [2]


def two_inputs() -> Signature:
    return Signature((replace(X, name="a"), replace(X, name="b")), (Y,))


def test_a_module_that_returns_no_tensors_is_named(tmp_path: Path) -> None:
    code = (
        "import torch\nclass N(torch.nn.Linear):\n    def forward(self, x): return 'x'\ndef build(): return N(2, 2)\n"
    )
    predictor = TorchRuntime().load(eager(tmp_path, code, Signature((X,), (Y,))), RuntimeOptions())
    with pytest.raises(BackendFailed, match="returned a str"):
        predictor.predict({"x": ONES})


def test_strings_are_refused(tmp_path: Path) -> None:
    words = Signature((replace(X, datatype=Datatype.BYTES),), (Y,))
    with pytest.raises(Unsupported, match="no string tensors"):
        TorchRuntime().load(scripted(tmp_path, InPlace(), words), RuntimeOptions())


# --- factories -------------------------------------------------------------------------------------------------------

LINEAR = "import torch\nfrom layers import width\ndef build(): return torch.nn.Linear(2, width)\n"
ONE_IN = Signature((X,), (Y,))


def test_a_factory_needs_trust(tmp_path: Path) -> None:
    bomb = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
    untrusted = replace(eager(tmp_path, bomb, ONE_IN), trusted=False)
    with pytest.raises(Rejected, match="not trusted") as caught:
        TorchRuntime().load(untrusted, RuntimeOptions())
    assert "trust" in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_two_versions_with_equal_file_names_do_not_mix(tmp_path: Path) -> None:
    path = list(sys.path)
    built = []
    for name, factor in (("v1", 2.0), ("v2", 5.0)):
        code = "import torch\nfrom layers import Scale\ndef build(): return Scale()\n"
        layers = f"import torch\nclass Scale(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n    def forward(self, x): return x * {factor}\n"  # noqa: E501
        made = eager(tmp_path / name, code, ONE_IN)
        (tmp_path / name / "layers.py").write_text(layers)
        built.append(TorchRuntime().load(made, RuntimeOptions()))
    outputs = [predictor.predict({"x": ONES})["y"][0, 0] for predictor in built]
    assert outputs == [2.0, 5.0]
    assert sys.path == path
    assert "net" not in sys.modules
    assert "layers" not in sys.modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_module_of_the_program_with_the_same_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setitem(sys.modules, "net", mine)
    TorchRuntime().load(
        eager(tmp_path, "import torch\ndef build(): return torch.nn.Linear(2, 2)\n", ONE_IN), RuntimeOptions()
    )
    assert sys.modules["net"] is mine


def test_a_factory_module_can_be_exported(tmp_path: Path) -> None:
    code = "import torch\nclass N(torch.nn.Linear):\n    def forward(self, x): return super().forward(x)\ndef build(): return N(2, 2)\n"  # noqa: E501
    module = load_module(eager(tmp_path, code, ONE_IN))
    program = torch.export.export(module, (torch.ones(2, 2),))
    np.testing.assert_allclose(program.module()(torch.ones(2, 2)).detach(), module(torch.ones(2, 2)).detach())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def build(: pass", "the factory net:build failed: SyntaxError"),
        ("def other(): pass", "net.py has no function build"),
        ("def build(): raise KeyError('config')", "KeyError"),
        ("def build(): return 3", "built a int"),
        ("import no_such_module", "no_such_module"),
    ],
)
def test_a_bad_factory_is_named(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TorchRuntime().load(eager(tmp_path, code, ONE_IN), RuntimeOptions())


@pytest.mark.parametrize("factory", ["", "net", "net:", "net:a.b", "../net:build", "absent:build"])
def test_a_factory_that_is_none_is_refused(tmp_path: Path, factory: str) -> None:
    made = eager(tmp_path, "def build(): pass", ONE_IN)
    with pytest.raises(InvalidInput):
        TorchRuntime().load(replace(made, options={"factory": factory}), RuntimeOptions())


def test_a_file_that_would_hide_a_module_is_refused(tmp_path: Path) -> None:
    made = eager(tmp_path, "def build(): pass", ONE_IN)
    (tmp_path / "random.py").write_text("")
    with pytest.raises(InvalidInput, match=r"random\.py would hide"):
        TorchRuntime().load(made, RuntimeOptions())


def test_weights_that_do_not_fit_the_factory_are_named(tmp_path: Path) -> None:
    code = "import torch\ndef build(): return torch.nn.Linear(2, 2)\n"
    made = eager(tmp_path, code, ONE_IN, torch.nn.Linear(3, 2))
    with pytest.raises(InvalidInput, match="size mismatch for weight") as caught:
        TorchRuntime().load(made, RuntimeOptions())
    assert "state dict" in caught.value.hint


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("extra", ["call", "object"])
def test_a_state_dict_that_runs_code_is_refused_in_our_words(tmp_path: Path, extra: str) -> None:
    made = replace(eager(tmp_path, "import torch\ndef build(): return torch.nn.Linear(2, 2)\n", ONE_IN), entry="w.pt")
    canary = tmp_path / "canary"
    torch.save({"weight": Bomb(canary) if extra == "call" else Path("x")}, tmp_path / "w.pt")
    with pytest.raises(Rejected, match="could run code") as caught:
        TorchRuntime().load(made, RuntimeOptions())
    assert ("mkdir" if extra == "call" else "pathlib") in caught.value.why
    assert "weights_only" not in f"{caught.value} {caught.value.hint}"
    assert "safetensors" in caught.value.hint
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"these are no weights", b"\x80\x02\xff."])
def test_a_damaged_state_dict_is_invalid_without_advice_to_open_it_unsafely(tmp_path: Path, content: bytes) -> None:
    made = replace(eager(tmp_path, "import torch\ndef build(): return torch.nn.Linear(2, 2)\n", ONE_IN), entry="w.pt")
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        TorchRuntime().load(made, RuntimeOptions())
    assert "weights_only" not in f"{caught.value} {caught.value.hint}"


def test_tied_weights_load(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "class Tied(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(2, 2, bias=False)\n"
        "        self.b = torch.nn.Linear(2, 2, bias=False)\n"
        "        self.b.weight = self.a.weight\n"
        "    def forward(self, x): return self.b(self.a(x))\n"
        "def build(): return Tied()\n"
    )
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    module = namespace["build"]()
    predictor = TorchRuntime().load(eager(tmp_path, code, ONE_IN, module), RuntimeOptions())
    expected = module(torch.from_numpy(ONES)).detach().numpy()
    np.testing.assert_allclose(predictor.predict({"x": ONES})["y"], expected, rtol=1e-6)
