"""CheckedPredictor: the contract's checks around a framework's `run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.domain.tensors import Datatype, Signature, Tensors, TensorSpec
from modelyard.runtimes.predictor import CheckedPredictor

TWO = Signature(
    (TensorSpec("a", Datatype.FP32, ("batch", 2)), TensorSpec("b", Datatype.INT64, ("batch",))),
    (TensorSpec("y", Datatype.FP32, ("batch", 2)),),
)


def predictor(run: Any, signature: Signature = TWO) -> CheckedPredictor:
    return CheckedPredictor("test", signature, run, {"threads": "1"})


def echo(inputs: Tensors) -> Sequence[np.ndarray[Any, Any]]:
    return [np.asarray(inputs["a"])]


def inputs(rows_a: int = 3, rows_b: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    return {"a": np.ones((rows_a, 2), np.float32), "b": np.ones(rows_b, np.int64)}


def test_inputs_with_different_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="input 'b' has shape"):
        predictor(echo).predict(inputs(3, 2))


def test_a_fixed_first_dimension_is_checked() -> None:
    fixed = Signature((TensorSpec("a", Datatype.FP32, (1, 2)),), TWO.outputs)
    assert predictor(echo, fixed).predict({"a": np.ones((1, 2), np.float32)})["y"].shape == (1, 2)
    with pytest.raises(InvalidInput):
        predictor(echo, fixed).predict({"a": np.ones((2, 2), np.float32)})


def test_inner_symbols_accept_any_size() -> None:
    sequence = Signature(
        (TensorSpec("a", Datatype.FP32, ("batch", "sequence")),),
        (TensorSpec("y", Datatype.FP32, ("batch", "sequence")),),
    )
    assert predictor(echo, sequence).predict({"a": np.ones((4, 9), np.float32)})["y"].shape == (4, 9)


@pytest.mark.parametrize("shape", [(3, 1), (3,), (3, 2, 1)])
def test_an_output_of_another_shape_names_both(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendFailed, match=r"output 'y' is declared FP32\[batch, 2\], the model gives FP32\[3"):
        predictor(lambda _: [np.ones(shape, np.float32)]).predict(inputs())


def test_scalars_pass() -> None:
    scalar = Signature((TensorSpec("a", Datatype.FP32, ()),), (TensorSpec("y", Datatype.FP32, ()),))
    assert predictor(echo, scalar).predict({"a": np.array(2.0, np.float32)})["y"].shape == ()


def test_an_output_of_another_datatype_names_both() -> None:
    with pytest.raises(BackendFailed, match="output 'y' came out as FP64: the signature says FP32"):
        predictor(lambda _: [np.ones((3, 2))]).predict(inputs())


def test_strided_outputs_become_contiguous() -> None:
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    output = predictor(lambda _: [wide[:, ::2]]).predict(inputs())["y"]
    assert output.flags.c_contiguous
    np.testing.assert_array_equal(output, wide[:, ::2])


def test_what_the_framework_raises_is_named_with_its_reason() -> None:
    def broken(_: Tensors) -> Sequence[np.ndarray[Any, Any]]:
        raise ZeroDivisionError("no luck\n\nStack trace:\n  frame 1")

    with pytest.raises(BackendFailed) as caught:
        predictor(broken).predict(inputs())
    assert caught.value.why == "no luck"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_own_errors_pass_unchanged() -> None:
    def refuses(_: Tensors) -> Sequence[np.ndarray[Any, Any]]:
        raise InvalidInput("not UTF-8")

    with pytest.raises(InvalidInput, match="not UTF-8"):
        predictor(refuses).predict(inputs())


def test_closing_lets_go_of_the_model() -> None:
    import weakref

    class Model:
        def __call__(self, tensors: Tensors) -> Sequence[np.ndarray[Any, Any]]:
            return echo(tensors)

    model = Model()
    reference = weakref.ref(model)
    loaded = predictor(model)
    del model
    loaded.close()
    assert reference() is None
    with pytest.raises(Unavailable):
        loaded.predict(inputs())
