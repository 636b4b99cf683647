"""Paths, formats told from content, datasets, Python modules."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import DatasetSpec
from modelyard.manifest import parse
from modelyard.manifest.datasets import read_headers

from .conftest import EXPORTED, MANIFEST, SAFETENSORS, SKOPS, STATE_DICT, TORCHSCRIPT, Check, Problems

SOURCE = "framework: pytorch>=2.9,<3\nsource: {path: digits.pt2}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.pt2", "file 'missing.pt2' does not exist"),
        ("/etc/hostname", "leads outside the manifest's folder"),
        ("../x.pt2", "leads outside the manifest's folder"),
        ("sub/../../x.pt2", "leads outside the manifest's folder"),
        ("sub", "'sub' is a directory"),
        ("empty.pt2", "file 'empty.pt2' is empty"),
        ("out.pt2", "is a link that leads outside"),
        ("pipe.pt2", "is not a regular file"),
        ("loop.pt2", "cannot be opened"),
        ("digits.pt2/x", "does not exist"),
        ("''", "source.path: string should have at least 1 character"),
        ("'.'", "names no file"),
    ],
)
def test_a_source_is_a_plain_file_inside_the_folder(
    problems: Problems, folder: Path, tmp_path_factory: pytest.TempPathFactory, path: str, message: str
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.pt2"
    outside.write_bytes(EXPORTED)
    (folder / "sub").mkdir()
    (folder / "empty.pt2").touch()
    (folder / "out.pt2").symlink_to(outside)
    (folder / "loop.pt2").symlink_to("loop.pt2")
    os.mkfifo(folder / "pipe.pt2")
    (line,) = problems("{path: digits.pt2}", f"{{path: {path}}}")
    assert line.startswith("model.yaml:5: source.path: ")
    assert message in line


def test_a_link_inside_the_folder_is_followed(check: Check, folder: Path) -> None:
    (folder / "latest.pt2").symlink_to("digits.pt2")
    assert check("{path: digits.pt2}", "{path: latest.pt2}").definition.source.entry == "latest.pt2"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_told(problems: Problems, folder: Path) -> None:
    (folder / "digits.pt2").chmod(0)
    assert "cannot be read" in problems("{path: digits.pt2}", "{path: ./digits.pt2}")[0]


@pytest.mark.parametrize(
    ("name", "content", "keys", "format_"),
    [
        ("m.pt2", EXPORTED, "", "pytorch-exported"),
        ("m.pt", TORCHSCRIPT, "", "torchscript"),
        ("m.pt", EXPORTED, "", "pytorch-exported"),
        ("m.pt", STATE_DICT, ", factory: 'net:build'", "pytorch-eager"),
        ("m.safetensors", SAFETENSORS, ", factory: 'net:build'", "pytorch-eager"),
        ("m.skops", SKOPS, "", "sklearn"),
        ("m.ubj", b"{L\0\0\0\0\0\0\0\x07learner{", "", "xgboost"),
        ("m.json", b'{"learner":{}}', "", "xgboost"),
        ("m.txt", b"tree\nversion=v4\n", "", "lightgbm"),
        ("model", b"tree\nversion=v4\n", ", format: lightgbm", "lightgbm"),
        ("m.xml", b'<?xml version="1.0"?>\n<net name="m" version="11">', "", "openvino"),
    ],
)
def test_the_format_is_told_from_suffix_and_content(
    check: Check, folder: Path, name: str, content: bytes, keys: str, format_: str
) -> None:
    (folder / name).write_bytes(content)
    (folder / "net.py").write_text("def build():\n    pass\n")
    (folder / "m.bin").write_bytes(b"weights")
    document = check(SOURCE, f"source: {{path: {name}{keys}}}")
    assert document.definition.source.format == format_
    assert document.definition.source.entry == name
    expected = (name, "net.py") if keys.startswith(", fac") else (name, "m.bin") if name == "m.xml" else (name,)
    assert set(document.source_files) == set(expected)


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        ("m.pt2", b"junk", "", "is not an exported program"),
        ("m.pt", STATE_DICT, "", "holds weights only"),
        ("m.safetensors", SAFETENSORS, "", "holds weights only"),
        ("m.safetensors", b"\xff" * 32, ", factory: 'net:build'", "is not a safetensors file"),
        ("m.pt2", EXPORTED, ", factory: 'net:build'", "'factory' goes with weights"),
        ("m.skops", b"junk", "", "is not a skops file"),
        ("m.ubj", b"junk", "", "is not an XGBoost model"),
        ("m.json", b"{}", "", "is not an XGBoost model"),
        ("m.txt", b"hello", "", "is not a LightGBM model"),
        ("m.xml", b"<html>", "", "is not an OpenVINO model"),
        ("m.onnx", b"\x08\x0a\x12\xff\x01x", "", "is not a readable ONNX model"),
        ("m.onnx", b"\x08\x0a", "", "it holds no graph"),
        ("m.weird", b"junk", "", "the format of 'm.weird' cannot be told"),
        ("m.pt2", EXPORTED, ", format: onnx", "'m.pt2' is pytorch-exported, not onnx"),
        ("m.pt2", EXPORTED, ", format: onxx", "unknown format 'onxx'; did you mean 'onnx'?"),
        ("m.xml", b"<net>", "", "file 'm.bin' does not exist"),
        ("m.safetensors", SAFETENSORS, ", factory: net", "'net' does not name a function"),
        ("m.safetensors", SAFETENSORS, ", factory: 'net:bild'", "does not define 'bild'; did you mean 'build'?"),
        ("m.safetensors", SAFETENSORS, ", factory: 'nets:build'", "file 'nets.py' does not exist"),
        ("m.safetensors", SAFETENSORS, ", factory: 'broken:build'", "broken.py is not valid Python"),
    ],
)
def test_a_file_of_another_kind_is_told(
    problems: Problems, folder: Path, name: str, content: bytes, keys: str, message: str
) -> None:
    (folder / name).write_bytes(content)
    (folder / "net.py").write_text("def build():\n    pass\n")
    (folder / "broken.py").write_text("def build(:\n")
    lines = problems(SOURCE, f"source: {{path: {name}{keys}}}")
    assert any(message in line for line in lines), lines


def test_external_data_of_an_onnx_model_belongs_to_the_source(check: Check, problems: Problems, folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["image", "w"], ["logits"])],
        "g",
        [value("image", 1, ["batch", 4])],
        [value("logits", 1, ["batch", 4])],
        [weights],
    )
    onnx.save_model(
        onnx.helper.make_model(graph), folder / "m.onnx",
        save_as_external_data=True, location="m.weights", size_threshold=0,
    )  # fmt: skip
    source = "framework: pytorch\nsource: {path: m.onnx}"  # an exchange format: any framework may stand behind it
    document = check(SOURCE, source)
    assert document.definition.source.format == "onnx"
    assert document.source_files == ("m.onnx", "m.weights")
    (folder / "m.weights").unlink()
    assert "file 'm.weights' does not exist" in problems(SOURCE, source)[0]


def test_modules_beside_a_factory_travel_with_it(check: Check, folder: Path) -> None:
    (folder / "m.safetensors").write_bytes(SAFETENSORS)
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("'''parts'''\n")
    (folder / "parts" / "block.py").write_text("from . import norm\nimport json\n")
    (folder / "parts" / "norm.py").write_text("EPSILON = 1e-5\n")
    (folder / "net.py").write_text("import torch\nfrom parts.block import norm\n\nbuild = None\n")
    (folder / "unrelated.py").write_text("x = 1\n")
    document = check(SOURCE, "source: {path: m.safetensors, factory: 'net:build'}")
    modules = {"net.py", "parts/__init__.py", "parts/block.py", "parts/norm.py"}
    assert set(document.source_files) == {"m.safetensors", *modules}
    assert document.definition.source.trusted


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((6, 1, 8, 8)), "y": np.zeros(6)}, "array 'x' is FP64, but input 'image' is FP32"),
        ({"x": np.zeros((6, 8, 8), np.float32), "y": np.zeros(6)}, "but input 'image' needs [batch, 1, 8, 8]"),
        ({"x": np.zeros((6, 1, 8, 9), np.float32), "y": np.zeros(6)}, "needs [6, 1, 8, 8]"),
        ({"x": np.zeros((0, 1, 8, 8), np.float32), "y": np.zeros(0)}, "has no elements"),
        ({"z": np.zeros((6, 1, 8, 8), np.float32), "y": np.zeros(6)}, "no array 'x' in the file"),
        ({"x": np.zeros((6, 1, 8, 8), np.float32)}, "no array 'y' in the file"),
        (
            {"x": np.zeros((6, 1, 8, 8), np.float32), "y": np.zeros(5)},
            "has shape [5], but the inputs have [6]",
        ),
        ({"x": np.zeros((6, 1, 8, 8), np.float32), "y": np.array([None] * 6)}, "array 'y' holds Python objects"),
    ],
)
def test_a_dataset_that_does_not_fit_is_told(
    problems: Problems, folder: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(folder / "other.npz", **arrays)
    lines = problems("holdout.npz", "other.npz")
    assert any(message in line for line in lines), lines


def test_a_damaged_dataset_is_told(problems: Problems, folder: Path) -> None:
    content = (folder / "holdout.npz").read_bytes()
    (folder / "half.npz").write_bytes(content[: len(content) // 2])
    assert "is not a readable .npz file" in problems("holdout.npz", "half.npz")[0]


def test_texts_feed_bytes_inputs_and_arrays_are_found_by_the_inputs_names(folder: Path) -> None:
    np.savez(folder / "texts.npz", image=np.array(["a", "bc"]), y=np.array(["x", "y"]))
    text = MANIFEST.replace("FP32, shape: [batch, 1, 8, 8]", "BYTES, shape: [batch]").replace(
        "holdout.npz, inputs: {image: x}", "texts.npz"
    )
    dataset = parse(text, folder, "model.yaml").definition.dataset
    assert dataset == DatasetSpec("texts.npz", {"image": "image"}, "y")


def test_only_headers_of_a_dataset_are_read(folder: Path) -> None:
    headers = read_headers(folder / "holdout.npz")
    assert {name: (h.shape, h.dtype) for name, h in headers.items()} == {
        "x": ((6, 1, 8, 8), np.dtype(np.float32)),
        "y": ((6,), np.dtype(np.int64)),
    }
    with pytest.raises(InvalidInput):
        read_headers(folder / "model.yaml")


TEXTS = """\
apiVersion: modelyard/v1
name: sentiment
source: {path: digits.pt2}
inputs: [{name: counts, datatype: FP32, shape: [batch, 3]}]
outputs: [{name: scores, datatype: FP32, shape: [batch, 2]}]
preprocess: [{kind: python, function: 'clean:count', inputs: ['text: BYTES[batch]']}]
dataset: {path: texts.npz, inputs: INPUTS}
"""


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        ("{text: t}", {"text": "t"}),
        ("{text: t, counts: c}", {"text": "t", "counts": "c"}),
        ("{counts: c}", {"counts": "c"}),
    ],
)
def test_a_dataset_may_hold_raw_inputs(folder: Path, inputs: str, kept: dict[str, str]) -> None:
    np.savez(folder / "texts.npz", t=np.array(["a", "b"]), c=np.zeros((2, 3), np.float32))
    (folder / "clean.py").write_text("def count(tensors): ...\n")
    dataset = parse(TEXTS.replace("INPUTS", inputs), folder, "m.yaml").definition.dataset
    assert dataset == DatasetSpec("texts.npz", kept)


def test_a_dataset_of_raw_inputs_is_checked_against_them(folder: Path) -> None:
    np.savez(folder / "texts.npz", t=np.zeros((2, 3)))
    (folder / "clean.py").write_text("def count(tensors): ...\n")
    with pytest.raises(InvalidInput) as caught:
        parse(TEXTS.replace("INPUTS", "{text: t}"), folder, "m.yaml")
    assert "array 't' is FP64, but input 'text' is BYTES" in caught.value.why
    with pytest.raises(InvalidInput) as caught:
        parse(TEXTS.replace("INPUTS", "{txt: t, text: t}"), folder, "m.yaml")
    assert "m.yaml:7: dataset.inputs.txt: the model has no input 'txt'; did you mean 'text'?" in caught.value.why
