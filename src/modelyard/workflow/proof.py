"""On which runtime an artifact may be served: the one it was proven on, for a proof holds for what it ran."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.artifacts import Artifact, Standing
from modelyard.domain.errors import Rejected, Unsupported
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub
from modelyard.runtimes import Runtimes


@dataclass(frozen=True)
class Proof:
    """Reads from the hub what each artifact's proof covers."""

    hub: Hub
    runtimes: Runtimes

    def runtime(self, artifact: Artifact) -> str:
        """The runtime that `artifact` was proven on; for a source, its format's first installed one.

        Raises Rejected for an artifact without a proof, Unsupported where no runtime is installed.
        """
        if artifact.standing is Standing.SOURCE:
            return self._installed(artifact.target.format)
        if artifact.standing.servable:
            for conversion in self.hub.conversions.list(ModelRef(artifact.model, artifact.version)):
                if conversion.id == artifact.conversion and conversion.equivalence:
                    self._require(conversion.equivalence.runtime)
                    return conversion.equivalence.runtime
        raise Rejected(
            f"{artifact.target} of {artifact.model}:{artifact.version} is {artifact.standing}",
            why="only the source and what was proven equal to it may be served",
            hint=f"yard models show {artifact.model}:{artifact.version}",
        )

    def check(self, artifact: Artifact, runtime: str) -> None:
        """Raise Unsupported where `runtime` cannot run the artifact, Rejected where its proof is for another one."""
        found = self.runtimes.get(runtime)
        if artifact.target.format not in found.formats:
            fitting = ", ".join(r.name for r in self.runtimes.for_format(artifact.target.format))
            raise Unsupported(f"runtime {runtime} does not run {artifact.target.format}", hint=f"use {fitting}")
        self._require(runtime)
        proven = self.runtime(artifact)
        if runtime != proven:
            raise Rejected(
                f"{artifact.target} was proven on {proven}, not on {runtime}",
                why="another runtime may give other results",
                hint=f"leave out --runtime, or convert to a format of {runtime} and let it be proven",
            )

    def _installed(self, format_: str) -> str:
        known = self.runtimes.for_format(format_)
        for runtime in known:
            if runtime.availability().available:
                return runtime.name
        hints = [runtime.availability().hint for runtime in known]
        raise Unsupported(f"no installed runtime runs {format_}", hint=" or ".join(hints) or "yard doctor")

    def _require(self, name: str) -> None:
        availability = self.runtimes.get(name).availability()
        if not availability.available:
            raise Unsupported(f"runtime {name} is not available", why=availability.reason, hint=availability.hint)
