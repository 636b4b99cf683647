"""Spaces: what is in them, how they are read and written, drawn from and encoded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point
from modelyard.tune.knobs import Choice, Dimension, Integer, Real
from modelyard.tune.space import MOST_POINTS, Space
from tests.unit.tune import scripted

SERVICE = Space.parse(scripted.SERVICE)
CONTINUOUS = Space.parse(scripted.CONTINUOUS)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of up to four knobs, later ones perhaps conditional on earlier ones, with perhaps a constraint.

    At most 1296 points: all of them are listed and checked.
    """
    knobs: dict[str, Dimension] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        when = {}
        if knobs and draw(st.booleans()):
            other = draw(st.sampled_from(list(knobs)))
            levels = knobs[other].spread(3)
            when = {other: tuple(draw(st.sets(st.sampled_from(list(levels)), min_size=1)))}
        kind = draw(st.sampled_from(["integer", "log2", "real", "choice"]))
        low = draw(st.integers(0, 4))
        high = low + draw(st.integers(0, 4))
        if kind == "integer":
            knobs[name] = Integer(low, high, step=draw(st.integers(1, 3)), when=when)
        elif kind == "log2":
            knobs[name] = Integer(low, high, log2=True, when=when)
        elif kind == "real":
            knobs[name] = Real(low / 10, (high + 1) / 10, step=draw(st.sampled_from([0.1, 0.3])), when=when)
        else:
            values: list[int | str] = draw(
                st.lists(st.sampled_from(["x", "yes", "1", "a: b", 7, 1]), min_size=1, max_size=4, unique=True)
            )
            knobs[name] = Choice(tuple(values), when=when)
    numeric = [n for n, k in knobs.items() if not isinstance(k, Choice)]
    constraints = [f"{numeric[0]} + {numeric[-1]} >= floor"] if numeric and draw(st.booleans()) else []
    return Space(knobs, constraints, {"floor": 0})


@given(spaces())
@settings(max_examples=60, deadline=None)
def test_a_space_is_read_back_as_it_was_written(space: Space) -> None:
    again = Space.parse(space.text)
    assert again == space
    assert again.text == space.text
    assert list(itertools.islice(again.walk(3), 500)) == list(itertools.islice(space.walk(3), 500))


@given(spaces())
@settings(max_examples=60, deadline=None)
def test_all_listed_points_are_of_the_space_and_encoded_apart(space: Space) -> None:
    points = space.points()
    assert len(set(points)) == len(points) == space.size
    assert {space.check(point) for point in points} == {None}
    assert [space.point(dict(point)) for point in points] == list(points)
    codes = [space.encode(point) for point in points]
    assert all(((code >= 0) & (code <= 1)).all() and code.shape == space.groups.shape for code in codes)
    assert len({tuple(code) for code in codes}) == len(points)


@given(spaces(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_is_of_the_space(space: Space, seed: int) -> None:
    drawn = space.sobol(8, seed)
    assert len(drawn) == len(set(drawn)) == min(8, space.size or 8)
    assert {space.check(point) for point in [*drawn, space.sample(np.random.default_rng(seed))]} == {None}
    assert space.sobol(8, seed) == drawn


@given(spaces())
@settings(max_examples=40, deadline=None)
def test_neighbours_are_points_of_the_space_that_differ(space: Space) -> None:
    for point in space.points()[:10]:
        near = space.neighbours(point)
        assert point not in near
        assert len(set(near)) == len(near)
        assert {space.check(other) for other in near} <= {None}


def test_the_points_are_those_of_the_definition() -> None:
    expected = [
        (artifact, threads, replicas, batch, delay)
        for artifact, threads, replicas, batch in itertools.product(
            ["onnx", "openvino"], [1, 2, 4], [1, 2, 3, 4], [1, 2, 4, 8, 16, 32, 64]
        )
        if replicas * threads <= 4
        for delay in ([0, 1000, 2000, 4000] if batch >= 4 else [None])
    ]
    names = ["artifact", "threads", "replicas", "max_batch", "delay_us"]
    found = [tuple(point.get(name) for name in names) for point in SERVICE.points()]
    assert found == expected
    assert SERVICE.size == len(expected)


def test_numbers_double_or_step() -> None:
    assert list(Integer(1, 6, log2=True).levels) == [1, 2, 4]
    assert list(Integer(3, 24, log2=True).levels) == [3, 6, 12, 24]
    assert list(Integer(0, 4000, log2=True, step=500).levels) == [0, 500, 1000, 2000, 4000]
    assert list(Integer(0, 5, log2=True).levels) == [0, 1, 2, 4]
    assert list(Integer(2, 9, step=3).levels) == [2, 5, 8]
    assert list(Real(0.3, 0.85, step=0.05).levels or ())[:3] == [0.3, 0.35, 0.4]
    assert list(Real(0.3, 0.85, step=0.05).levels or ())[-1] == 0.85
    assert Real(0.3, 0.85).levels is None


def test_doubling_knobs_are_encoded_by_exponent() -> None:
    knob = Integer(1, 64, log2=True)
    assert [knob.encode(v)[0] for v in (1, 2, 4, 8, 64)] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 1])
    assert Real(1, 100, log=True).encode(10.0) == pytest.approx([0.5])
    assert Integer(0, 10).encode(5) == pytest.approx([0.5])


