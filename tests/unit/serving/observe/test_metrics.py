"""The exposition: what a Prometheus parser makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelyard.domain.batching import Refusal
from modelyard.serving.models.comparison import ShadowStatistics
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.models.states import ModelState, Readiness, Stage
from modelyard.serving.observe.metrics import METRICS, TRITON_METRICS, render_metrics
from modelyard.serving.observe.statistics import SIZES_KEPT, Ledger
from modelyard.serving.oip.plan import Interface
from tests.serving_harness import VECTOR

ODD = 'a "quoted" \\ name\nof two lines'


@pytest.fixture
def plane(monkeypatch):
    ledger = Ledger()
    batch = ledger.of_rows(4)
    batch.batches, batch.requests, batch.infer_s, batch.queue_s, batch.batch_wait_s = 3, 12, 0.5, 0.25, 0.125
    ledger.failed = 2
    ledger.refused[Refusal.QUEUE_FULL] = 5
    ledger.count_durations([0.00005, 0.003, 20.0])
    watch = SimpleNamespace(slots=[1, 2], hung=3, abandoned=[1], replaced=4, restarts=lambda: 5)
    executor = SimpleNamespace(
        interface=Interface(ODD, 7, VECTOR),
        ledger=ledger,
        waiting=1,
        running=2,
        watch=watch,
        responses=SimpleNamespace(hits=8, misses=9, coalesced=10),
    )
    repository = SimpleNamespace(models={}, executors=[executor])
    made = DataPlane("test", "0", repository)
    made.refused_requests = 6
    state = ModelState(ODD, 7, Readiness.READY, "", Stage.AVAILABLE)
    shadow = ShadowStatistics(ODD, 8, offered=20, dropped=5, failed=1, compared=14, rows=14, rows_agreeing=13)
    monkeypatch.setattr(DataPlane, "index", lambda self: [state])
    monkeypatch.setattr(DataPlane, "shadows", lambda self: [shadow])
    monkeypatch.setattr(DataPlane, "load_s", lambda self, executor: 1.5)
    return made


def families(plane):
    return {f.name: f for f in text_string_to_metric_families(render_metrics(plane).decode())}


def value(family, **labels):
    (found,) = [s.value for s in family.samples if labels.items() <= s.labels.items()]
    return found


def test_every_metric_is_valid_and_labels_survive(plane):
    found = families(plane)
    assert {f.removesuffix("_total") for f in METRICS} == set(found)
    assert value(found["modelyard_requests"], outcome="ok", model=ODD, version="7") == 12
    assert value(found["modelyard_requests"], outcome="refused-queue-full") == 5
    assert value(found["modelyard_stage_seconds"], stage="infer") == 0.5
    assert value(found["modelyard_request_duration_seconds"], le="+Inf") == 3
    assert value(found["modelyard_request_duration_seconds"], le="0.0001") == 1
    assert value(found["modelyard_model_state"], state="READY", model=ODD) == 1
    assert value(found["modelyard_cache_requests"], result="hit") == 8
    assert value(found["modelyard_coalesced_requests"]) == 10
    assert value(found["modelyard_instances"]) == 2
    assert value(found["modelyard_hung_executions"]) == 3
    assert value(found["modelyard_instance_restarts"], how="replaced", model=ODD) == 4
    assert value(found["modelyard_instance_restarts"], how="restarted", model=ODD) == 5
    assert value(found["modelyard_refused_requests"]) == 6
    assert value(found["modelyard_abandoned_threads"]) == 1
    assert value(found["modelyard_shadow_requests"], outcome="compared", version="8") == 14
    assert value(found["modelyard_shadow_rows"], agrees="no") == 1
    assert value(found["modelyard_traces"], outcome="dropped") == 0


def test_tritons_names_are_an_option(plane):
    assert not any(name.startswith("nv_") for name in families(plane))
    plane.triton_metrics = True
    found = families(plane)
    assert set(TRITON_METRICS) <= set(found)
    own = {"model": ODD, "version": "7"}
    assert value(found["nv_inference_request_success"], **own) == 12 + 8 + 10  # executed, cached, coalesced
    assert value(found["nv_inference_request_failure"], reason="REJECTED", **own) == 5
    assert value(found["nv_inference_request_failure"], reason="BACKEND", **own) == 2
    assert value(found["nv_inference_count"], **own) == 12
    assert value(found["nv_inference_exec_count"], **own) == 3
    assert value(found["nv_inference_queue_duration_us"], **own) == 375_000
    assert value(found["nv_inference_pending_request_count"], **own) == 1
    assert value(found["nv_cache_num_hits_per_model"], **own) == 8


def test_clients_who_send_requests_of_ever_other_sizes_do_not_make_the_statistics_grow():
    ledger = Ledger()
    for rows in range(1, 20 * SIZES_KEPT):
        ledger.of_rows(rows).batches += 1
    assert len(ledger.by_rows) <= SIZES_KEPT + 64
    assert sum(seen.batches for seen in ledger.by_rows.values()) == 20 * SIZES_KEPT - 1
    assert ledger.of_rows(SIZES_KEPT).batches == 1
    assert ledger.of_rows(4 * SIZES_KEPT).rows == 4 * SIZES_KEPT
    assert ledger.of_rows(4 * SIZES_KEPT + 1).rows == 8 * SIZES_KEPT
