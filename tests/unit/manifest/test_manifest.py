"""A valid manifest becomes domain values; a wrong one is told line by line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput, NotFound, Rejected, Unsupported
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import DatasetSpec, Definition, Description, SourceSpec
from modelyard.manifest import ManifestDocument, check_framework, load, parse, schema, to_yaml
from modelyard.manifest.problems import Problems as Found
from modelyard.manifest.yaml_text import read

from .conftest import EXPORTED, MANIFEST, Check, Problems

ROOT = Path(__file__).parents[3]
MANIFESTS = (path for path in ROOT.glob("examples/*/*.yaml") if not path.name.endswith(".space.yaml"))
EXAMPLES = sorted(str(path.relative_to(ROOT / "examples")) for path in MANIFESTS)


def test_a_valid_manifest_gives_its_definition_and_files(check: Check, folder: Path) -> None:
    document = check()
    assert document.definition == Definition(
        name="digits",
        framework="pytorch",
        framework_constraint=">=2.9,<3",
        task="image-classification",
        source=SourceSpec("pytorch-exported", "digits.pt2"),
        signature=Signature(
            (TensorSpec("image", Datatype.FP32, ("batch", 1, 8, 8)),),
            (TensorSpec("logits", Datatype.FP32, ("batch", 10)),),
        ),
        dataset=DatasetSpec("holdout.npz", {"image": "x"}, "y"),
        metrics={"accuracy": 0.98},
        slo=Slo(20, 200),
        convert=("auto",),
    )
    assert document.description == Description()
    assert document.files == {"digits.pt2": folder / "digits.pt2", "holdout.npz": folder / "holdout.npz"}
    assert document.source_files == ("digits.pt2",)


def test_all_problems_are_told_together_each_with_key_line_and_expectation(folder: Path) -> None:
    (folder / "model.yaml").write_text(
        MANIFEST.replace("FP32, shape: [batch, 1,", "float32, shape: [batch, -1,")
        .replace("digits.pt2", "digit.pt2")
        .replace("slo: {p99_ms: 20,", "slo: {p99: 20,")
    )
    with pytest.raises(InvalidInput) as caught:
        load(folder / "model.yaml")
    manifest = folder / "model.yaml"
    assert caught.value.what == f"{manifest} has 5 problems"
    lines = caught.value.why.splitlines()
    assert lines[0].startswith(f"{manifest}:5: source.path: file 'digit.pt2' does not exist")
    assert "did you mean 'digits.pt2'?" in lines[0]
    assert lines[1] == f"{manifest}:7: inputs[0].datatype: unknown datatype 'float32'; did you mean 'FP32'?"
    assert lines[2].startswith(f"{manifest}:7: inputs[0].shape[1]: expected a whole number >= 1 or a name such as")
    assert lines[3:] == [
        f"{manifest}:12: slo.p99_ms: this key is required",
        f"{manifest}:12: slo.p99: unknown key; did you mean 'p99_ms'?",
    ]
    assert f"yard register {manifest} --dry-run" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("task:", "tsk:", "model.yaml:3: tsk: unknown key; did you mean 'task'?"),
        ("name: digits", "nam: digits", "model.yaml:2: nam: unknown key; did you mean 'name'?"),
        ("apiVersion: modelyard/v1", "tags: []", "model.yaml:1: apiVersion: this key is required"),
        ("modelyard/v1", "modelyard/v2", "model.yaml:1: apiVersion: unknown version 'modelyard/v2'"),
        ("name: digits", "name: 12", "model.yaml:2: name: expected a text, got 12 (put it in quotes)"),
        ("name: digits", "name: Digits!", "model.yaml:2: name: 'Digits!' is not a valid model name"),
        ("name: digits", "name:", "model.yaml:2: name: expected a value, got nothing"),
        ("pytorch>=2.9,<3", "pytorsh", "model.yaml:4: framework: unknown framework 'pytorsh'; did you mean 'pytorch'?"),
        ("pytorch>=2.9,<3", "pytorch 2", "model.yaml:4: framework: '2' is not a version constraint"),
        ("pytorch>=2.9,<3", "sklearn", "model.yaml:4: framework: 'digits.pt2' is pytorch-exported, which is pytorch"),
        ("[batch, 10]", "[batch, 0]", "model.yaml:9: outputs[0].shape[1]: expected a whole number >= 1"),
        ("[batch, 10]", "[batch, null]", "model.yaml:9: outputs[0].shape[1]: expected a whole number >= 1"),
        ("[batch, 10]", "[batch, true]", "model.yaml:9: outputs[0].shape[1]: expected a whole number >= 1"),
        ("[batch, 10]", "10", "model.yaml:9: outputs[0].shape: expected a list, got 10"),
        ("{accuracy: 0.98}", "{accuracy: high}", "model.yaml:11: metrics.accuracy: expected a number, got 'high'"),
        ("{accuracy: 0.98}", "{accuracy: .nan}", "model.yaml:11: metrics.accuracy: expected a finite number, got nan"),
        ("{accuracy: 0.98}", "[accuracy]", "model.yaml:11: metrics: expected a mapping of keys to values, got a list"),
        (", label: y", "", "model.yaml:11: metrics: claimed metrics are checked, so they need a dataset with a label"),
        ("{p99_ms: 20, rate_rps: 200}", "p99 < 20", "model.yaml:12: slo: 'p99 < 20' is not an SLO"),
        ("p99_ms: 20", "p99_ms: 0", "model.yaml:12: slo.p99_ms: input should be greater than 0"),
        ("convert: auto", "convert: [onxx]", "model.yaml:13: convert[0]: unknown format 'onxx'; did you mean 'onnx'?"),
        ("convert: auto", "convert: ['onnx:']", "model.yaml:13: convert[0]: 'onnx:' is not a conversion target"),
        ("convert: auto", "convert: [auto, onnx]", "model.yaml:13: convert: 'auto' stands alone"),
        ("convert: auto", "convert: []", "model.yaml:13: convert: list should have at least 1 item"),
        ("convert: auto", "license: Apache 2", "model.yaml:13: license: 'Apache 2' is not an SPDX license"),
        ("{path: digits.pt2}", "{path: digits.pt2, sha256: abc}", "model.yaml:5: source.sha256: expected 64 hex"),
        ("{path: digits.pt2}", "digits.pt2", "model.yaml:5: source: expected a mapping of keys to values, got 'dig"),
        ("{image: x}", "{images: x}", "model.yaml:10: dataset.inputs.images: the model has no input 'images'; did you"),
        ("name: digits", "name: digits\nname: other", "model.yaml:3: name: this key stands twice (first at line 2)"),
        (
            "outputs:\n",
            "outputs:\n  - {name: logits, datatype: INT64, shape: []}\n",
            "model.yaml:10: outputs[1].name: another of the outputs is called 'logits' too",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(problems: Problems, old: str, new: str, line: str) -> None:
    assert any(found.startswith(line) for found in problems(old, new)), problems(old, new)


def test_every_wrong_target_is_told_at_once(problems: Problems) -> None:
    found = problems("convert: auto", "convert: [onx, bf16, 'foo:bar', openvino]")
    assert [line.split(": ")[1] for line in found] == ["convert[0]", "convert[2]"]
    assert "did you mean 'onnx'?" in found[0]
    assert "'foo'" in found[1]


def test_the_batch_of_an_output_must_be_one_of_the_inputs(problems: Problems, check: Check) -> None:
    found = problems("[batch, 1, 8, 8]", "[n, 1, 8, 8]")
    assert found[0].startswith("model.yaml:9: outputs[0].shape: 'batch' is a dimension of no input")
    assert "('n')" in found[0]
    assert check("[batch, 10]", "[boxes, 10]").definition.signature.outputs[0].shape == ("boxes", 10)


def test_an_slo_may_be_written_as_a_sentence(check: Check) -> None:
    assert check("{p99_ms: 20, rate_rps: 200}", "p99 <= 5.5 ms at 40 rps").definition.slo == Slo(5.5, 40)
    assert check("{p99_ms: 20, rate_rps: 200}", "p99 <= 5 ms").definition.slo == Slo(5)


def test_targets_are_listed_or_single(check: Check) -> None:
    assert check("convert: auto", "convert: [onnx, 'onnx:int8-static']").definition.convert == (
        "onnx",
        "onnx:int8-static",
    )
    assert check("convert: auto", "convert: my-own-format").definition.convert == ("my-own-format",)


def test_scalars_follow_yaml_1_2(check: Check) -> None:
    document = check("convert: auto", "tags: [no, 2024-01-01, 12:30, '7']\ndescription: on")
    assert document.description.tags == ("no", "2024-01-01", "12:30", "7")
    assert document.description.description == "on"


def test_a_small_number_in_exponent_form_is_a_number(check: Check) -> None:
    assert check("{accuracy: 0.98}", "{rmse: 1e-3}").definition.metrics == {"rmse": 0.001}


def test_describing_keys_reach_the_description(check: Check, folder: Path) -> None:
    (folder / "card.md").write_text("# Card\n")
    document = check(
        "convert: auto",
        "description: d\nlicense: apache-2.0\nauthors: Ada\nreferences: [r]\ntags: [a, b]\ncard: {path: card.md}",
    )
    assert document.description == Description("d", "Apache-2.0", ("Ada",), ("r",), ("a", "b"), "# Card\n")


def test_extra_files_become_files_of_the_version(check: Check, folder: Path) -> None:
    (folder / "vocabulary.txt").write_text("a\n")
    document = check("convert: auto", "files: [./vocabulary.txt]")
    assert document.files["vocabulary.txt"] == folder / "vocabulary.txt"
    assert document.source_files == ("digits.pt2",)


def test_a_right_checksum_passes_and_a_wrong_one_is_told_with_both_digests(check: Check, problems: Problems) -> None:
    right = hashlib.sha256(EXPORTED).hexdigest()
    assert check("{path: digits.pt2}", f"{{path: digits.pt2, sha256: '{right.upper()}'}}")
    (line,) = problems("{path: digits.pt2}", f"{{path: digits.pt2, sha256: '{'0' * 64}'}}")
    assert line.startswith("model.yaml:5: source.sha256:")
    assert "0" * 64 in line
    assert right in line


def test_the_installed_framework_is_checked_without_importing_it(check: Check) -> None:
    check_framework(check().definition)
    check_framework(check("pytorch>=2.9,<3", "pytorch").definition)
    with pytest.raises(Unsupported, match="is installed") as caught:
        check_framework(check("pytorch>=2.9,<3", "torch<1").definition)
    assert "pip install 'torch<1'" in caught.value.hint


def test_the_framework_follows_from_the_format_where_it_is_not_given(check: Check) -> None:
    assert check("framework: pytorch>=2.9,<3\n", "").definition.framework == "pytorch"


def test_missing_manifest_directory_and_binary(folder: Path) -> None:
    with pytest.raises(NotFound, match="there is no manifest"):
        load(folder / "none.yaml")
    with pytest.raises(InvalidInput, match="is a directory"):
        load(folder)
    (folder / "model.yaml").write_bytes(b"\xff\xfe\0a")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        load(folder / "model.yaml")
    (folder / "model.yaml").write_text("")
    with pytest.raises(InvalidInput, match="is empty"):
        load(folder / "model.yaml")
    (folder / "model.yaml").write_text("- a\n")
    with pytest.raises(InvalidInput, match="no mapping"):
        load(folder / "model.yaml")


def test_a_pickle_is_refused_without_trust_and_never_opened(check: Check, folder: Path) -> None:
    # A pickle that would create a file when it is loaded.
    canary = folder / "canary"
    (folder / "model.pkl").write_bytes(f"cpathlib\nPath.touch\n(cpathlib\nPath\n(V{canary}\ntRtR.".encode())
    new = "framework: sklearn\nsource: {path: model.pkl}"
    old = "framework: pytorch>=2.9,<3\nsource: {path: digits.pt2}"
    with pytest.raises(Rejected, match="is a pickle") as caught:
        check(old, new)
    assert "trust: true" in caught.value.hint
    assert check(old, new, trust=True).definition.source.trusted
    assert check(old, new.replace("pkl}", "pkl, trust: true}")).definition.source == SourceSpec(
        "sklearn", "model.pkl", {}, True
    )
    assert not canary.exists()


def test_a_document_made_in_python_names_its_files(check: Check, folder: Path) -> None:
    document = check()
    made = ManifestDocument.of(document.definition, document.description, document.files)
    assert made == document
    with pytest.raises(InvalidInput, match=r"holdout\.npz"):
        ManifestDocument.of(document.definition, document.description, {"digits.pt2": folder / "digits.pt2"})


def test_to_yaml_of_a_loaded_manifest_reads_back_the_same(check: Check, folder: Path) -> None:
    document = check()
    assert parse(to_yaml(document.definition, document.description), folder, "again") == document


RAGGED = "shape: [batch, 1, 8, side]}"
LENGTHS = "dataset: {path: holdout.npz, inputs: {image: x}, label: y, lengths: {side: n}}"


def ragged(folder: Path, lengths: object, told: str = LENGTHS) -> ManifestDocument:
    np.savez(folder / "holdout.npz", x=np.zeros((6, 1, 8, 8), np.float32), y=np.zeros(6, np.int64), n=lengths)
    text = MANIFEST.replace("shape: [batch, 1, 8, 8]}", RAGGED)
    (folder / "model.yaml").write_text(text.replace("dataset: {path: holdout.npz, inputs: {image: x}, label: y}", told))
    return load(folder / "model.yaml")


def test_rows_may_have_sizes_of_their_own(folder: Path) -> None:
    document = ragged(folder, np.array([8, 3, 8, 1, 2, 2]))
    assert document.definition.dataset == DatasetSpec("holdout.npz", {"image": "x"}, "y", {"side": "n"})
    assert parse(to_yaml(document.definition, document.description), folder, "again") == document


@pytest.mark.parametrize(
    ("lengths", "key", "told"),
    [
        (np.array([8, 3, 9, 1, 2, 2]), "side: n", "lengths.side: the lengths along 'side' are 1 to 9 (the arrays have"),
        (np.array([8, 3]), "side: n", "lengths.side: the lengths along 'side' are int64[2] (give one integer for each"),
        (np.ones(6), "side: n", "lengths.side: the lengths along 'side' are float64[6]"),
        (np.ones(6, np.int64), "side: m", "lengths.side: no array 'm' in the file"),
        (np.ones(6, np.int64), "width: n", "lengths.width: no input has rows of different sizes along 'width'"),
        (np.array([None] * 6), "side: n", "lengths.side: array 'n' holds Python objects"),
    ],
)
def test_sizes_that_rows_cannot_have_are_told(folder: Path, lengths: object, key: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ragged(folder, lengths, LENGTHS.replace("side: n", key))
    assert f"model.yaml:10: dataset.{told}" in caught.value.why


def test_the_json_schema_knows_every_key_and_step() -> None:
    result = schema()
    assert set(result["required"]) == {"apiVersion", "name", "source", "inputs", "outputs"}
    assert {"preprocess", "dataset", "slo", "convert", "card"} <= set(result["properties"])
    assert result["additionalProperties"] is False
    assert "normalize" in str(result["properties"]["preprocess"])
    assert result["$defs"]["Normalize"]["properties"]["layout"]["enum"] == ["chw", "hwc"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_manifests_are_right_but_for_files_not_yet_made(example: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / example
    with pytest.raises(InvalidInput) as caught:
        parse(path.read_text(), tmp_path, "model.yaml")
    assert all("does not exist" in line for line in caught.value.why.splitlines()), caught.value.why


def test_steps_are_checked_where_they_stand(check: Check, problems: Problems, folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join("abcdefghij"))
    (folder / "clean.py").write_text("def up(tensors):\n    return tensors\n")
    document = check(
        "convert: auto",
        "preprocess:\n  - {kind: python, function: 'clean:up'}\n  - {kind: normalize, mean: [0.5]}\n"
        "postprocess:\n  - softmax\n  - {kind: top_k, k: 3, labels_file: labels.txt}",
    )
    assert [s.kind for s in document.definition.preprocess] == ["python", "normalize"]
    assert document.definition.postprocess[1].options == {"k": 3, "labels_file": "labels.txt"}
    assert {"labels.txt", "clean.py"} <= set(document.files)
    assert document.source_files == ("digits.pt2",)
    assert problems("convert: auto", "postprocess:\n  - softmx\n  - {kind: top_k, j: 3}\n  - {k: 3}\n  - 7") == [
        "model.yaml:14: postprocess[0].kind: unknown step 'softmx'; did you mean 'softmax'?",
        "model.yaml:15: postprocess[1].j: unknown key; expected one of tensor, kind, k, labels, labels_file, keep",
        "model.yaml:16: postprocess[2]: a step needs a 'kind'; "
        "expected one of softmax, argmax, top_k, scale, cast, python",
        "model.yaml:17: postprocess[3]: expected a mapping of keys to values, got 7",
    ]
    assert problems("convert: auto", "postprocess: [{kind: top_k, k: 11}]")[0] == (
        "model.yaml:13: postprocess: postprocess[0] (top_k): k is 11, but there are 10 classes (set k to at most 10)"
    )
    assert (
        "file 'none.txt' does not exist"
        in problems("convert: auto", "postprocess: [{kind: top_k, labels_file: none.txt}]")[0]
    )
    assert (
        "file 'clan.py' does not exist"
        in problems("convert: auto", "preprocess: [{kind: python, function: 'clan:up'}]")[0]
    )


def test_the_manifest_page_documents_every_key_and_step() -> None:
    page = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text()
    result = schema()
    names = {*result["properties"], *result["$defs"]["SourceModel"]["properties"]}
    for phase in ("preprocess", "postprocess"):
        for item in result["properties"][phase]["items"]["anyOf"]:
            model = result["$defs"][item["$ref"].rpartition("/")[2]] if "$ref" in item else {"properties": {}}
            names |= {*item.get("enum", ()), *model["properties"]} - {"kind"}
    missing = {name for name in names if f"`{name}`" not in page}
    assert not missing


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_fit_the_json_schema_and_a_typo_does_not(example: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = ROOT / "examples" / example
    value = read(path.read_text(), Found("model.yaml")).value
    assert isinstance(value, dict)
    checker = jsonschema.Draft202012Validator(schema())
    assert list(checker.iter_errors(value)) == []
    assert list(checker.iter_errors({**value, "tsk": "x"})) != []
