"""The ring of stages, sampling, and the spans that leave."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import Tracing
from modelyard.serving.observe.context import TraceContext, parse
from modelyard.serving.observe.stages import SLOWEST_KEPT, Member, Recorder
from modelyard.serving.observe.tracing import Tracer
from modelyard.serving.observe.writers import FileWriter, OpenTelemetryWriter
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, make_plan
from modelyard.serving.scheduling.work import Work, member
from tests.serving_harness import VECTOR

FACE = Interface("m", 3, VECTOR)
PARENT = parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"a=b")
UNSAMPLED = parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")


def work(received: float, enqueued: float, trace: TraceContext | None = None, name: str = "") -> Work:
    plan = make_plan(FACE, InferHead([InputHead("x", "FP32", [1, 4])], id=name))
    made = Work(plan, (np.zeros((1, 4), np.float32),), received)
    made.whole = received + (enqueued - received) / 4
    made.enqueued = enqueued
    made.trace = trace
    return made


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.samples = []

    def write(self, samples) -> None:
        self.samples.extend(samples)

    def close(self) -> None: ...

    @property
    def members(self):
        return [Member(*member) for sample in self.samples for member in sample.members]


def run(recorder: Recorder, *batch: Work, start: float = 10.0, error: str = "") -> None:
    members = [member(work, start + 0.0058, start + 0.006) for work in batch]
    recorder.record(FACE, members, len(batch), start - 0.002, start, start + 0.005, error)


def traced(tracing: Tracing, *batches: list[Work]) -> Kept:
    kept = Kept()
    tracer = Tracer(tracing, [kept])
    recorder = Recorder(tracer)
    for batch in batches:
        run(recorder, *batch)
    tracer.close()
    return kept


def test_a_requests_time_is_split_into_stages():
    recorder = Recorder()
    early, late = work(9.990, 9.991, name="early"), work(9.9985, 9.999)
    run(recorder, early, late)
    second, first = recorder.recent()
    assert first.id == "early"
    assert (first.receive_us, first.parse_us, first.queue_us, first.batch_wait_us) == (250, 750, 7000, 2000)
    assert (first.infer_us, first.encode_us, first.send_us, first.total_us) == (5000, 800, 200, 16000)
    assert (second.queue_us, second.batch_wait_us) == (0, 1000)
    assert (first.model, first.version, first.batch_rows) == ("m", 3, 2)
    for stages in (first, second):
        parts = ("receive", "parse", "pre", "queue", "batch_wait", "infer", "post", "encode", "send")
        assert sum(getattr(stages, f"{part}_us") for part in parts) == pytest.approx(stages.total_us)


def test_the_ring_is_bounded_and_the_slowest_survive_it():
    recorder = Recorder()
    now = perf_counter()
    run(recorder, work(now - 5.0, now - 4.0, name="slow"), start=now)
    for _ in range(5000):
        run(recorder, work(now - 0.001, now), start=now)
    assert len(recorder.recent(10_000)) < 1000
    assert all(stages.id != "slow" for stages in recorder.recent(10_000))
    assert recorder.slowest()[0].id == "slow"
    assert len(recorder.slowest()) == SLOWEST_KEPT


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 100), (0.1, 10), (0.01, 1), (0.0, 0)])
def test_one_in_so_many_is_sampled_whatever_the_batches(rate, expected):
    sizes = [1, 7, 32, 3, 17, 40]
    kept = traced(Tracing(rate=rate), *[[work(9.0, 9.1) for _ in range(n)] for n in sizes])
    assert len(kept.members) == expected


def test_the_callers_decision_goes_before_the_rate():
    everyone = traced(Tracing(rate=1.0), [work(9, 9.1, UNSAMPLED, "no"), work(9, 9.1, PARENT, "yes")])
    assert [m.id for m in everyone.members] == ["yes"]
    nobody = traced(Tracing(rate=0.0), [work(9, 9.1, name="plain"), work(9, 9.1, PARENT, "yes")])
    assert [m.id for m in nobody.members] == ["yes"]


@pytest.mark.parametrize("model", ["", "m"])
def test_a_new_rate_counts_from_the_next_request_on(model):
    kept = Kept()
    tracer = Tracer(Tracing(rate=0.01), [kept])
    recorder = Recorder(tracer)
    run(recorder, work(9, 9.1, name="first"))
    tracer.update({"trace_rate": "1"}, model)
    run(recorder, work(9, 9.1, name="second"))
    tracer.close()
    assert "second" in [m.id for m in kept.members]


def test_a_count_ends_sampling():
    kept = Kept()
    tracer = Tracer(Tracing(rate=1.0), [kept])
    assert tracer.update({"trace_count": "3"}, "m")["trace_count"] == "3"
    recorder = Recorder(tracer)
    for _ in range(4):
        run(recorder, work(9, 9.1), work(9, 9.1))
    tracer.close()
    assert len(kept.members) == 3
    assert tracer.settings("m")["trace_count"] == "0"
    assert tracer.settings()["trace_count"] == "-1"


def test_settings_of_a_model_follow_the_replicas_where_not_its_own():
    tracer = Tracer(Tracing(), [Kept()])
    assert tracer.settings()["trace_level"] == ["OFF"]
    tracer.update({"trace_rate": "5"}, "m")
    tracer.update({"trace_level": ["TIMESTAMPS"], "trace_rate": 7})
    assert (tracer.settings("m")["trace_level"], tracer.settings("m")["trace_rate"]) == (["TIMESTAMPS"], "5")
    tracer.update({"trace_rate": None}, "m")
    assert tracer.settings("m")["trace_rate"] == "7"
    tracer.update({"trace_rate": None, "trace_level": None})
    assert tracer.settings()["trace_level"] == ["OFF"]
    assert tracer.settings()["trace_rate"] == "1000"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"trace_speed": 1}, "unknown trace setting"),
        ({"trace_rate": "often"}, "trace_rate must be"),
        ({"trace_rate": 0}, "trace_rate must be"),
        ({"trace_count": -2}, "trace_count must be"),
        ({"trace_level": ["TENSORS"]}, "not supported"),
        ({"trace_level": []}, "not supported"),
        ({"log_frequency": "5"}, "not supported"),
        ({"trace_file": "/etc/passwd"}, "can not be updated"),
        ({"trace_mode": "opentelemetry"}, "can not be updated"),
    ],
)
def test_a_bad_setting_is_refused_and_nothing_changes(wanted, text):
    tracer = Tracer(Tracing(rate=0.5), [Kept()])
    before = tracer.settings()
    with pytest.raises(InvalidInput, match=text):
        tracer.update({"trace_count": "9", **wanted})
    assert tracer.settings() == before


def test_tracing_without_a_place_to_write_cannot_be_switched_on():
    with pytest.raises(InvalidInput, match="switched on"):
        Tracer(Tracing()).update({"trace_level": ["TIMESTAMPS"]})


def test_an_exporter_that_fails_loses_only_its_own_spans():
    class Broken(Kept):
        def write(self, samples):
            raise OSError("disk full")

    kept, broken = Kept(), Broken()
    tracer = Tracer(Tracing(rate=1.0), [broken, kept])
    run(Recorder(tracer), work(9, 9.1))
    tracer.close()
    assert (len(kept.members), tracer.failed, tracer.exported) == (1, 1, 0)


def test_a_request_that_goes_to_two_places_is_counted_once():
    tracer = Tracer(Tracing(rate=1.0), [Kept(), Kept()])
    run(Recorder(tracer), work(9, 9.1), work(9, 9.1))
    tracer.close()
    assert (tracer.failed, tracer.exported) == (0, 2)


def test_what_an_exporter_cannot_keep_up_with_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr("modelyard.serving.observe.tracing.QUEUED", 3)
    monkeypatch.setattr("modelyard.serving.observe.tracing.GATHER_S", 3600)  # the exporter is busy
    tracer = Tracer(Tracing(rate=1.0), [Kept()])
    recorder = Recorder(tracer)
    for _ in range(5):
        run(recorder, work(9, 9.1))
    assert tracer.dropped == 2
    tracer.close()
    assert tracer.exported == 3


def test_the_file_has_a_span_per_request_and_stage(tmp_path: Path):
    file = tmp_path / "traces"
    tracer = Tracer(Tracing(rate=1.0), [FileWriter(str(file))])
    run(Recorder(tracer), work(9.990, 9.991, PARENT, "r1"), error="it broke")
    tracer.close()
    root, *stages = [json.loads(line) for line in file.read_text().splitlines()]
    assert PARENT is not None
    assert (root["trace_id"], root["parent_span_id"]) == (PARENT.trace_id, PARENT.parent_id)
    assert root["span_id"] == PARENT.span_id
    assert root["attributes"] == {"model": "m", "version": 3, "batch.rows": 1, "request.id": "r1"}
    assert root["error"] == "it broke"
    assert [s["name"] for s in stages] == ["receive", "parse", "queue", "batch_wait", "infer", "encode", "send"]
    assert {s["parent_span_id"] for s in stages} == {root["span_id"]}
    assert stages[0]["start_unix_ns"] == root["start_unix_ns"]
    assert stages[-1]["end_unix_ns"] == root["end_unix_ns"]
    for before, after in itertools.pairwise(stages):
        assert abs(after["start_unix_ns"] - before["end_unix_ns"]) < 1000


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path: Path):
    with pytest.raises(InvalidInput, match="traces cannot be written"):
        FileWriter(str(tmp_path / "none" / "traces"))


def test_spans_reach_an_opentelemetry_exporter():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind, StatusCode

    exporter = InMemorySpanExporter()
    tracer = Tracer(Tracing(), [OpenTelemetryWriter(exporter)])
    run(Recorder(tracer), work(9.990, 9.991, PARENT), error="it broke")
    tracer.close()
    root, *stages = exporter.get_finished_spans()
    assert PARENT is not None
    assert f"{root.context.trace_id:032x}" == PARENT.trace_id
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT.parent_id
    assert root.parent.is_remote
    assert (root.kind, root.status.status_code) == (SpanKind.SERVER, StatusCode.ERROR)
    assert dict(root.attributes or {})["model"] == "m"
    assert [s.name for s in stages] == ["receive", "parse", "queue", "batch_wait", "infer", "encode", "send"]
    assert all(s.parent is not None and s.parent.span_id == root.context.span_id for s in stages)
    assert dict(root.context.trace_state) == {"a": "b"}
