"""Hostile and broken YAML is refused in bounded time; what is written reads back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec, Definition, Description, SourceSpec, StepSpec
from modelyard.manifest import parse, to_yaml
from modelyard.manifest.problems import Problems
from modelyard.manifest.yaml_text import MAX_TEXT_BYTES, dump, read

from .conftest import EXPORTED, SAFETENSORS

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(ord('a') + i)}: &{chr(ord('a') + i)} [{','.join(['*' + chr(ord('a') + i - 1)] * 9)}]\n" for i in range(1, 7)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"m\.yaml:1 is not valid YAML"),
        ("a: 1\n\tb: 2", r"m\.yaml:2 is not valid YAML"),
        ("a: 1\n---\nb: 2", r"m\.yaml:2 is not valid YAML"),
        ("a: *nowhere", r"m\.yaml:1 is not valid YAML"),
        ("a: \x00", r"m\.yaml is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", r"m\.yaml:1: YAML tags are not used"),
        ("a: 1\nb: !!str 2", r"m\.yaml:2: YAML tags are not used"),
        ("[" * 10_000, "too deeply nested"),
        ("a: " + "[" * 40 + "]" * 40, "too deeply nested"),
        ("- 1\n" * 60_000, "too long"),
        ("a: &a 1\n" + "".join(f"k{i}: *a\n" for i in range(65)), "too many aliases"),
        (LAUGHS, "expand to more than"),
        ("a: &a [*a]", "expand to more than"),
        ("#" * (MAX_TEXT_BYTES + 1), "is larger than"),
    ],
)
def test_hostile_or_broken_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read(text, Problems("m.yaml"))
    assert caught.value.hint


def test_lines_are_those_of_keys_and_items() -> None:
    problems = Problems("m.yaml")
    text = read("a: 1\nb:\n  - x\n  -\n    c: 2\n", problems)
    assert text.value == {"a": 1, "b": ["x", {"c": 2}]}
    assert text.lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 5, ("b", 1, "c"): 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("true", True), ("null", None), ("~", None), ("", None), ("010", 10), ("0x1F", 31),
        ("0o17", 15), ("1e3", 1000.0), (".5", 0.5), ("-.inf", float("-inf")), ("1_000", "1_000"), ("'1'", "1"),
        ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"), ("=", "="), ("1.", 1.0), ("+3", 3),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    result = read(f"a: {text}", Problems("m.yaml")).value
    assert result == {"a": value}
    assert type(result["a"]) is type(value)  # type: ignore[index]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), plain, max_size=5))
def test_what_is_dumped_reads_back_the_same(value: dict[str, object]) -> None:
    problems = Problems("m.yaml")
    assert read(dump(value), problems).value == (value or {})  # type: ignore[arg-type]
    problems.raise_if_any()


@given(st.text())
def test_any_text_gives_a_value_or_one_clear_error(text: str) -> None:
    try:
        read(text, Problems("m.yaml"))
    except InvalidInput as error:
        assert error.what.startswith("m.yaml")  # noqa: PT017  (most texts are valid)


names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda n: not n.isdigit())
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
words = texts.filter(bool)
symbols = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
positive = st.floats(0.001, 1e6)


@st.composite
def tensors(
    draw: st.DrawFn, datatype: Datatype | None = None, shape: tuple[int | str, ...] | None = None
) -> TensorSpec:
    dims = st.lists(st.integers(1, 2**40) | symbols, max_size=4).map(tuple)
    return TensorSpec(
        draw(words), datatype or draw(st.sampled_from(list(Datatype))), draw(dims) if shape is None else shape
    )


def _unique(specs: list[TensorSpec]) -> bool:
    return len({spec.name for spec in specs}) == len(specs)


sources = st.sampled_from(
    [
        ("pytorch", SourceSpec("pytorch-exported", "m.pt2")),
        ("pytorch", SourceSpec("pytorch-exported", "m.pt2", {}, True)),
        ("pytorch", SourceSpec("pytorch-eager", "m.safetensors", {"factory": "net:build"}, True)),
        ("xgboost", SourceSpec("xgboost", "m.ubj", {"classes": '["no", "yes"]'})),
        ("sklearn", SourceSpec("sklearn", "m.pkl", {}, True)),
    ]
)
steps = st.lists(
    st.builds(
        lambda factor, keep: StepSpec("scale", {"factor": factor, "offset": keep, "tensor": "scores"}),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-5, 5),
    ),
    max_size=2,
).map(tuple)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    framework, source = draw(sources)
    image = TensorSpec("image", Datatype.FP32, ("batch", 2))
    scores = TensorSpec("scores", Datatype.FP32, ("batch", 3))
    outputs = draw(st.lists(tensors(), max_size=3).map(lambda found: [scores, *found]).filter(_unique))
    dataset = draw(
        st.sampled_from([None, DatasetSpec("d.npz", {"image": "x"}, "y"), DatasetSpec("d.npz", {"image": "x"})])
    )
    finite = st.floats(allow_nan=False, allow_infinity=False)
    metrics = st.dictionaries(st.sampled_from(["accuracy", "recall@5", "f1"]), finite)
    return Definition(
        name=draw(names),
        framework=framework,
        framework_constraint=draw(st.sampled_from(["", ">=2.9,<3", "==1.*"])),
        source=source,
        task=draw(texts),
        signature=Signature((image,), tuple(outputs)),
        preprocess=(StepSpec("cast", {"from": "UINT8", "to": "FP32"}),) if draw(st.booleans()) else (),
        postprocess=draw(steps),
        dataset=dataset,
        metrics=draw(metrics) if dataset and dataset.label else {},
        slo=draw(st.none() | st.builds(Slo, positive, st.none() | positive)),
        convert=draw(st.sampled_from([("auto",), ("onnx",), ("onnx:int8-static", "openvino:bf16")])),
    )


descriptions = st.builds(
    Description,
    description=texts,
    license=st.sampled_from(["", "Apache-2.0", "MIT OR Apache-2.0", "LicenseRef-Own"]),
    authors=st.lists(texts, max_size=2).map(tuple),
    references=st.lists(texts, max_size=2).map(tuple),
    tags=st.lists(texts, max_size=3).map(tuple),
    card=texts,
)


@pytest.fixture(scope="module")
def version_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    (folder / "m.pt2").write_bytes(EXPORTED)
    (folder / "m.safetensors").write_bytes(SAFETENSORS)
    (folder / "m.ubj").write_bytes(b"{learner")
    (folder / "m.pkl").write_bytes(b"junk")
    (folder / "net.py").write_text("def build(): ...\n")
    np.savez(folder / "d.npz", x=np.zeros((2, 2), np.float32), y=np.zeros(2))
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(definition=definitions(), description=descriptions)
def test_a_definition_written_as_yaml_reads_back_the_same(
    version_folder: Path, definition: Definition, description: Description
) -> None:
    document = parse(to_yaml(definition, description), version_folder, "m.yaml")
    assert document.definition == definition
    assert document.description == description
