"""Constraints are read by a small grammar: what it has means what Python means, and nothing else is read."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.tune.expressions import Constraint, Expression

NAMES = frozenset({"cores", "threads", "replicas", "artifact"})
VALUES = {"cores": 8, "threads": 2, "replicas": 3, "artifact": "onnx"}

numbers = st.one_of(st.integers(0, 50).map(str), st.sampled_from(["cores", "threads", "replicas", "0.5"]))
sums = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda text: f"-{text}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
    ),
    max_leaves=6,
)
comparisons = st.tuples(sums, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), sums).map(" ".join)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=3,
)


@given(conditions)
def test_a_condition_means_what_python_means_by_it(text: str) -> None:
    if len(text) > 300:
        return
    constraint = Constraint.parse(text, NAMES)
    try:
        expected = eval(text, {"__builtins__": {"min": min, "max": max}}, dict(VALUES))
    except ZeroDivisionError:
        with pytest.raises(InvalidInput, match="has no value for"):
            constraint.holds(VALUES)
    else:
        assert constraint.holds(VALUES) == bool(expected)


@given(st.text(max_size=60) | st.text(st.sampled_from("()[]{}<>=+-*/%.,'\"abcores 0123456789_\n"), max_size=320))
def test_any_text_is_an_expression_or_a_clear_error(text: str) -> None:
    with suppress(InvalidInput):
        Constraint.parse(text, NAMES).holds(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == 0",
        "cores.__class__ == 1",
        "(lambda: 1)() == 1",
        "[1, 2][0] == 1",
        "cores ** cores < 9",
        "f'{cores}' == '8'",
        "(c := 1) == 1",
        "open('x') == 1",
        "min(cores, key=len) == 1",
        "cores < 1 if cores else 2",
        "artifact in ('onnx',)",
        "True == 1",
        "1e999 > cores",
        "cores << 2 > 1",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Constraint.parse(text, NAMES)
    assert "use names of knobs" in caught.value.hint or "no knob" in caught.value.what


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"'thread' in 'thread <= cores' is no knob .* did you mean 'threads'"):
        Constraint.parse("thread <= cores", NAMES)


@pytest.mark.parametrize("text", ["threads * replicas", "cores", "min(cores, 2)", "'onnx'"])
def test_a_constraint_is_a_condition(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a condition"):
        Constraint.parse(text, NAMES)


def test_deep_nesting_ends_in_a_value_or_a_clear_error() -> None:
    for text in ["-" * 290 + "1 < 2", "(" * 140 + "1" + ")" * 140 + " < 2", "not " * 70 + "1 < 2"]:
        with suppress(InvalidInput):
            Constraint.parse(text, NAMES).holds(VALUES)
    with pytest.raises(InvalidInput, match="more than 300 characters"):
        Constraint.parse("1 < 2 and " * 40 + "1 < 2", NAMES)


def test_texts_are_compared_and_not_added() -> None:
    assert Constraint.parse("artifact == 'onnx'", NAMES).holds(VALUES)
    assert not Constraint.parse("artifact != 'onnx'", NAMES).holds(VALUES)
    with pytest.raises(InvalidInput, match="'artifact \\+ 1 > 2' has no value for artifact = onnx"):
        Constraint.parse("artifact + 1 > 2", NAMES).holds(VALUES)
    with pytest.raises(InvalidInput, match="has no value"):
        Constraint.parse("artifact < 2", NAMES).holds(VALUES)


def test_a_comparison_can_be_a_chain() -> None:
    chain = Constraint.parse("1 <= threads < replicas <= cores", NAMES)
    assert chain.holds(VALUES)
    assert not chain.holds({**VALUES, "replicas": 2})


def test_a_constraint_over_an_inactive_knob_holds() -> None:
    constraint = Constraint.parse("threads > 99", NAMES)
    assert not constraint.holds(VALUES)
    assert constraint.holds({"cores": 8})


def test_an_expression_knows_what_it_reads() -> None:
    assert Expression.parse("min(threads, 4) * replicas + 1", NAMES).names == {"threads", "replicas"}
