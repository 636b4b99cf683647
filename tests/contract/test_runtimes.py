"""What every runtime must do, over one small model per framework and format (`runtime_cases.py`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.domain.artifacts import Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError, Unavailable, Unsupported
from modelyard.domain.tensors import Datatype, Signature
from modelyard.runtimes import Predictor, Runtime, RuntimeOptions, Runtimes, read_signature
from tests.contract.runtime_cases import CASES, Arrays, Built, Case, rows


@dataclass(frozen=True)
class Subject:
    case: Case
    built: Built
    runtime: Runtime
    predictor: Predictor

    @property
    def signature(self) -> Signature:
        return self.built.artifact.signature

    def check(self, outputs: Arrays, inputs: Arrays) -> None:
        expected = self.built.reference(inputs)
        for spec in self.signature.outputs:
            np.testing.assert_allclose(
                outputs[spec.name], expected[spec.name], rtol=self.case.tolerance, atol=self.case.tolerance
            )


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    case: Case = request.param
    built = case.build(tmp_path_factory.mktemp(case.name))
    runtime = Runtimes.discover().get(case.runtime)
    predictor = runtime.load(built.artifact, RuntimeOptions())
    yield Subject(case, built, runtime, predictor)
    predictor.close()


@pytest.mark.parametrize("count", [1, 5])
def test_agrees_with_the_framework_itself(subject: Subject, count: int) -> None:
    inputs = rows(subject.signature, count)
    subject.check(subject.predictor.predict(inputs), inputs)


def test_outputs_are_exactly_what_the_signature_says(subject: Subject) -> None:
    outputs = subject.predictor.predict(rows(subject.signature, 3))
    assert list(outputs) == [spec.name for spec in subject.signature.outputs]
    for spec in subject.signature.outputs:
        output = outputs[spec.name]
        assert output.dtype == spec.datatype.numpy
        assert output.shape == (3, *spec.shape[1:])
        assert output.flags.c_contiguous


def test_same_inputs_give_the_same_bits(subject: Subject) -> None:
    inputs = rows(subject.signature, 4)
    first, second = subject.predictor.predict(inputs), subject.predictor.predict(inputs)
    for name in first:
        assert first[name].tobytes() == second[name].tobytes()


def test_inputs_are_not_changed_and_outputs_belong_to_the_caller(subject: Subject) -> None:
    inputs = rows(subject.signature, 2)
    kept = {name: tensor.copy() for name, tensor in inputs.items()}
    for output in subject.predictor.predict(inputs).values():
        output[...] = 0
    subject.check(subject.predictor.predict(inputs), kept)
    for name, tensor in inputs.items():
        np.testing.assert_array_equal(tensor, kept[name])


def test_read_only_and_strided_inputs_are_fine(subject: Subject) -> None:
    inputs = rows(subject.signature, 6)
    read_only = {n: np.frombuffer(t.tobytes(), t.dtype).reshape(t.shape) for n, t in inputs.items()}
    subject.check(subject.predictor.predict(read_only), inputs)
    subject.check(
        subject.predictor.predict({n: t[::2] for n, t in inputs.items()}), {n: t[::2] for n, t in inputs.items()}
    )


def test_wrong_inputs_are_named(subject: Subject) -> None:
    spec = subject.signature.inputs[0]
    right = rows(subject.signature, 2)
    tensor = right[spec.name]
    wrong = {
        "is missing": {name: t for name, t in right.items() if name != spec.name},
        "unexpected input 'extra'": right | {"extra": tensor},
        "is FP64": right | {spec.name: tensor.astype(np.float64)},
        "has shape": right | {spec.name: tensor[:, :-1]},
    }
    for message, inputs in wrong.items():
        with pytest.raises(InvalidInput, match=message) as caught:
            subject.predictor.predict(inputs)
        assert caught.value.hint
    subject.check(subject.predictor.predict(right), right)


def test_threads_of_the_caller_do_not_disturb_each_other(subject: Subject) -> None:
    batches = [rows(subject.signature, 1 + i % 4, seed=i) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for inputs, outputs in zip(batches, pool.map(subject.predictor.predict, batches), strict=True):
            subject.check(outputs, inputs)


def test_after_close_calls_are_refused(subject: Subject) -> None:
    predictor = subject.runtime.load(subject.built.artifact, RuntimeOptions())
    predictor.close()
    predictor.close()
    with pytest.raises(Unavailable):
        predictor.predict(rows(subject.signature, 1))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_device_and_precision_are_set_and_recorded(subject: Subject, threads: int) -> None:
    predictor = subject.runtime.load(subject.built.artifact, RuntimeOptions(threads=threads))
    assert predictor.settings["threads"] == str(threads)
    assert predictor.settings["device"] == "cpu"
    assert predictor.settings["precision"] == subject.built.artifact.precision
    inputs = rows(subject.signature, 3)
    subject.check(predictor.predict(inputs), inputs)
    predictor.close()


def test_an_unknown_device_is_refused_with_those_there_are(subject: Subject) -> None:
    with pytest.raises(Unsupported, match="no device 'gpu:7'") as caught:
        subject.runtime.load(subject.built.artifact, RuntimeOptions(device="gpu:7"))
    assert "cpu" in caught.value.hint


def test_a_corrupt_file_is_named_with_what_to_do(subject: Subject, tmp_path: Path) -> None:
    artifact = subject.built.artifact
    shutil.copytree(artifact.directory, tmp_path, dirs_exist_ok=True)
    for content in (b"", b"this is no model at all", (tmp_path / artifact.entry).read_bytes()[:40]):
        (tmp_path / artifact.entry).write_bytes(content)
        with pytest.raises(InvalidInput) as caught:
            subject.runtime.load(replace(artifact, directory=str(tmp_path)), RuntimeOptions())
        assert artifact.entry in caught.value.what
        assert caught.value.why or caught.value.hint


def test_a_missing_file_is_named(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        subject.runtime.load(replace(subject.built.artifact, directory=str(tmp_path)), RuntimeOptions())


def test_a_path_out_of_the_artifact_is_refused(subject: Subject) -> None:
    with pytest.raises(InvalidInput, match="not a path inside"):
        subject.runtime.load(replace(subject.built.artifact, entry="../model"), RuntimeOptions())


def test_an_output_that_the_model_does_not_have_is_an_error(subject: Subject) -> None:
    outputs = subject.signature.outputs
    extra = (*outputs, replace(outputs[0], name="ghost"))
    artifact = replace(subject.built.artifact, signature=replace(subject.signature, outputs=extra))
    with pytest.raises((InvalidInput, BackendFailed)) as caught:
        subject.runtime.load(artifact, RuntimeOptions()).predict(rows(subject.signature, 2))
    assert caught.value.hint


def test_a_wrong_output_datatype_is_an_error(subject: Subject) -> None:
    outputs = subject.signature.outputs
    wrong = (replace(outputs[0], datatype=Datatype.UINT8), *outputs[1:])
    artifact = replace(subject.built.artifact, signature=replace(subject.signature, outputs=wrong))
    if outputs[0].name == "label":
        pytest.skip("labels may be read as any datatype that holds them")
    with pytest.raises((InvalidInput, BackendFailed)) as caught:
        subject.runtime.load(artifact, RuntimeOptions()).predict(rows(subject.signature, 2))
    assert outputs[0].name in caught.value.what
    assert caught.value.hint


def test_a_precision_that_the_runtime_cannot_set_is_refused(subject: Subject) -> None:
    precision = Precision.FP64 if subject.case.runtime == "openvino" else Precision.BF16
    with pytest.raises(Unsupported, match="cannot compute in"):
        subject.runtime.load(replace(subject.built.artifact, precision=precision), RuntimeOptions())


def test_the_signature_is_read_from_files_that_carry_it(subject: Subject) -> None:
    blank = replace(subject.built.artifact, signature=Signature((), ()))
    found = read_signature(blank)
    if not subject.case.carries_signature:
        assert found is None
        return
    assert found is not None
    assert found.inputs == subject.signature.inputs
    if subject.case.name == "pytorch-exported":  # a tuple's members have no names
        assert [(s.datatype, s.shape) for s in found.outputs] == [
            (s.datatype, s.shape) for s in subject.signature.outputs
        ]
    else:
        assert set(subject.signature.outputs) <= set(found.outputs)


def test_formats_are_declared(subject: Subject) -> None:
    format_ = subject.built.artifact.target.format
    assert format_ == subject.case.format
    assert format_ in subject.runtime.formats
    assert subject.runtime.name in [runtime.name for runtime in Runtimes.discover().for_format(format_)]


def test_every_format_of_every_built_in_runtime_has_a_case() -> None:
    built_in = [runtime for runtime in Runtimes.discover() if type(runtime).__module__.startswith("modelyard.")]
    assert {(runtime.name, f) for runtime in built_in for f in runtime.formats} == {
        (c.runtime, c.format) for c in CASES
    }


def test_no_thread_is_an_error() -> None:
    with pytest.raises(ModelyardError, match="0 threads"):
        RuntimeOptions(threads=0)
