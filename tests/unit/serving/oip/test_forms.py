"""Requests whose text is known but for the numbers mean what they mean to the general parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.errors import ModelyardError
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.serving.http.head import Head
from modelyard.serving.oip.plan import Interface
from modelyard.serving.oip.rest import RestCodec

HEAD = Head("POST", (), 0, True, False, False, -1)


def face(datatype: Datatype = Datatype.FP32) -> Interface:
    return Interface(
        "m", 1, Signature((TensorSpec("x", datatype, ("batch", 3)),), (TensorSpec("y", Datatype.FP32, ("batch", 3)),))
    )


def outcome(interface: Interface, body: bytes) -> Any:
    """What a body means, in a form that can be compared."""
    try:
        plan, (tensor,) = RestCodec().decode(interface, HEAD, body)
    except ModelyardError as error:
        return type(error), str(error)
    return plan.id, plan.rows, plan.outputs, plan.timeout_s, plan.priority, tensor.dtype, tensor.shape, tensor.tobytes()


NUMBERS = st.lists(
    st.one_of(st.floats(-1e300, 1e300), st.integers(-(10**25), 10**25), st.sampled_from([0.1, -0.0, 1e-46, 3.5e38])),
    min_size=2, max_size=4,
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A request's text, often of one of few layouts, seldom quite right."""
    values: Any = draw(NUMBERS | st.just([1, 2, 3]) | st.just([1.5, 2, 3]))
    given: dict[str, Any] = {"name": "x", "shape": [1, 3], "datatype": draw(st.sampled_from(["FP32", "INT64"]))}
    trap = draw(st.sampled_from(["", "", "", "inner", "parameter", "string", "twice", "nested", "id", "null"]))
    if trap == "inner":
        given = {"more": {"data": draw(NUMBERS)}, **given}
    elif trap == "parameter":
        given["parameters"] = {"data": draw(NUMBERS)}
    elif trap == "string":
        given = {"note": '"data":[7,8,9]', **given}
    elif trap == "nested":
        values = [values]
    elif trap == "null":
        values = [None, *values[1:]]
    body: dict[str, Any] = {"inputs": [{**given, "data": values}]}
    if draw(st.booleans()):
        body["inputs"] = [{"data": values, **given}]
    if trap == "id":
        body["id"] = draw(st.sampled_from(["", "7"]))
    if draw(st.booleans()):
        body["outputs"] = [{"name": "y"}]
    text = json.dumps(body, separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])))
    if trap == "twice":
        text = text.replace('"name"', '"d\\u0061ta":[4,5,6],"name"')
    return text.encode()


@given(st.sampled_from([Datatype.FP32, Datatype.INT64]), st.lists(bodies(), min_size=2, max_size=8))
@settings(max_examples=300, deadline=None)
def test_known_texts_change_nothing(datatype: Datatype, sent: list[bytes]) -> None:
    known = face(datatype)
    for body in [*sent, *sent]:
        assert outcome(known, body) == outcome(face(datatype), body)


def body_of(values: str, datatype: str = "FP32", more: str = "") -> bytes:
    return f'{{"inputs":[{{{more}"name":"x","shape":[1,3],"datatype":"{datatype}","data":{values}}}]}}'.encode()


@pytest.mark.parametrize("space", ["", " "])
def test_the_second_request_of_a_layout_is_known(space: str) -> None:
    interface = face()
    first, second = body_of(f"{space}[1,2,3]"), body_of(f"{space}[4,5.5,6]")
    assert outcome(interface, first) == outcome(face(), first)
    assert len(interface.json_forms) == 1
    interface.json_head = None  # the general way would now go without it
    interface.json_plans.clear()
    assert outcome(interface, second) == outcome(face(), second)
    assert interface.json_plans == {}


def test_a_text_whose_key_may_be_another_is_not_kept() -> None:
    for more in ('"more":{"data":[1,2,3]},', '"note":"a\\"b",', '"d\\u0061ta":[1,2,3],'):
        interface = face()
        outcome(interface, body_of("[1,2,3]", more=more))
        assert interface.json_forms == {}
    interface = face()
    outcome(interface, b'{"id":"7",' + body_of("[1,2,3]")[1:])
    assert interface.json_forms == {}


@pytest.mark.parametrize(
    "values", ["[1,2]", "[1,2,3,4]", "[1,2,1e39]", '[1,2,"3"]', "[1,2,null]", "[[1,2,3]]", "[1,2,3", "7"]
)
def test_what_does_not_fit_a_known_text_is_told_as_ever(values: str) -> None:
    interface = face()
    outcome(interface, body_of("[1,2,3]"))
    assert outcome(interface, body_of(values)) == outcome(face(), body_of(values))
