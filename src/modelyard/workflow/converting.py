"""Convert a version to its targets, and put every attempt with its proof on record."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelyard.convert import Attempt, ConversionResult, ConversionService, plan_targets
from modelyard.domain.artifacts import Artifact, Conversion, Outcome, Standing, Target
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.registering import evidence


@dataclass(frozen=True)
class Converting:
    """Runs conversions and records them: only what is proven equal to its source becomes servable."""

    hub: Hub
    conversions: ConversionService
    now: Callable[[], str]

    def convert(self, version: Version, requested: Sequence[str], listener: Listener) -> list[Conversion]:
        """Convert to every requested target; returns all attempts, in order. Outcomes are values.

        Raises InvalidInput for a target that cannot be reached from the source's format.
        """
        definition = version.definition
        source = self.hub.artifacts.get(version.source_artifact)
        proof = evidence(definition, self.hub.versions.checkout(version))
        targets = plan_targets(
            definition.source.format, definition.framework, tuple(requested), has_data=proof.dataset is not None
        )
        if not targets:
            return []
        done = 0

        def attempted(attempt: Attempt) -> None:
            nonlocal done
            done += attempt.target in targets
            listener(Progress(Step.PROVE, _words(attempt), min(1.0, done / len(targets))))

        listener(Progress(Step.CONVERT, f"to {', '.join(map(str, targets))}", 0.0))
        results = self.conversions.convert_all(self.hub.artifacts.checkout(source), targets, proof, attempted)
        return self._record(version, source, results)

    def _record(self, version: Version, source: Artifact, results: Sequence[ConversionResult]) -> list[Conversion]:
        ref = ModelRef(version.model, version.number)
        known = {c.key: c for c in self.hub.conversions.list(ref)}
        made: dict[Target, str] = {source.target: source.id}
        recorded: dict[str, Conversion] = {}
        for attempt in (a for result in results for a in result.attempts):
            if attempt.key not in recorded:
                conversion = known.get(attempt.key) or self._record_one(version, source, attempt, made)
                recorded[attempt.key] = conversion
                if conversion.artifact and attempt.outcome is Outcome.PROVEN:
                    made[attempt.target] = conversion.artifact
        return list(recorded.values())

    def _record_one(self, version: Version, source: Artifact, attempt: Attempt, made: dict[Target, str]) -> Conversion:
        conversion_id = uuid.uuid4().hex[:12]
        artifact = None
        if attempt.artifact is not None:
            standing = Standing.PROVEN if attempt.outcome is Outcome.PROVEN else Standing.REJECTED
            parent = made.get(attempt.parent, source.id)
            artifact = self.hub.artifacts.add(version, attempt.artifact, parent, conversion_id, standing).id
        conversion = Conversion(
            id=conversion_id,
            key=attempt.key,
            model=version.model,
            version=version.number,
            source_artifact=made.get(attempt.parent, source.id),
            target=attempt.target,
            route=attempt.route,
            outcome=attempt.outcome,
            detail=attempt.detail,
            duration_s=attempt.duration_s,
            peak_memory_bytes=attempt.peak_memory_bytes,
            tool_versions=attempt.tool_versions,
            options=attempt.options,
            failure=attempt.failure,
            hint=attempt.hint,
            log=attempt.log,
            artifact=artifact,
            equivalence=attempt.equivalence,
            isolation=attempt.isolation,
            created_at=self.now(),
        )
        self.hub.conversions.record(conversion)
        return conversion


def _words(attempt: Attempt) -> str:
    reused = ", reused" if attempt.reused else f" in {attempt.duration_s:.1f} s"
    reason = "" if attempt.outcome is Outcome.PROVEN else f": {attempt.detail}"
    return f"{attempt.target} {attempt.outcome} by {attempt.route}{reused}{reason}"
