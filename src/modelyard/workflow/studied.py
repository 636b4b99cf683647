"""The configuration that a study found, for a deployment of it."""

from __future__ import annotations

from modelyard.domain.configuration import Configuration
from modelyard.domain.errors import Conflict, InvalidInput, NotFound, Rejected
from modelyard.domain.study import Study, Trial
from modelyard.domain.versions import Version
from modelyard.hub import Hub
from modelyard.workflow.values import DeployRequest


def studied(hub: Hub, version: Version, request: DeployRequest) -> Configuration:
    """The configuration of the study that a request names, as it was measured: the best one's, or of a given trial.

    Raises NotFound; InvalidInput for a study of another version, or a request for another artifact; Conflict for an
    unfinished study; Rejected where nothing was feasible, or the trial was not measured. Whether the artifact may still
    be served is not looked at.
    """
    study = hub.studies.get(request.from_study or "")
    if (study.model, study.version) != (version.model, version.number):
        other = f"{study.model}:{study.version}"
        raise InvalidInput(
            f"study {study.id} is of {other}, not of {version.ref}",
            hint=f"yard deploy {other} --from-study {study.id}, or yard tune {version.ref}",
        )
    trial = _winner(study) if request.trial is None else _trial(study, request.trial)
    if trial.result is None or not trial.result.measurements:
        raise Rejected(
            f"trial {trial.number} of study {study.id} was not measured",
            why=f"{trial.state}: {trial.detail or 'no detail was given'}",
            hint=f"choose another trial: yard studies show {study.id}",
        )
    found = hub.measurements.get(trial.result.measurements[0]).configuration
    if request.target is not None and request.target != found.target:
        raise InvalidInput(
            f"trial {trial.number} of study {study.id} ran {found.target}, not {request.target}",
            hint="leave out the target, or the study",
        )
    return found


def _winner(study: Study) -> Trial:
    if study.answer is None:
        raise Conflict(
            f"study {study.id} has no answer yet",
            why=f"{len(study.trials)} trials are done",
            hint=f"yard tune {study.model}:{study.version} --resume {study.id}, or choose a trial with --trial",
        )
    if study.answer.best is None:
        raise Rejected(
            f"study {study.id} found nothing that holds {study.aim}",
            why=study.answer.binding or study.answer.stopped,
            hint=f"choose a trial nevertheless: yard studies show {study.id}, then --trial N",
        )
    return _trial(study, study.answer.best)


def _trial(study: Study, number: int) -> Trial:
    for trial in study.trials:
        if trial.number == number:
            return trial
    known = ", ".join(str(t.number) for t in study.trials) or "none"
    raise NotFound(
        f"study {study.id} has no trial {number}", why=f"it has {known}", hint=f"yard studies show {study.id}"
    )
