"""Conversions, measurements and services: kept as given, found again, tied to their version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelyard.domain.artifacts import (
    Equivalence,
    FailureClass,
    MetricAgreement,
    Outcome,
    OutputAgreement,
    RejectionReason,
    Standing,
    Tolerance,
)
from modelyard.domain.configuration import Slo
from modelyard.domain.decision import Decision
from modelyard.domain.errors import Conflict, InvalidInput, NotFound
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.versions import Version
from modelyard.domain.workload import Arrival, Workload
from modelyard.hub import MeasurementQuery
from tests.builders import configuration, measurement
from tests.contract.hub_content import Place, conversion, ref, service

EQUIVALENCE = Equivalence(
    outcome=Outcome.REJECTED,
    reason=RejectionReason.METRIC_LOSS,
    detail="accuracy fell",
    cases=("dataset", "batch-1"),
    outputs=(OutputAgreement("logits", 100, 1e-3, 2.5e-2, 0.999, 0.0, 0.98),),
    metrics=(MetricAgreement("accuracy", 0.98, 0.91, 360),),
    tolerance=Tolerance(1e-4, 1e-3, 0.0, 0.999, 0.99, 0.01),
    runtime="onnxruntime",
)


def _measured(version: Version, **more: object) -> Measurement:
    return replace(measurement(), id="", model=version.model, version=version.number, **more)  # type: ignore[arg-type]


def test_a_conversion_comes_back_with_its_proof_and_log(place: Place) -> None:
    version = place.register()
    given = conversion(version, outcome=Outcome.REJECTED, equivalence=EQUIVALENCE, failure=FailureClass.TIMED_OUT)
    kept = place.hub.conversions.record(given)
    assert kept.id
    assert kept.created_at.startswith("2026-11-22T00:00:00")
    assert replace(kept, id="", created_at="") == given
    with place.reopen() as other:
        assert other.conversions.list(ref("digits")) == [kept]
        assert other.conversions.find("k1") == kept


def test_find_gives_the_latest_conversion_with_a_key(database_place: Place) -> None:
    version = database_place.register()
    records = database_place.hub.conversions
    kept = [records.record(conversion(version, key=k, detail=d)) for k, d in (("a", "1"), ("b", "2"), ("a", "3"))]
    assert (records.find("a"), records.find("b"), records.find("c")) == (kept[2], kept[1], None)
    assert records.list(ref("digits")) == kept


def test_recording_the_same_id_again_changes_nothing(database_place: Place) -> None:
    version = database_place.register()
    records = database_place.hub.conversions
    kept = records.record(conversion(version, id="cnv-1"))
    assert records.record(conversion(version, id="cnv-1")) == kept
    with pytest.raises(Conflict):
        records.record(conversion(version, id="cnv-1", detail="other"))
    assert records.list(ref("digits")) == [kept]


def test_a_measurement_comes_back_with_its_samples(place: Place) -> None:
    version = place.register()
    kept = place.hub.measurements.record(_measured(version), place.file("samples.bin", b"raw samples"))
    with place.reopen() as other:
        assert other.measurements.get(kept.id) == kept
        assert other.measurements.list(ref("digits")) == [kept]
        assert other.measurements.samples(kept).read_bytes() == b"raw samples"
    place.hub.gc()
    assert place.hub.measurements.samples(kept).read_bytes() == b"raw samples"


def test_a_measurement_without_samples_says_so(database_place: Place) -> None:
    kept = database_place.hub.measurements.record(_measured(database_place.register()), None)
    with pytest.raises(NotFound, match="no raw samples"):
        database_place.hub.measurements.samples(kept)


def test_measurements_are_found_by_what_they_were_made_on(database_place: Place) -> None:
    one, two = database_place.register(content=b"1"), database_place.register(content=b"2")
    records = database_place.hub.measurements
    base = records.record(_measured(one), None)
    batched = records.record(_measured(one, configuration=configuration("a2", max_batch=8), purpose="grid"), None)
    slow = Workload(Arrival.POISSON, rate_rps=20)
    other = records.record(
        _measured(
            two,
            workload=slow,
            fingerprint=replace(base.fingerprint, id="elsewhere"),
            verdict=replace(base.verdict, validity=Validity.INVALID),
        ),
        None,
    )
    cases = [
        (MeasurementQuery(), [other, batched, base]),
        (MeasurementQuery(limit=1), [other]),
        (MeasurementQuery(model="digits", version=1), [batched, base]),
        (MeasurementQuery(model="unknown"), []),
        (MeasurementQuery(artifact="a2"), [batched]),
        (MeasurementQuery(format="onnx", runtime="onnxruntime"), [other, batched, base]),
        (MeasurementQuery(runtime="openvino"), []),
        (MeasurementQuery(purpose="grid"), [batched]),
        (MeasurementQuery(fingerprint="elsewhere"), [other]),
        (MeasurementQuery(validity=Validity.INVALID), [other]),
        (MeasurementQuery(configuration=base.configuration, workload=base.workload), [base]),
        (MeasurementQuery(configuration=base.configuration), [other, base]),
        (MeasurementQuery(workload=slow), [other]),
    ]
    assert [(query, records.find(query)) for query, _ in cases] == cases


def test_evidence_of_an_unknown_version_is_refused_and_leaves_no_blob(place: Place) -> None:
    version = place.register()
    place.hub.versions.delete(ref("digits:1"))
    place.register(content=b"another")
    with pytest.raises(NotFound):
        place.hub.conversions.record(conversion(version))
    with pytest.raises(NotFound):
        place.hub.measurements.record(_measured(version), place.file("samples.bin", b"raw samples"))
    assert place.hub.gc(dry_run=True).blobs == 0


def test_lineage_holds_artifacts_evidence_and_services(place: Place) -> None:
    version = place.register()
    child = place.add(version)
    grandchild = place.hub.artifacts.add(
        version, place.converted("onnx:fp16", b"half"), child.id, None, Standing.PROVEN
    )
    tried = place.hub.conversions.record(conversion(version))
    measured = place.hub.measurements.record(_measured(version), None)
    place.hub.services.put(service("digits-live", child))
    found = place.hub.versions.lineage(ref("digits"))
    assert found.version == version
    assert found.children(version.source_artifact) == (child,)
    assert found.children(child.id) == (grandchild,)
    assert (found.conversions, found.measurements, found.services) == ((tried,), (measured,), ("digits-live",))


def test_a_service_is_kept_changed_and_removed_by_name(database_place: Place) -> None:
    place = database_place
    version = place.register()
    artifact = place.hub.artifacts.get(version.source_artifact)
    first = place.hub.services.put(service("live", artifact, port=1))
    moved = place.hub.services.put(service("live", artifact, port=2))
    other = place.hub.services.put(service("canary", artifact))
    with place.reopen() as hub:
        assert hub.services.get("live") == moved != first
        assert hub.services.list() == [other, moved]
    with pytest.raises(Conflict) as caught:
        place.hub.services.put(service("live", artifact, created_at="2026-11-23T00:00:00+00:00"))
    assert "yard services stop live" in caught.value.hint
    assert place.hub.services.remove("live") == moved
    for call in (place.hub.services.get, place.hub.services.remove):
        with pytest.raises(NotFound):
            call("live")
    assert place.hub.services.list() == [other]


def test_decisions_are_kept_in_order_and_go_with_their_version(place: Place) -> None:
    version = place.register()
    given = Decision("", "digits", version.number, "m1", "m0", ("m0", "m1"), Slo(20, 200), True, "the cheapest", 2.5)
    first = place.hub.decisions.record(given)
    second = place.hub.decisions.record(replace(given, met=False, chosen=None))
    assert replace(first, id="", created_at="") == given
    with place.reopen() as other:
        assert other.decisions.list(ref("digits")) == [first, second]
        assert other.versions.lineage(ref("digits")).decisions == (first, second)
    place.hub.versions.delete(ref("digits"))
    again = place.register(content=b"other weights")
    assert place.hub.decisions.list(ref(again.ref)) == []


def test_the_beginning_of_an_id_is_enough_where_only_one_begins_so(database_place: Place) -> None:
    version = database_place.register()
    records = database_place.hub.measurements
    kept = {
        name: records.record(replace(_measured(version), id=name), None) for name in ("msr-aa1", "msr-aa2", "m_r-x1")
    }
    assert records.get("m_r-x1") == records.get("m_r-x1"[:6]) == kept["m_r-x1"]
    assert records.get("msr-aa1") == kept["msr-aa1"]
    with pytest.raises(InvalidInput, match="msr-aa1, msr-aa2"):
        records.get("msr-aa")
    for unknown in ("msr-a", "msr-ab", "m%r-aa", "______"):
        with pytest.raises(NotFound):
            records.get(unknown)
