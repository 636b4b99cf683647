"""The configuration that a study found: whose it is, and each way there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard.domain.artifacts import Artifact, Target
from modelyard.domain.configuration import Configuration
from modelyard.domain.decision import Decision
from modelyard.domain.errors import Conflict, InvalidInput, ModelyardError, NotFound, Rejected
from modelyard.domain.study import Answer, Study, TrialState
from modelyard.domain.versions import Version
from modelyard.hub import Hub
from modelyard.workflow.deploying import Deployer
from modelyard.workflow.studied import studied
from modelyard.workflow.values import DeployRequest
from tests.builders import configuration, measurement
from tests.contract.hub_content import Clock, Place, study, trial


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    url, blobs = f"sqlite:///{tmp_path}/hub.db", str(tmp_path / "blobs")
    with Hub.open(url, blobs, tmp_path / "cache", Clock()) as hub:
        yield Place(hub, url, blobs, tmp_path, Clock())


def searched(place: Place, version: Version, **changes: object) -> Study:
    """A study of two measured trials and a failed one; the answer is trial 2."""
    for name, batch in (("msr-1", 1), ("msr-2", 8)):
        place.hub.measurements.record(replace(measurement(name), configuration=configuration(max_batch=batch)), None)
    trials = (
        trial(1, measurements=("msr-1",)),
        trial(2, measurements=("msr-2",)),
        replace(trial(3), state=TrialState.FAILED, result=None, detail="out of memory"),
    )
    answer = Answer(2, (), "the budget is spent")
    return place.hub.studies.save(study(version, trials=trials, **({"answer": answer} | changes)))


def test_it_is_what_the_winner_ran_and_of_a_trial_what_that_ran(place: Place) -> None:
    version = place.register()
    found = searched(place, version)
    assert studied(place.hub, version, DeployRequest(from_study=found.id)).batching.max_size == 8
    by_prefix = DeployRequest(from_study=found.id[:8], trial=1, target=Target("onnx"))
    assert studied(place.hub, version, by_prefix) == configuration(max_batch=1)


@pytest.mark.parametrize(
    ("changes", "request_", "error", "hint"),
    [
        ({}, {"from_study": "std-unknown"}, NotFound, "yard studies ls"),
        ({"answer": None}, {}, Conflict, "--resume"),
        ({"answer": Answer(None, (), "the budget is spent", binding="p99")}, {}, Rejected, "--trial N"),
        ({}, {"trial": 3}, Rejected, "another trial"),
        ({}, {"trial": 9}, NotFound, "yard studies show"),
        ({}, {"target": Target("openvino")}, InvalidInput, "leave out"),
    ],
)
def test_each_way_that_there_is_none_is_one_clear_error(
    changes: dict[str, object], request_: dict[str, object], error: type[ModelyardError], hint: str, place: Place
) -> None:
    version = place.register()
    found = searched(place, version, **changes)
    with pytest.raises(error) as caught:
        studied(place.hub, version, DeployRequest(**({"from_study": found.id} | request_)))  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_a_trial_of_an_unfinished_study_may_be_deployed(place: Place) -> None:
    version = place.register()
    found = searched(place, version, answer=None)
    request = DeployRequest(from_study=found.id, trial=2)
    assert studied(place.hub, version, request) == configuration(max_batch=8)


class Anything:
    """A proof that covers everything, or nothing."""

    def __init__(self, *, holds: bool = True) -> None:
        self.holds = holds

    def check(self, artifact: Artifact, runtime: str) -> None:
        if not self.holds:
            raise Rejected(f"{artifact.target} is unproven", hint="yard models show digits:1")


def deployer(place: Place, proof: Anything) -> Deployer:
    nothing: Any = None
    return Deployer(place.hub, nothing, proof, nothing, lambda: "")  # type: ignore[arg-type]


def searched_with_an_artifact(place: Place, version: Version) -> tuple[Study, Configuration]:
    found = configuration(place.add(version).id, max_batch=8)
    place.hub.measurements.record(replace(measurement("msr-real"), configuration=found), None)
    trials = (trial(1, measurements=("msr-real",)),)
    return place.hub.studies.save(study(version, trials=trials, answer=Answer(1, (), "done"))), found


def test_a_deployment_takes_the_study_before_the_last_publish_and_its_own_knobs_before_the_study(place: Place) -> None:
    version = place.register()
    found, ran = searched_with_an_artifact(place, version)
    place.hub.measurements.record(replace(measurement("msr-pub"), configuration=replace(ran, threads=3)), None)
    place.hub.decisions.record(Decision("", "digits", 1, "msr-pub", None, ("msr-pub",), None, None, "the cheapest"))
    deploying = deployer(place, Anything())
    assert deploying.configure(version, DeployRequest()) == replace(ran, threads=3)
    assert deploying.configure(version, DeployRequest(from_study=found.id)) == ran
    assert deploying.configure(version, DeployRequest(from_study=found.id, replicas=4)) == replace(ran, replicas=4)


def test_an_artifact_that_has_lost_its_proof_is_refused(place: Place) -> None:
    version = place.register()
    found, _ = searched_with_an_artifact(place, version)
    with pytest.raises(Rejected, match="unproven"):
        deployer(place, Anything(holds=False)).configure(version, DeployRequest(from_study=found.id))


def test_a_study_of_another_version_is_refused_with_the_line_that_works(place: Place) -> None:
    found = searched(place, place.register())
    other = place.register(content=b"two")
    with pytest.raises(InvalidInput, match="is of digits:1, not of digits:2") as caught:
        studied(place.hub, other, DeployRequest(from_study=found.id))
    assert f"yard deploy digits:1 --from-study {found.id}" in caught.value.hint
