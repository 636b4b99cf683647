"""Steps around a model: what clients see, and that the numbers are right."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import StepSpec
from modelyard.manifest.steps import Phase, Pipeline

Image = pytest.importorskip("PIL.Image")

IMAGES = Signature(
    (TensorSpec("image", Datatype.FP32, ("batch", 3, 4, 6)),), (TensorSpec("logits", Datatype.FP32, ("batch", 5)),)
)


def before(*steps: StepSpec, directory: Path = Path()) -> Pipeline:
    return Pipeline.build(steps, directory)


def after(*steps: StepSpec, directory: Path = Path()) -> Pipeline:
    return Pipeline.build(steps, directory, Phase.AFTER)


def step(kind: str, **options: Any) -> StepSpec:
    return StepSpec(kind, {name.rstrip("_"): value for name, value in options.items()})


def encoded(array: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def batch_of(*items: bytes) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def picture(height: int = 4, width: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_encoded_images_become_what_the_model_takes() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pipeline = before(step("decode_image", size=[4, 6]), step("normalize", mean=mean, std=std))
    outer = pipeline.outer_signature(IMAGES)
    assert outer.inputs == (TensorSpec("image", Datatype.BYTES, ("batch",)),)
    assert outer.outputs == IMAGES.outputs
    pictures = [picture(seed=1), picture(seed=2)]
    raw = {"image": batch_of(*map(encoded, pictures))}
    assert outer.check_inputs(raw) == 2
    result = pipeline.apply(raw)
    assert IMAGES.check_inputs(result) == 2
    expected = ((np.stack(pictures) / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result["image"], expected, atol=1e-5)
    assert result["image"].flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_common_image_formats_are_decoded_and_scaled(kind: str) -> None:
    flat = np.full((40, 60, 3), 200, np.uint8)
    result = before(step("decode_image", size=[4, 6])).apply({"image": batch_of(encoded(flat, kind))})["image"]
    assert result.shape == (1, 4, 6, 3)
    assert np.abs(result.astype(int) - 200).max() <= 3


def test_crop_keeps_the_aspect_and_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # the middle third is white
    data = {"image": batch_of(encoded(wide))}
    cropped = before(step("decode_image", size=[10, 10], fit="crop")).apply(data)["image"]
    stretched = before(step("decode_image", size=[10, 10])).apply(data)["image"]
    assert (cropped == 255).all()
    assert stretched[0, :, 0].max() == 0


def test_grey_images_have_one_channel() -> None:
    data = {"image": batch_of(encoded(picture()))}
    assert before(step("decode_image", mode="L")).apply(data)["image"].shape == (1, 4, 6, 1)


@pytest.mark.parametrize(("side", "pixels"), [(9_000, "9000 x 9000"), (60_000, "far too many")])
def test_a_decompression_bomb_is_refused_by_its_header(side: int, pixels: str) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(InvalidInput, match=f"image 1 has {pixels} pixels"):
        before(step("decode_image", size=[4, 6])).apply({"image": batch_of(encoded(picture()), bomb)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batch_of(b"not an image"), "image 0 cannot be decoded"),
        (batch_of(encoded(picture())[:60]), "image 0 cannot be decoded"),
        (batch_of(b""), "image 0 cannot be decoded"),
        (batch_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "image 0 cannot be decoded"),
        (batch_of(encoded(picture()), encoded(picture(5, 5))), "differ in size"),
        (batch_of(), "there is no image"),
        (np.array(["text"], object), "is not bytes"),
    ],
)
def test_what_is_no_image_is_refused(data: NDArray[Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        before(step("decode_image")).apply({"image": data})
    assert caught.value.hint


def test_resize_scales_each_channel_of_bytes_and_floats() -> None:
    flat = np.stack([np.full((8, 12), v, np.uint8) for v in (10, 100, 250)], axis=-1)[None]
    pipeline = before(step("resize", size=[4, 6]), step("normalize"))
    assert pipeline.outer_signature(IMAGES).inputs == (
        TensorSpec("image", Datatype.UINT8, ("batch", "height", "width", 3)),
    )
    for array in (flat, flat.astype(np.float32)):
        result = before(step("resize", size=[4, 6])).apply({"image": array})["image"]
        assert result.dtype == array.dtype
        np.testing.assert_allclose(result, np.broadcast_to([10, 100, 250], (1, 4, 6, 3)), atol=1e-3)
    with pytest.raises(InvalidInput, match="images have shape"):
        before(step("resize", size=[4, 6])).apply({"image": flat.astype(np.int64)})


def test_normalize_keeps_hwc_where_the_model_wants_it() -> None:
    signature = Signature((TensorSpec("x", Datatype.FP32, ("n", 4, 6, 3)),), IMAGES.outputs)
    pipeline = before(step("normalize", scale=1.0, mean=[1.0], std=[2.0], layout="hwc", from_="FP32"))
    assert pipeline.outer_signature(signature).inputs == (TensorSpec("x", Datatype.FP32, ("n", 4, 6, 3)),)
    np.testing.assert_allclose(pipeline.apply({"x": np.full((1, 4, 6, 3), 5, np.float32)})["x"], 2.0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("decode_image")], "preprocess.0. .decode_image.: it makes UINT8"),
        ([step("decode_image"), step("normalize")], "image: UINT8.* follows"),
        ([step("decode_image", size=[9, 9]), step("normalize")], "image: UINT8.* follows"),
        ([step("decode_image", mode="L", size=[4, 6]), step("normalize")], "mode L has 1 channels"),
        ([step("resize", size=[5, 6]), step("normalize")], r"makes \[5, 6\]"),
        ([step("normalize", mean=[0.0, 0.0])], "mean or std has 2 values"),
        ([step("normalize", layout="hwc", mean=[0.5] * 3)], "has 6 channels"),
        ([step("cast", from_="UINT8", to="FP16")], "makes FP16, but the tensor is image: FP32"),
        ([step("reshape", from_=[8, 9], to=[72])], "makes rows of shape"),
        ([step("scale", tensor="other")], "there is no tensor 'other'"),
    ],
)
def test_steps_that_do_not_fit_are_told_by_their_place(steps: list[StepSpec], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        before(*steps).outer_signature(IMAGES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (step("normalise"), "unknown preprocess step 'normalise'; did you mean 'normalize'"),
        (step("softmax"), "unknown preprocess step 'softmax'"),
        (step("resize"), "size: this key is required"),
        (step("resize", size=[1]), "size: list should have at least 2"),
        (step("resize", size=[4, 0]), "size.1.: input should be greater"),
        (step("resize", sice=[4, 4]), "sice: unknown key; did you mean 'size'"),
        (step("normalize", std=[0.0]), "a standard deviation cannot be 0"),
        (step("normalize", mean=[0.0, 0.0], std=[1.0, 1.0, 1.0]), "mean has 2 values and std 3"),
        (step("cast", from_="UINT8", to="float32"), "did you mean 'FP32'"),
        (step("cast", from_="BYTES", to="FP32"), "BYTES cannot be cast"),
        (step("reshape", from_=[4], to=[5]), "do not fill"),
        (step("python", function="steps"), "does not name a function"),
        (step("python", function="s:f", inputs=["x UINT8"]), "is not a tensor"),
        (step("python", function="s:f", inputs=["x: UINT8[batch, 0]"]), "expected a whole number >= 1"),
    ],
)
def test_a_wrong_step_cannot_be_built(spec: StepSpec, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        before(spec)
    assert message.replace(".1.", "[1]") in str(caught.value)


@pytest.mark.parametrize(
    ("values", "to", "fits"),
    [
        (np.array([0, 255], np.int64), "UINT8", True),
        (np.array([256], np.int64), "UINT8", False),
        (np.array([-1], np.int64), "UINT8", False),
        (np.array([-0.5, 255.9], np.float32), "UINT8", True),
        (np.array([256.0], np.float32), "UINT8", False),
        (np.array([np.nan], np.float32), "INT64", False),
        (np.array([2.0**63], np.float64), "INT64", False),
        (np.array([-(2.0**63)], np.float64), "INT64", True),
        (np.array([2**64 - 1], np.uint64), "INT64", False),
        (np.array([70000.0], np.float32), "FP16", False),
        (np.array([np.inf, np.nan], np.float32), "FP16", True),
        (np.array([True]), "FP32", True),
        (np.array([], np.int64), "UINT8", True),
    ],
)
def test_a_cast_keeps_values_or_refuses(values: NDArray[Any], to: str, fits: bool) -> None:
    pipeline = before(step("cast", from_=str(Datatype.of(values.dtype)), to=to))
    if fits:
        result = pipeline.apply({"x": values})["x"]
        assert result.dtype == Datatype(to).numpy
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(result, values.astype(result.dtype))
    else:
        with pytest.raises(InvalidInput, match="does not fit"):
            pipeline.apply({"x": values})


def test_scale_and_reshape() -> None:
    signature = Signature((TensorSpec("x", Datatype.FP32, ("batch", 1, 2, 2)),), IMAGES.outputs)
    pipeline = before(step("reshape", from_=[4], to=[1, 2, 2]), step("scale", factor=0.5, offset=-1.0))
    assert pipeline.outer_signature(signature).inputs == (TensorSpec("x", Datatype.FP32, ("batch", 4)),)
    result = pipeline.apply({"x": np.array([[2, 4, 6, 8]], np.float32)})["x"]
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[[[0, 1], [2, 3]]]])
    with pytest.raises(InvalidInput, match="rows have shape"):
        pipeline.apply({"x": np.zeros((1, 5), np.float32)})


def test_a_step_names_its_tensor_where_there_are_several() -> None:
    two = Signature(
        (TensorSpec("a", Datatype.FP32, ("batch", 2)), TensorSpec("b", Datatype.FP32, ("batch", 2))), IMAGES.outputs
    )
    with pytest.raises(InvalidInput, match="there are several tensors") as caught:
        before(step("scale", factor=2.0)).outer_signature(two)
    assert "a, b" in caught.value.hint
    pipeline = before(step("cast", tensor="b", from_="INT64", to="FP32"))
    assert [str(s.datatype) for s in pipeline.outer_signature(two).inputs] == ["FP32", "INT64"]
    result = pipeline.apply({"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.int64)})
    assert two.check_inputs(result) == 1


finite = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.floats(-60000, 60000, width=16),
)


@given(finite)
def test_softmax_gives_probabilities_in_the_scores_order(scores: NDArray[Any]) -> None:
    result = after(step("softmax")).apply({"logits": scores})["logits"]
    assert result.dtype == scores.dtype
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result.sum(-1, dtype=np.float64), 1, atol=2e-2 if scores.dtype == np.float16 else 1e-5)
    best = np.take_along_axis(result, scores.argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_array_equal(best, result.max(-1))


def test_softmax_then_top_k_with_labels() -> None:
    pipeline = after(step("softmax"), step("top_k", k=2, labels=list("abcde")))
    outer = pipeline.outer_signature(IMAGES)
    assert [str(spec) for spec in outer.outputs] == [
        "classes: INT64[batch, 2]",
        "scores: FP32[batch, 2]",
        "labels: BYTES[batch, 2]",
    ]
    result = pipeline.apply({"logits": np.log(np.array([[1, 4, 1, 3, 1], [5, 1, 1, 1, 2]], np.float32))})
    assert list(result) == ["classes", "scores", "labels"]
    np.testing.assert_array_equal(result["classes"], [[1, 3], [0, 4]])
    np.testing.assert_allclose(result["scores"], [[0.4, 0.3], [0.5, 0.2]], rtol=1e-5)
    assert result["labels"].tolist() == [[b"b", b"d"], [b"a", b"e"]]


def test_top_k_of_equal_scores_takes_the_lower_class_first_and_unsigned_scores_sort_too() -> None:
    result = after(step("top_k", k=3)).apply({"s": np.array([[7, 9, 7, 9]], np.uint8)})
    assert result["classes"].tolist() == [[1, 3, 0]]
    assert result["scores"].tolist() == [[9, 9, 7]]


def test_labels_come_from_a_file_of_the_version(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("ä\r\nb\r\nc\r\nd\r\ne\r\n".encode())
    pipeline = after(step("top_k", k=1, labels_file="labels.txt"), directory=tmp_path)
    pipeline.outer_signature(IMAGES)
    assert pipeline.apply({"logits": np.eye(5, dtype=np.float32)[:1]})["labels"].tolist() == [["ä".encode()]]
    with pytest.raises(NotFound, match=r"labels\.txt"):
        after(step("top_k", labels_file="labels.txt"), directory=tmp_path / "none")
    with pytest.raises(InvalidInput, match="outside"):
        after(step("top_k", labels_file="../labels.txt"), directory=tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (step("top_k", k=6), "k is 6, but there are 5 classes"),
        (step("top_k", k=1, labels=["a"]), "1 labels for 5 classes"),
        (step("cast", from_="INT64", to="FP32"), "takes INT64"),
    ],
)
def test_postprocessing_that_does_not_fit_is_told(spec: StepSpec, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        after(spec).outer_signature(IMAGES)


def test_argmax_may_keep_the_scores() -> None:
    pipeline = after(step("argmax", name="digit", keep=True))
    assert [spec.name for spec in pipeline.outer_signature(IMAGES).outputs] == ["logits", "digit"]
    result = pipeline.apply({"logits": np.eye(5, dtype=np.float32)})
    assert result["digit"].tolist() == [0, 1, 2, 3, 4]
    assert result["digit"].dtype == np.int64
    assert "logits" in result


PYTHON = """
import numpy as np
from words import COUNT

