"""The fast path of ModelInfer's messages is the generated path, only faster: for any request, known or not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.errors import ModelyardError, NotFound
from modelyard.domain.tensors import Signature
from modelyard.serving.models.canary import Shares
from modelyard.serving.models.target import Target
from modelyard.serving.oip.fast_messages import FastInferCodec, read_layout
from modelyard.serving.oip.messages import InferCodec
from modelyard.serving.oip.plan import Interface
from modelyard.serving.oip.regions import Regions
from tests.serving_harness import tensor

ONE = Signature((tensor("x", "FP32", "batch", 2),), (tensor("y", "FP32", "batch", 2),))
TWO = Signature(
    (tensor("a", "FP32", "batch", 2), tensor("b", "INT64", "batch"), tensor("c", "UINT8", "batch", "n")),
    (tensor("p", "FP32", "batch", 2), tensor("q", "BYTES", "batch"), tensor("r", "BF16", "batch", 1)),
)
FIXED = Signature((tensor("x", "FP64"),), (tensor("y", "INT8", 2, 0),))
TEXT = Signature((tensor("x", "BYTES", "batch"),), (tensor("y", "BYTES", "batch"),))
MODELS = {"one": ONE, "two": TWO, "fixed": FIXED, "text": TEXT}


def plane():
    targets = {}
    for name, signature in MODELS.items():
        executor = SimpleNamespace(interface=Interface(name, 1, signature))
        targets[name] = Target(lambda: pytest.fail("the only executor is known"))
        targets[name].only = executor

    def target(name, version=""):
        if name not in targets or version not in ("", "1"):
            raise NotFound(f"no {name} {version}")
        return targets[name]

    return SimpleNamespace(target=target, regions=Regions())


def outcome(codec, message):
    """What a caller can tell of a decoded request, or of its error."""
    try:
        executor, plan, tensors = codec.decode(message)
    except ModelyardError as error:
        return type(error), str(error), error.hint
    face = plan.interface
    assert face is executor.interface
    arrays = [(t.dtype, t.shape, t.tolist() if t.dtype.kind == "O" else t.tobytes()) for t in tensors]
    return (
        face.name,
        plan.id,
        plan.rows,
        plan.shape_key,
        plan.timeout_s,
        plan.priority,
        plan.outputs,
        plan.wishes,
        arrays,
    )


def outputs(signature, rows):
    rng = np.random.default_rng(3)
    made = []
    for spec in signature.outputs:
        shape = tuple(rows if isinstance(d, str) else d for d in spec.shape)
        if spec.datatype == "BYTES":
            values = np.empty(shape, object)
            values.flat = [b"x" * i for i in range(values.size)]
        else:
            values = (rng.standard_normal(shape) * 9).astype(spec.datatype.numpy)
        made.append(values)
    return made


def request(model="one", rows=1, request_id="", values=None):
    made = pb.ModelInferRequest(model_name=model, id=request_id)
    for spec in MODELS[model].inputs:
        shape = [{"batch": rows, "n": 3}.get(d, d) for d in spec.shape]
        made.inputs.add(name=spec.name, datatype=str(spec.datatype), shape=shape)
        count = int(np.prod(shape)) * spec.datatype.numpy.itemsize
        raw = (
            b"\x01\x00\x00\x00!" * rows if model == "text" else (values or bytes(range(40)))[:count].ljust(count, b"\1")
        )
        made.raw_input_contents.append(raw)
    return made


parameters = st.dictionaries(
    st.sampled_from(["priority", "timeout", "sequence_id", "binary_data_size", "other"]),
    st.one_of(st.integers(-1, 9), st.booleans(), st.text(max_size=3)),
    max_size=2,
)


def fill(target, given):
    for name, value in given.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(target.parameters[name], kind, value)


@st.composite
def requests(draw):
    """Mostly valid requests, with anything that may be odd about them."""
    model = draw(st.sampled_from(sorted(MODELS)))
    rows = draw(st.integers(1, 3))
    made = request(model, rows, draw(st.sampled_from(["", "", "a", "é" * 70])))
    made.raw_input_contents[0] = draw(st.binary(min_size=40, max_size=40))[: len(made.raw_input_contents[0])].ljust(
        len(made.raw_input_contents[0]), b"\0"
    )
    if draw(st.booleans()):
        made.model_version = draw(st.sampled_from(["1", "2"]))
    match draw(
        st.sampled_from(["", "", "", "outputs", "parameters", "input-parameters", "typed", "short", "more", "name"])
    ):
        case "outputs":
            for spec in draw(st.permutations(MODELS[model].outputs)):
                fill(made.outputs.add(name=spec.name), draw(parameters))
        case "parameters":
            fill(made, draw(parameters))
        case "input-parameters":
            fill(made.inputs[0], draw(parameters))
        case "typed":
            del made.raw_input_contents[:]
            made.inputs[0].contents.fp32_contents.extend([1.0, 2.0])
        case "short":
            made.raw_input_contents[-1] = made.raw_input_contents[-1][:-1]
        case "more":
            made.raw_input_contents.append(b"")
        case "name":
            made.model_name = "nobody"
    return made


@st.composite
def messages(draw):
    """Encoded requests: as clients write them, with unknown fields, fields in another order, or cut short."""
    whole = draw(requests()).SerializeToString()
    match draw(st.sampled_from(["", "", "", "unknown", "before", "cut", "twice", "changed"])):
        case "unknown":
            return whole + b"\x7a\x01z"
        case "before":
            return b"\x7a\x01z" + whole
        case "cut":
            return whole[: draw(st.integers(0, len(whole)))]
        case "twice":
            return whole + draw(requests()).SerializeToString()
        case "changed" if whole:
            at = draw(st.integers(0, len(whole) - 1))
            return whole[:at] + bytes((draw(st.integers(0, 255)),)) + whole[at + 1 :]
    return whole


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_any_sequence_of_requests_is_decoded_and_answered_as_by_the_generated_path(sent, data):
    shared = plane()
    fast, plain = FastInferCodec(shared), InferCodec(shared)
    for message in [*sent, *data.draw(st.permutations(sent))]:
        want = outcome(plain, message)
        assert outcome(fast, message) == want
        if isinstance(want[0], str):
            _, plan, _ = fast.decode(message)
            made = outputs(plan.interface.signature, plan.rows + 1)
            stop = data.draw(st.integers(1, plan.rows + 1))
            assert fast.encode(plan, made, stop - 1, stop) == plain.encode(plan, made, stop - 1, stop)


@pytest.mark.parametrize("model", ["one", "two", "fixed"])
@pytest.mark.parametrize("ids", [("", ""), ("a", "b"), ("", "b"), ("x" * 200, "y" * 300)])
def test_a_known_kind_of_request_does_without_the_generated_classes(monkeypatch, model, ids):
    codec = FastInferCodec(plane())
    codec.decode(request(model, 2, ids[0]).SerializeToString())
    codec.decode(request(model, 2, ids[1]).SerializeToString())
    monkeypatch.setattr(InferCodec, "decode", lambda *_: pytest.fail("the generated path was taken"))
    second = request(model, 2, ids[1], values=bytes(range(100, 140)))
    _, plan, tensors = codec.decode(second.SerializeToString())
    assert plan.id == ids[1]
    assert [t.tobytes() for t in tensors] == list(second.raw_input_contents)


def test_a_replaced_version_gets_a_plan_of_its_own():
    """A plan belongs to the interface that it was checked against; where the name leads now decides."""
    shared = plane()
    codec = FastInferCodec(shared)
    message = request().SerializeToString()
    codec.decode(message)
    newer = SimpleNamespace(interface=Interface("one", 2, ONE))
    shared.target("one").only = newer
    executor, plan, _ = codec.decode(message)
    assert executor is newer
    assert plan.interface is newer.interface


@pytest.mark.parametrize("ids", [("",), ("a", "b", "c"), ("", "a")])
def test_a_canary_gets_its_share_of_requests_that_are_alike(ids):
    """A request is picked for once, also by a version that has not seen its kind."""
    shared = plane()
    versions = [SimpleNamespace(interface=Interface("one", number, ONE)) for number in (1, 2)]
    shared.target("one").lead(None, Shares([(versions[0], 0.7), (versions[1], 0.3)]).pick)
    codec = FastInferCodec(shared)
    sent = [request("one", 1, ids[i % len(ids)]).SerializeToString() for i in range(100)]
    chosen = [codec.decode(message)[:2] for message in sent]
    assert [executor for executor, _ in chosen].count(versions[1]) == 30
    assert all(plan.interface is executor.interface for executor, plan in chosen)


def test_heads_of_ever_new_requests_do_not_pile_up():
    codec = FastInferCodec(plane())
    for rows in range(1, 700):
        codec.decode(request("one", rows).SerializeToString())
    assert len(codec._known) <= 512
    assert len(codec._heads) <= 512


@given(st.binary(max_size=60))
def test_a_layout_is_found_only_in_what_protobuf_accepts_too(data):
    layout = read_layout(data)
    if layout is not None:
        sizes = [size for _, size in layout.places]
        assert sum(sizes) < len(data)
        assert all(0 <= start <= len(data) - size for start, size in layout.places)
