"""Exported programs that would run code when they are loaded are refused before they are."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput, Rejected
from modelyard.domain.tensors import Signature
from modelyard.runtimes import RuntimeOptions
from modelyard.runtimes.pt2 import check_exported_program
from modelyard.runtimes.torch import TorchRuntime, load_exported
from tests.contract.runtime_cases import artifact, pytorch_exported

Edit = Callable[[str, bytes], bytes | None]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def pickled(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Bomb(path),), buffer)
    return buffer.getvalue()


def rewritten(directory: Path, edit: Edit, extra: dict[str, bytes] | None = None) -> LocalArtifact:
    """An exported program whose archive members went through `edit`."""
    made = pytorch_exported(directory).artifact
    source = directory / "model.pt2"
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).split("/")[0]
    with zipfile.ZipFile(source, "w") as archive:
        for name, content in members.items():
            changed = edit(name.removeprefix(f"{root}/"), content)
            archive.writestr(name, content if changed is None else changed)
        for name, content in (extra or {}).items():
            archive.writestr(f"{root}/{name}", content)
    return made


def assert_refused(made: LocalArtifact, reason: str) -> None:
    directory = Path(made.directory)
    with pytest.raises(Rejected, match=reason) as caught:
        TorchRuntime().load(made, RuntimeOptions())
    assert "trust" in caught.value.hint
    assert not (directory / "ran").exists()


def test_plain_programs_pass(tmp_path: Path) -> None:
    pytorch_exported(tmp_path)
    check_exported_program(tmp_path / "model.pt2", trusted=False)


class Shapes(torch.nn.Module):
    """Shape arithmetic, control flow, constants: what ordinary programs hold beyond operators."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6.0))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([x, x]).reshape(x.shape[0] * 3, 4) + torch.ones(x.shape[0] * 3, 1)
        added = torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,))
        return added * self.scale + half.sum() + self.table + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_programs_with_shape_arithmetic_and_control_flow_pass(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Shapes(), (torch.ones(4, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2", extra_files={"note.txt": "hello"})
    loaded = load_exported(artifact(tmp_path, "model.pt2", "pytorch-exported", Signature((), ())))
    example = torch.randn(7, 6)
    torch.testing.assert_close(loaded.module()(example), Shapes()(example))


def test_sample_inputs_that_need_unpickling(tmp_path: Path) -> None:
    def edit(name: str, _: bytes) -> bytes | None:
        return pickled(tmp_path / "ran") if name == "data/sample_inputs/model.pt" else None

    assert_refused(rewritten(tmp_path, edit), "needs unpickling")


def test_weights_marked_as_pickles(tmp_path: Path) -> None:
    def edit(name: str, content: bytes) -> bytes | None:
        if name == "data/weights/weight_0":
            return pickled(tmp_path / "ran")
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return None

    assert_refused(rewritten(tmp_path, edit), "needs unpickling")


def test_constants_that_are_objects(tmp_path: Path) -> None:
    def edit(name: str, content: bytes) -> bytes | None:
        if not name.endswith("constants_config.json"):
            return None
        config = json.loads(content)
        config["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }
        return json.dumps(config).encode()

    extra = {"data/constants/opaque_obj_0": pickled(tmp_path / "ran")}
    assert_refused(rewritten(tmp_path, edit, extra), "opaque_obj_0")


def test_compiled_libraries(tmp_path: Path) -> None:
    extra = {"data/aotinductor/model/model.so": b"\x7fELF"}
    assert_refused(rewritten(tmp_path, lambda *_: None, extra), "aotinductor")


def changed_program(directory: Path, change: Callable[[str], str]) -> LocalArtifact:
    def edit(name: str, content: bytes) -> bytes | None:
        return change(content.decode()).encode() if name == "models/model.json" else None

    return rewritten(directory, edit)


def test_shape_expressions_that_are_code(tmp_path: Path) -> None:
    bomb = f"__import__('pathlib').Path('{tmp_path}/ran').touch()"

    def change(text: str) -> str:
        program = json.loads(text)
        replaced = json.dumps(program).replace("Symbol('s", "REPLACED('s")
        assert "REPLACED" in replaced
        start = replaced.index('"expr_str": "') + len('"expr_str": "')
        return replaced[:start] + bomb + replaced[replaced.index('"', start) :]

    assert_refused(changed_program(tmp_path, change), "not arithmetic")


@pytest.mark.parametrize(
    "expression",
    ["eval(chr(95))", "open('x')", "exit()", "s0.__class__", "Symbol('s0', exec('1')=True)", "().s0", "[s0]"],
)
def test_expressions_beyond_arithmetic(tmp_path: Path, expression: str) -> None:
    def change(text: str) -> str:
        start = text.index('"expr_str": "') + len('"expr_str": "')
        return text[:start] + expression + text[text.index('"', start) :]

    assert_refused(changed_program(tmp_path, change), "not arithmetic")


@pytest.mark.parametrize("target", ["torch.hub.os.system", "torch.ops.load_library", "torch.load", "torch.os.system"])
def test_functions_that_are_no_operators(tmp_path: Path, target: str) -> None:
    assert_refused(
        changed_program(tmp_path, lambda text: text.replace("torch.ops.aten.relu.default", target)), "is no operator"
    )


def test_trust_opens_them(tmp_path: Path) -> None:
    made = rewritten(tmp_path, lambda *_: None, {"data/unknown": b"x"})
    assert_refused(made, "data/unknown")
    TorchRuntime().load(replace(made, trusted=True), RuntimeOptions()).close()


def test_another_zip_is_no_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("root/version", "1")
    with pytest.raises(InvalidInput, match="cannot load"):
        load_exported(artifact(tmp_path, "model.pt2", "pytorch-exported", Signature((), ())))