calls = []

def lengths(tensors):
    calls.append(1)
    return {"x": np.array([[len(t) + COUNT] for t in tensors["text"]], np.float32)}

def refuse(tensors):
    raise ValueError("too long")

def broken(tensors):
    return tensors["nothing"]

def wrong(tensors):
    return 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Callable[..., Pipeline]:
    (tmp_path / "steps.py").write_text(PYTHON)
    (tmp_path / "words.py").write_text("COUNT = 10\n")

    def build(function: str, **options: Any) -> Pipeline:
        return before(step("python", function=f"steps:{function}", **options), directory=tmp_path)

    return build


def test_a_python_step_runs_the_versions_own_code(code: Callable[..., Pipeline]) -> None:
    signature = Signature((TensorSpec("x", Datatype.FP32, ("batch", 1)),), IMAGES.outputs)
    pipeline = code("lengths", inputs=["text: BYTES[batch]"])
    assert pipeline.outer_signature(signature).inputs == (TensorSpec("text", Datatype.BYTES, ("batch",)),)
    for _ in range(2):
        assert pipeline.apply({"text": batch_of(b"a", b"bcd")})["x"].tolist() == [[11.0], [13.0]]


def test_faults_of_python_steps_are_told_apart(code: Callable[..., Pipeline], tmp_path: Path) -> None:
    data = {"text": batch_of(b"a")}
    with pytest.raises(InvalidInput, match="refused the request: too long"):
        code("refuse").apply(data)
    with pytest.raises(BackendFailed, match="KeyError"):
        code("broken").apply(data)
    with pytest.raises(BackendFailed, match="returned int"):
        code("wrong").apply(data)
    with pytest.raises(InvalidInput, match="does not define a function 'none'"):
        code("none").apply(data)
    (tmp_path / "steps.py").write_text("import no_such_module\n")
    with pytest.raises(BackendFailed, match="no_such_module"):
        code("lengths").apply(data)