def test_choices_are_one_hot_and_inactive_knobs_in_the_middle() -> None:
    space = Space({"a": Choice(("x", "y", "z")), "n": Integer(0, 4, when={"a": ("x",)})})
    assert space.encode(space.point({"a": "y"})).tolist() == [0, 1, 0, 0.5]
    assert space.encode(space.point({"a": "x", "n": 4})).tolist() == [1, 0, 0, 1]
    assert space.groups.tolist() == [0, 0, 0, 1]


def test_a_point_from_outside_is_encoded_as_its_nearest_values() -> None:
    space = Space({"n": Integer(1, 4, log2=True), "a": Choice(("x", "y"))})
    assert space.encode(Point.of({"n": 99, "a": "other", "more": 1})).tolist() == [1, 0, 0]
    assert space.encode(Point.of({"n": 3, "a": "x"})).tolist() == [0.75, 1, 0]
    assert space.check(Point.of({"n": 3, "a": "x"})) == "n: 3 is not one of 1, 2, 4"


def test_a_point_is_made_canonical() -> None:
    point = SERVICE.point({"max_batch": 2.0, "threads": 1, "delay_us": 1000, "replicas": 1, "artifact": "onnx"})
    assert str(point) == "artifact=onnx threads=1 replicas=1 max_batch=2"
    assert isinstance(point["max_batch"], int)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"thread": 1}, "no knob 'thread'; did you mean 'threads'"),
        ({"threads": 3}, "'threads' cannot have that value: 3 is not one of 1, 2, 4"),
        ({"artifact": "tf"}, "'artifact' cannot have that value: 'tf' is not one of 'onnx', 'openvino'"),
        ({"threads": 4, "replicas": 2}, "breaks 'replicas \\* threads <= cores'"),
        ({"max_batch": 8}, "has no value for the knob 'delay_us'"),
    ],
)
def test_a_wrong_point_is_told(change: dict[str, int | str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        SERVICE.point({"artifact": "onnx", "threads": 1, "replicas": 1, "max_batch": 1, **change})


def test_a_space_with_a_continuous_knob_has_no_size() -> None:
    assert CONTINUOUS.size is None
    with pytest.raises(InvalidInput, match="too many points"):
        CONTINUOUS.points()
    drawn = CONTINUOUS.sobol(50, 0)
    assert len(set(drawn)) == 50
    assert {CONTINUOUS.check(point) for point in drawn} == {None}
    assert 15 <= sum(point["artifact"] == "onnx" for point in drawn) <= 35, "with and without the conditional knob"


def test_a_space_too_large_to_be_listed_is_sampled() -> None:
    space = Space({"a": Integer(1, 1000), "b": Integer(1, 1000)}, ["a + b == 1001"])
    large = Space({"a": Integer(1, 1000), "b": Integer(1, 1000)}, ["a <= b"])
    assert space.size is None or space.size <= MOST_POINTS
    assert large.size is None
    assert len(large.sobol(20, 1)) == 20
    assert next(iter(large.walk(3))) == Point.of({"a": 1, "b": 1})


def test_samples_of_a_listed_space_are_uniform() -> None:
    """Chi-squared of 6000 draws over 6 points; 20.5 is its 99.9 % quantile with 5 degrees of freedom."""
    space = Space.parse(scripted.TINY)
    rng = np.random.default_rng(3)
    counts = dict.fromkeys(space.points(), 0)
    for _ in range(6000):
        counts[space.sample(rng)] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_sobol_points_are_spread_more_evenly_than_random_ones() -> None:
    space = Space({"a": Real(0, 1), "b": Real(0, 1)})
    cells = {(int(float(p["a"]) * 4), int(float(p["b"]) * 4)) for p in space.sobol(16, 7)}
    assert len(cells) == 16


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        (["a > 9"], "'a > 9' never holds"),
        (["a < 3", "b > 99"], "'b > 99' never holds"),
        (["a < 2", "a > 2"], "together they exclude everything: a < 2; a > 2"),
    ],
)
def test_an_empty_space_is_an_error_that_says_why(constraints: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match="no configuration of the space keeps its constraints") as caught:
        Space({"a": Integer(1, 4), "b": Integer(1, 4)}, constraints)
    assert caught.value.why == words


def test_a_narrow_continuous_space_is_found() -> None:
    space = Space({"a": Real(0, 1), "b": Real(0, 1)}, ["a > 0.6", "a < 0.61"])
    assert space.check(space.sample(np.random.default_rng(1))) is None


def test_what_a_knob_depends_on_stands_before_it() -> None:
    with pytest.raises(InvalidInput, match="'a' depends on 'b', which does not stand before it"):
        Space({"a": Integer(1, 4, when={"b": (1,)}), "b": Integer(1, 4)})
    with pytest.raises(InvalidInput, match="'when' of the knob 'b': a: 9 is not one of"):
        Space({"a": Integer(1, 4), "b": Integer(1, 4, when={"a": (9,)})})


