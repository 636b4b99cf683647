"""Studies: kept trial by trial, immutable once answered, tied to their version and its measurements."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from modelyard.domain.errors import Conflict, InvalidInput, NotFound
from modelyard.domain.measurement import Interval
from modelyard.domain.study import (
    Answer,
    Point,
    Ranked,
    Result,
    Standing,
    Trial,
    TrialState,
)
from modelyard.hub import StudyQuery
from tests.builders import measurement
from tests.contract.hub_content import Place, ref, study, trial

FAILED = Trial(
    2,
    Point.of({"threads": 4}),
    TrialState.FAILED,
    "random",
    Result((math.inf,), (math.nan,), (Interval(0.0),), None, False, "did not start"),
    detail="out of memory",
)
ANSWER = Answer(
    1, (Ranked(1, Standing.BEST, 0.9),), "the budget of 6 is spent", binding="p99", prediction_error={"p99": 0.1}
)


def test_a_study_grows_trial_by_trial_and_comes_back_as_it_was(place: Place) -> None:
    version = place.register()
    made = place.hub.measurements.record(replace(measurement(), id=""), None)
    kept = place.hub.studies.save(study(version))
    assert kept.id.startswith("std-")
    assert kept.created_at.startswith("2026-11-22T00:00:00")
    one = place.hub.studies.save(replace(kept, trials=(trial(1, measurements=(made.id,)),)))
    with place.reopen() as other:
        assert other.studies.get(kept.id) == one
        two = other.studies.save(replace(one, trials=(*one.trials, replace(FAILED, result=None))))
        done = other.studies.save(replace(two, answer=ANSWER))
    assert place.hub.studies.get(kept.id) == done
    assert place.hub.studies.list(ref("digits")) == [done]
    knobs = done.trials[0].point.knobs
    assert [type(value) for _, value in knobs] == [int, float, str]


def test_what_is_infinite_or_no_number_is_kept(database_place: Place) -> None:
    version = database_place.register()
    given = study(version, id="std-inf", trials=(FAILED,))
    database_place.hub.studies.save(given)
    (found,) = database_place.hub.studies.get("std-inf").trials
    assert found.result is not None
    assert found.result.losses == (math.inf,)
    assert math.isnan(found.result.errors[0])
    database_place.hub.studies.save(replace(given, trials=(FAILED, trial(3)), created_at=""))
    assert [t.number for t in database_place.hub.studies.get("std-inf").trials] == [2, 3]


def test_saving_the_same_again_changes_nothing(database_place: Place) -> None:
    studies = database_place.hub.studies
    done = studies.save(study(database_place.register(), trials=(trial(1),), answer=ANSWER))
    assert studies.save(done) == done
    assert studies.get(done.id) == done


def test_the_second_of_two_that_go_on_with_a_study_gets_a_conflict(place: Place) -> None:
    begun = place.hub.studies.save(study(place.register(), trials=(trial(1),)))
    with place.reopen() as other:
        first = other.studies.save(replace(begun, trials=(*begun.trials, trial(2))))
    for second in (
        replace(begun, trials=(*begun.trials, trial(3))),
        replace(begun, trials=(*begun.trials, trial(2, detail="slower"))),
        replace(begun, answer=ANSWER),
    ):
        with pytest.raises(Conflict, match="another process") as caught:
            place.hub.studies.save(second)
        assert begun.id in caught.value.hint
    assert place.hub.studies.get(begun.id) == first


def test_an_answered_study_changes_no_more(database_place: Place) -> None:
    studies = database_place.hub.studies
    done = studies.save(study(database_place.register(), trials=(trial(1),), answer=ANSWER))
    for changed in (
        replace(done, trials=(*done.trials, trial(2))),
        replace(done, answer=replace(ANSWER, best=None)),
        replace(done, answer=None),
    ):
        with pytest.raises(Conflict, match="answer"):
            studies.save(changed)
    assert studies.get(done.id) == done


def test_the_settings_of_a_study_never_change(database_place: Place) -> None:
    kept = database_place.hub.studies.save(study(database_place.register()))
    with pytest.raises(Conflict, match="other settings"):
        database_place.hub.studies.save(replace(kept, seed=1))


def test_a_study_is_found_by_what_it_was_asked(database_place: Place) -> None:
    version, other = database_place.register(), database_place.register(content=b"two")
    studies = database_place.hub.studies
    first = studies.save(study(version))
    done = studies.save(study(version, answer=ANSWER))
    seeded = studies.save(study(version, seed=1, fingerprint="elsewhere"))
    of_other = studies.save(study(other, strategy="tpe"))
    cases = [
        (StudyQuery(), [of_other, seeded, done, first]),
        (StudyQuery(limit=1), [of_other]),
        (StudyQuery(model="digits", version=1), [seeded, done, first]),
        (StudyQuery(model="unknown"), []),
        (StudyQuery(like=study(version)), [done, first]),
        (StudyQuery(like=study(version), finished=False), [first]),
        (StudyQuery(like=replace(done, trials=(FAILED,)), finished=True), [done]),
        (StudyQuery(like=study(version, budget=7)), []),
        (StudyQuery(fingerprint="elsewhere"), [seeded]),
        (StudyQuery(strategy="tpe"), [of_other]),
    ]
    assert [(query, studies.find(query)) for query, _ in cases] == cases
    assert (studies.latest(ref("digits:1")), studies.latest(ref("digits"))) == (seeded, of_other)
    assert studies.latest(ref(database_place.register("empty").ref)) is None


def test_the_order_of_options_does_not_matter(database_place: Place) -> None:
    version = database_place.register()
    kept = database_place.hub.studies.save(study(version, options={"a": 1, "b": 2}))
    asked = StudyQuery(like=study(version, options={"b": 2, "a": 1}))
    assert database_place.hub.studies.find(asked) == [kept]


def test_the_beginning_of_an_id_is_enough_where_only_one_begins_so(database_place: Place) -> None:
    version = database_place.register()
    studies = database_place.hub.studies
    kept = {name: studies.save(study(version, id=name)) for name in ("std-aa1", "std-aa2", "s_d-x1")}
    assert studies.get("s_d-x1") == studies.get("s_d-x1"[:6]) == kept["s_d-x1"]
    with pytest.raises(InvalidInput, match="std-aa1, std-aa2"):
        studies.get("std-aa")
    for unknown in ("std-a", "std-ab", "s%d-aa"):
        with pytest.raises(NotFound, match="no study"):
            studies.get(unknown)


def test_a_trial_names_measurements_that_the_hub_has_of_its_version(database_place: Place) -> None:
    place = database_place
    version, other = place.register(), place.register(content=b"two")
    elsewhere = place.hub.measurements.record(replace(measurement(), id="", version=other.number), None)
    kept = place.hub.studies.save(study(version))
    for name in ("msr-none", elsewhere.id):
        with pytest.raises(NotFound, match=name):
            place.hub.studies.save(replace(kept, trials=(trial(1, measurements=(name,)),)))
    with pytest.raises(NotFound):
        place.hub.studies.save(study(version, model="nothing"))
    assert place.hub.studies.get(kept.id) == kept


def test_gc_keeps_the_samples_of_a_studys_measurements(place: Place) -> None:
    version = place.register()
    made = place.hub.measurements.record(replace(measurement(), id=""), place.file("samples.bin", b"raw samples"))
    place.hub.studies.save(study(version, trials=(trial(1, measurements=(made.id,)),)))
    assert place.hub.gc().blobs == 0
    assert place.hub.measurements.samples(made).read_bytes() == b"raw samples"


def test_studies_are_part_of_the_lineage_and_go_with_their_version(place: Place) -> None:
    version = place.register()
    kept = place.hub.studies.save(study(version, trials=(trial(1),)))
    assert place.hub.versions.lineage(ref("digits")).studies == (kept,)
    assert place.hub.versions.delete(ref("digits"), dry_run=True).studies == 1
    assert place.hub.studies.get(kept.id) == kept
    assert place.hub.versions.delete(ref("digits")).studies == 1
    with pytest.raises(NotFound):
        place.hub.studies.get(kept.id)
    again = place.register(content=b"other weights")
    assert place.hub.studies.list(ref(again.ref)) == []
    place.hub.studies.save(replace(kept, version=again.number))  # nothing of the old trials is in the way