def test_two_versions_may_have_modules_of_the_same_name(tmp_path: Path) -> None:
    results = []
    for version, count in (("1", 10), ("2", 20)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "steps.py").write_text(PYTHON)
        (tmp_path / version / "words.py").write_text(f"COUNT = {count}\n")
        pipeline = before(step("python", function="steps:lengths"), directory=tmp_path / version)
        results.append(float(pipeline.apply({"text": batch_of(b"a")})["x"][0, 0]))
    assert results == [11.0, 21.0]


def test_python_code_does_not_run_when_a_pipeline_is_built(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("raise SystemError('ran')\n")
    pipeline = before(step("python", function="steps:f"), directory=tmp_path)
    assert pipeline.outer_signature(IMAGES) == IMAGES
    with pytest.raises(BackendFailed, match="ran"):
        pipeline.apply({})


def test_an_empty_pipeline_changes_nothing() -> None:
    pipeline = before()
    assert not pipeline
    assert pipeline.outer_signature(IMAGES) == IMAGES
    array = np.zeros(1)
    assert pipeline.apply({"x": array})["x"] is array


def test_raw_requests_are_made_from_model_inputs() -> None:
    pipeline = before(step("decode_image", size=[4, 6]), step("normalize", mean=[0.5], std=[0.25]))
    smooth = np.linspace(-1.5, 1.5, 2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    raw = pipeline.undo({"image": smooth})
    assert pipeline.outer_signature(IMAGES).check_inputs(raw) == 2
    np.testing.assert_allclose(pipeline.apply(raw)["image"], smooth, atol=0.3)  # JPEG on a steep ramp


@pytest.mark.parametrize(
    "specs",
    [
        [step("cast", from_="UINT8", to="FP32")],
        [step("cast", from_="UINT8", to="FP32"), step("scale", factor=2.0, offset=1.0)],
        [step("reshape", from_=[4], to=[2, 2])],
    ],
)
def test_what_is_undone_can_be_done_again(specs: list[StepSpec]) -> None:
    pipeline = before(*specs)
    array = np.array([[[1, 3], [5, 201]]], np.float32)
    np.testing.assert_array_equal(pipeline.apply(pipeline.undo({"x": array}))["x"], array)


def test_undoing_holds_values_in_the_range_of_the_raw_input() -> None:
    raw = before(step("cast", from_="UINT8", to="FP32")).undo({"x": np.array([-3, 300.4, np.nan], np.float32)})
    assert raw["x"].tolist() == [0, 255, 0]
    assert raw["x"].dtype == np.uint8


@pytest.mark.parametrize("spec", [step("python", function="a:b"), step("scale", factor=0.0)])
def test_what_cannot_be_undone_says_so(spec: StepSpec) -> None:
    with pytest.raises(Unsupported, match="cannot be undone"):
        before(spec).undo({"x": np.zeros(1, np.float32)})