def test_conditions_chain() -> None:
    space = Space(
        {
            "a": Choice(("x", "y")),
            "b": Choice(("p", "q"), when={"a": ("x",)}),
            "c": Integer(1, 3, when={"b": ("q",)}),
        }
    )
    assert [str(p) for p in space.points()] == ["a=x b=p", "a=x b=q c=1", "a=x b=q c=2", "a=x b=q c=3", "a=y"]
    assert [str(p) for p in space.neighbours(space.point({"a": "y"}))] == ["a=x b=p"]


WRONG = """\
knobs:
  threads: {integer: [1, corse], log2: true}
  batch: {integer: [8, 1]}
  delay: {integr: [1, 8]}
  cap: {real: [0.3, 0.9], stp: 0.1}
  artifact: {choice: [onnx, true]}
  one: 7
  two: {integer: [1, 2], choice: [1]}
constraints:
  - threads * replica <= 8
  - 12
konstants: {}
constants: {cores: 4, more: [1]}
"""


def test_every_problem_of_a_document_is_told_with_its_line() -> None:
    with pytest.raises(InvalidInput) as caught:
        Space.parse(WRONG, name="space.yaml")
    lines = caught.value.why.splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == [
        f"space.yaml:{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
    ]
    for words in ("did you mean 'cores'", "from 8 to 1", "one of integer, real, choice", "did you mean 'step'"):
        assert words in caught.value.why
    assert "expected texts or numbers, got true" in caught.value.why
    assert "unknown key; did you mean 'constants'" in caught.value.why


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("knobs:\n  n: {integer: [1, 2]}\n  2nd: {choice: [a]}\n", "mine.yaml:3: knobs.2nd: '2nd' cannot name"),
        ("knobs:\n  n: {integer: [1, 2], when: {b: x}}\n", "mine.yaml:2: knobs.n: the knob 'n' depends on 'b'"),
        ("knobs:\n  n: {integer: [1, 2]}\nconstraints:\n  - n > 2\n", "mine.yaml:3: constraints: no configuration of"),
    ],
)
def test_what_is_wrong_with_a_space_as_a_whole_names_its_file_and_line(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=r"mine\.yaml has 1 problem") as caught:
        Space.parse(text, name="mine.yaml")
    assert caught.value.why.startswith(told)


@pytest.mark.parametrize("text", ["", "- 1", "knobs: {}", "knobs: [1]", "{", "knobs: {a: {integer: [1, 2], when: 3}}"])
def test_what_is_no_space_is_an_error(text: str) -> None:
    with pytest.raises(InvalidInput):
        Space.parse(text)


def test_bounds_are_numbers_or_expressions_over_constants() -> None:
    text = "knobs: {threads: {integer: [1, 'max(1, cores // 2)']}}"
    assert Space.parse(text, {"cores": 8}).size == 4
    with pytest.raises(InvalidInput, match="problem") as caught:
        Space.parse("knobs: {threads: {integer: [1, cores / 3]}}", {"cores": 8})
    assert "expected a whole number, got 2.66667" in caught.value.why


def test_the_constants_of_the_document_come_first() -> None:
    text = "knobs: {n: {integer: [1, cores]}}\nconstants: {cores: 2}"
    assert Space.parse(text, {"cores": 8}).size == 2


def test_a_knob_hides_a_constant_of_the_caller_s_but_not_of_the_document() -> None:
    text = "knobs: {cores: {integer: [1, 3]}}"
    space = Space.parse(text, {"cores": 8, "memory": 100})
    assert (space.size, space.constants) == (3, {"memory": 100})
    with pytest.raises(InvalidInput, match="both a knob and a constant"):
        Space.parse(text + "\nconstants: {cores: 4}")


def test_names_of_knobs_can_stand_in_expressions() -> None:
    for name in ("max", "and", "a-b", "1a"):
        with pytest.raises(InvalidInput, match="cannot name a knob"):
            Space({name: Integer(1, 2)})
    with pytest.raises(InvalidInput, match="both a knob and a constant"):
        Space({"cores": Integer(1, 2)}, (), {"cores": 4})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Integer(4, 1),
        lambda: Integer(1, 4, step=0),
        lambda: Integer(-1, 4, log2=True),
        lambda: Integer(0, 2**40),
        lambda: Real(1, 1),
        lambda: Real(0, 1, log=True),
        lambda: Real(0.1, 1, log=True, step=0.1),
        lambda: Real(0, float("inf")),
        lambda: Real(0, 1, step=0),
        lambda: Choice(()),
        lambda: Choice(("a", "a")),
        lambda: Choice((True,)),
        lambda: Choice((float("nan"),)),
    ],
)
def test_knobs_that_cannot_be_are_refused(make: object) -> None:
    with pytest.raises(InvalidInput):
        make()  # type: ignore[operator]
