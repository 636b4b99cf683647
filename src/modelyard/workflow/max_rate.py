"""The highest rate at which one configuration of a version meets an SLO, measured on this node."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelyard.domain.configuration import Configuration, Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.figures import figure
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile.max_rate import MaxRate, search
from modelyard.profile.slo_evidence import Evidence, Limits, Load
from modelyard.workflow.planning import with_slo
from modelyard.workflow.profiling import Bench, Profiling, reporter
from modelyard.workflow.progress import Listener
from modelyard.workflow.values import DeployRequest

PURPOSE = "max-rate"
_IN_FLIGHT = 8
_MOST_IN_FLIGHT = 256
_CAPACITY_BLOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class MaxRateRequest:
    """The rate of what `deployment` would start, under which load.

    `slo` replaces the version's. `batch` is rows per request, `blocks` are those of every measurement. `again`: measure
    even what the hub has.
    """

    slo: Slo | None = None
    deployment: DeployRequest = field(default_factory=DeployRequest)
    protocol: Protocol = Protocol.HTTP_BINARY
    batch: int = 1
    seed: int = 0
    blocks: int = 5
    limits: Limits = field(default_factory=Limits)
    again: bool = False


@dataclass(frozen=True, slots=True)
class FoundMaxRate:
    """The answer for one configuration of a version; its probes name their measurements."""

    model: str
    version: int
    configuration: Configuration
    slo: Slo
    protocol: Protocol
    batch: int
    answer: MaxRate


@dataclass(frozen=True)
class MaxRates:
    """Finds max rates. Every measurement is kept, so that the same request goes on where it was interrupted."""

    profiling: Profiling

    def find(self, ref: str, request: MaxRateRequest, listener: Listener) -> FoundMaxRate:
        """Search the rate of one configuration. Raises NotFound, InvalidInput, Unsupported, BackendFailed."""
        version = self.profiling.hub.versions.get(ModelRef.parse(ref))
        slo = target_of(version, request.slo)
        configuration = self.profiling.deployer.configure(version, request.deployment)
        with self.profiling.alone(listener), self.profiling.bench(version, again=request.again) as bench:
            answer = search_on(bench, configuration, slo, request, listener)
        return FoundMaxRate(version.model, version.number, configuration, slo, request.protocol, request.batch, answer)


def search_on(
    bench: Bench, configuration: Configuration, slo: Slo, request: MaxRateRequest, listener: Listener
) -> MaxRate:
    """Search with the services of `bench`; the caller has seen to it that nothing else measures meanwhile.

    The capacity is that of the configuration without the SLO, whose queue refuses what would come too late; rates are
    tried on the one that would be deployed.
    """
    plain, kept = with_slo(configuration, None), with_slo(configuration, slo)

    def measure(load: Load) -> Evidence:
        measured = plain if load.rate_rps is None else kept
        if measured not in bench.services:
            bench.release()  # two services at once would disturb each other
        report = reporter(listener, f"{_told(load)}, {configuration.label}")
        (found,) = bench.measure([measured], workload(load, configuration, request), PURPOSE, report)
        return Evidence.of(found)

    return search(slo.p99_ms, measure, seed=request.seed, limits=request.limits)


def workload(load: Load, configuration: Configuration, request: MaxRateRequest) -> Workload:
    """What a step of the search puts on the service; rates of four digits, for they are shown and compared."""
    limits = request.limits
    if load.rate_rps is None:
        return Workload(
            Arrival.CLOSED,
            concurrency=in_flight(configuration),
            batch=request.batch,
            blocks=request.blocks,
            requests=load.requests,
            duration_s=min(_CAPACITY_BLOCK_S, limits.most_block_s),
            protocol=request.protocol,
            seed=load.seed,
        )
    rate = float(f"{load.rate_rps:.4g}")
    return Workload(
        Arrival.POISSON,
        rate_rps=rate,
        batch=request.batch,
        blocks=request.blocks,
        requests=load.requests,
        duration_s=max(limits.most_block_s * 2, load.requests / rate * 2),  # the number of requests ends a block
        protocol=request.protocol,
        seed=load.seed,
    )


def _told(load: Load) -> str:
    return str(load.purpose) if load.rate_rps is None else f"{load.purpose} at {figure(load.rate_rps)} requests/s"


def in_flight(configuration: Configuration) -> int:
    """Requests that keep every replica busy with full batches, while others travel."""
    return min(_MOST_IN_FLIGHT, max(_IN_FLIGHT, 2 * configuration.replicas * configuration.batching.max_size))


def target_of(version: Version, given: Slo | None) -> Slo:
    """The latency to keep: the one given, else the version's. Raises InvalidInput."""
    if given is not None and given.rate_rps is not None:
        raise InvalidInput(
            f"'{given}' names a rate, which is what is looked for", hint=f"write 'p99 <= {given.p99_ms:g} ms'"
        )
    slo = given or version.definition.slo
    if slo is None:
        raise InvalidInput(f"{version.ref} has no SLO", hint="give one: --slo 'p99 <= 20 ms'")
    return Slo(slo.p99_ms)
