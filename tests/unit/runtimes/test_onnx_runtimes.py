"""ONNX Runtime and OpenVINO: strings, non-tensor outputs, names, precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from modelyard.domain.artifacts import LocalArtifact, Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.runtimes import RuntimeOptions, read_signature
from modelyard.runtimes.onnxruntime import OnnxRuntime, _session
from modelyard.runtimes.openvino import OpenvinoRuntime, import_openvino
from tests.contract.runtime_cases import NEURAL, artifact, neural_reference, openvino, rows, write_onnx

WORDS = Signature(
    (TensorSpec("words", Datatype.BYTES, ("batch", 2)),), (TensorSpec("same", Datatype.BYTES, ("batch", 2)),)
)


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def words_model(directory: Path) -> LocalArtifact:
    value = helper.make_tensor_value_info
    write(
        directory / "words.onnx",
        [helper.make_node("Identity", ["words"], ["same"])],
        [value("words", TensorProto.STRING, ["batch", 2])],
        [value("same", TensorProto.STRING, ["batch", 2])],
    )
    return artifact(directory, "words.onnx", "onnx", WORDS)


def test_strings_go_in_and_come_out_as_bytes(tmp_path: Path) -> None:
    words = np.array([[b"", "naïve 中".encode()], [b"b", b"c"]], dtype=object)
    output = OnnxRuntime().load(words_model(tmp_path), RuntimeOptions()).predict({"words": words})["same"]
    assert output.tolist() == words.tolist()
    assert all(type(item) is bytes for item in output.reshape(-1))


def test_strings_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    predictor = OnnxRuntime().load(words_model(tmp_path), RuntimeOptions())
    with pytest.raises(InvalidInput, match="element 1 of input 'words' is not UTF-8"):
        predictor.predict({"words": np.array([[b"a", b"\xff"]], dtype=object)})
    with pytest.raises(InvalidInput, match="element 0 of input 'words' is int"):
        predictor.predict({"words": np.array([[1, b"a"]], dtype=object)})


def test_the_signature_of_strings_is_read(tmp_path: Path) -> None:
    assert read_signature(words_model(tmp_path)) == WORDS


def test_openvino_refuses_strings(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no string tensors"):
        OpenvinoRuntime().load(words_model(tmp_path), RuntimeOptions())


def test_a_zipmap_output_says_how_to_convert(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    write(
        tmp_path / "zipmap.onnx",
        [helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])],
        [value("p", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_value_info("probabilities", maps)],
    )
    signature = Signature(
        (TensorSpec("p", Datatype.FP32, ("batch", 2)),), (TensorSpec("probabilities", Datatype.FP32, ("batch", 2)),)
    )
    with pytest.raises(InvalidInput, match="not a tensor") as caught:
        OnnxRuntime().load(artifact(tmp_path, "zipmap.onnx", "onnx", signature), RuntimeOptions())
    assert "zipmap" in caught.value.hint


@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenvinoRuntime()], ids=lambda runtime: runtime.name)
def test_names_and_datatypes_are_checked_at_load(tmp_path: Path, runtime: OnnxRuntime | OpenvinoRuntime) -> None:
    write_onnx(tmp_path / "model.onnx")

    def load(inputs: tuple[TensorSpec, ...]) -> None:
        runtime.load(artifact(tmp_path, "model.onnx", "onnx", Signature(inputs, NEURAL.outputs)), RuntimeOptions())

    image, count = NEURAL.inputs
    with pytest.raises(InvalidInput, match="no input 'picture'") as caught:
        load((TensorSpec("picture", image.datatype, image.shape), count))
    assert "image: FP32[batch, 4]" in caught.value.hint
    with pytest.raises(InvalidInput, match="input 'image' is"):
        load((TensorSpec("image", Datatype.FP64, image.shape), count))
    with pytest.raises(InvalidInput):
        load((image,))


def test_a_batch_that_was_baked_in_fails_clearly(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    write(
        tmp_path / "fixed.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, [2, 4])],
        [value("y", TensorProto.FLOAT, [2, 4])],
    )
    spec = ("batch", 4)
    signature = Signature((TensorSpec("x", Datatype.FP32, spec),), (TensorSpec("y", Datatype.FP32, spec),))
    for runtime in (OnnxRuntime(), OpenvinoRuntime()):
        predictor = runtime.load(artifact(tmp_path, "fixed.onnx", "onnx", signature), RuntimeOptions())
        with pytest.raises(BackendFailed):
            predictor.predict({"x": np.ones((3, 4), np.float32)})


def test_unnamed_dimensions_get_names(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    write(
        tmp_path / "free.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, [None, 4, None])],
        [value("y", TensorProto.FLOAT, [None, 4, None])],
    )
    found = read_signature(artifact(tmp_path, "free.onnx", "onnx", Signature((), ())))
    assert found is not None
    assert found.inputs[0].shape == ("batch", 4, "x_2")
    assert found.batched


def test_spinning_is_short_and_only_where_there_are_cores(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    path = str(tmp_path / "model.onnx")

    def entry(threads: int) -> str:
        options = _session(path, RuntimeOptions(threads=threads)).get_session_options()
        return str(options.get_session_config_entry("session.intra_op.allow_spinning"))

    assert entry(1) == "0"
    assert entry(512) == "0"
    if len(os.sched_getaffinity(0)) >= 2:
        assert entry(2) == "1"


def test_bf16_is_computed_or_refused(tmp_path: Path) -> None:
    """Never a silent fallback: with bf16 the answer differs from fp32 and stays near it; without, the load says so."""
    built = openvino(tmp_path, "openvino:bf16")
    assert built.artifact.precision is Precision.BF16
    if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(Unsupported, match="cannot compute in bf16"):
            OpenvinoRuntime().load(built.artifact, RuntimeOptions())
        return
    predictor = OpenvinoRuntime().load(built.artifact, RuntimeOptions())
    assert predictor.settings["precision"] == "bf16"
    inputs = rows(NEURAL, 16)
    np.testing.assert_allclose(predictor.predict(inputs)["logits"], neural_reference(inputs)["logits"], atol=0.05)


def test_openvino_pins_no_thread_to_a_core(tmp_path: Path) -> None:
    """Replicas are separate processes, and OpenVINO would pin the threads of each to the same cores."""
    predictor = OpenvinoRuntime().load(openvino(tmp_path).artifact, RuntimeOptions(threads=2))
    assert predictor.settings["pinned"] == "False"


def test_openvino_without_its_weights_is_named(tmp_path: Path) -> None:
    built = openvino(tmp_path)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(InvalidInput, match=r"cannot load 'model\.xml'") as caught:
        OpenvinoRuntime().load(built.artifact, RuntimeOptions())
    assert ".bin" in caught.value.hint


BRAIN = Signature((TensorSpec("x", Datatype.BF16, ("batch", 2)),), (TensorSpec("y", Datatype.BF16, ("batch", 2)),))


@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenvinoRuntime()], ids=lambda r: r.name)
def test_a_float32_tensor_may_be_declared_bf16_and_a_native_one_is_refused(tmp_path: Path, runtime: Any) -> None:
    value = helper.make_tensor_value_info
    for name, kind in (("wide", TensorProto.FLOAT), ("native", TensorProto.BFLOAT16)):
        write(
            tmp_path / f"{name}.onnx",
            [helper.make_node("Identity", ["x"], ["y"])],
            [value("x", kind, ["batch", 2])],
            [value("y", kind, ["batch", 2])],
        )
    wide = runtime.load(artifact(tmp_path, "wide.onnx", "onnx", BRAIN), RuntimeOptions())
    given = np.array([[1.5, -2.0]], np.float32)
    np.testing.assert_array_equal(wide.predict({"x": given})["y"], given)
    with pytest.raises((InvalidInput, Unsupported)):
        runtime.load(artifact(tmp_path, "native.onnx", "onnx", BRAIN), RuntimeOptions())
