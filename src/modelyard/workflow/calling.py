"""How yard itself calls the services it started: for the probe, for predictions, for their statistics."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence

import msgspec

from modelyard.client import Client, Tls
from modelyard.domain.services import Endpoint, ReplicaSettings, Service
from modelyard.serving.models.comparison import ShadowStatistics
from modelyard.serving.observe.statistics import ModelStatistics, ReplicaStatistics
from modelyard.workflow.values import ShadowTraffic, Traffic, VersionTraffic

_TRIES_PER_REPLICA = 8
_FAILURES = 3
"""So many calls may fail: with the timeout of each, a person who waits for the answer gets it in 15 s at most."""
_TIMEOUT_S = 5.0


def client_of(service: Service) -> Client:
    """A client of a service that this installation started."""
    return client_at(service.endpoint, service.serving.replica)


def client_at(endpoint: Endpoint, settings: ReplicaSettings) -> Client:
    """As `client_of`, where there is no service yet."""
    return Client(endpoint.url, tls=_tls(settings) if endpoint.tls else None)


def _tls(settings: ReplicaSettings) -> Tls:
    # A certificate is for the name that clients use, seldom for the address yard calls; whom it calls is no question,
    # for it started that process and holds its port.
    caller = settings.caller
    if caller is None:
        return Tls(verify=False)
    return Tls(verify=False, certificate=caller.certificate, key=caller.key)


def traffic(service: Service, pids: Sequence[int]) -> Traffic:
    """What the replicas with these process ids count, summed."""
    context = _tls(service.serving.replica).context() if service.endpoint.tls else None
    pages, why = _pages(service.endpoint, context, pids)
    error = f"{len(pages)} of {len(pids)} replicas answered{why}" if len(pages) < len(pids) else ""
    shadows = [s for page in pages for s in page.shadows if s.model == service.model]
    return Traffic(_versions(service, pages), _shadow(shadows), len(pages), error)


def _pages(
    endpoint: Endpoint, context: ssl.SSLContext | None, pids: Sequence[int]
) -> tuple[list[ReplicaStatistics], str]:
    """The statistics of each of `pids`, which share a port: new connections are made until each has answered.

    The kernel picks who answers, so tries are bounded; what went wrong last is told.
    """
    wanted, found, why, failures = set(pids), dict[int, ReplicaStatistics](), "", 0
    for _ in range(_TRIES_PER_REPLICA * len(wanted)):
        try:
            page = _ask(endpoint, context)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            why = f": {error or type(error).__name__}"
            failures += 1
            if failures == _FAILURES:
                break
            continue
        if page.pid in wanted:
            found[page.pid] = page
        if len(found) == len(wanted):
            break
    return list(found.values()), why


def _ask(endpoint: Endpoint, context: ssl.SSLContext | None) -> ReplicaStatistics:
    connection = (
        http.client.HTTPConnection(endpoint.host, endpoint.http_port, timeout=_TIMEOUT_S)
        if context is None
        else http.client.HTTPSConnection(endpoint.host, endpoint.http_port, timeout=_TIMEOUT_S, context=context)
    )
    try:
        connection.request("GET", "/stats", headers={"Connection": "close"})
        return msgspec.json.decode(connection.getresponse().read(), type=ReplicaStatistics)
    finally:
        connection.close()


def _versions(service: Service, pages: Sequence[ReplicaStatistics]) -> tuple[VersionTraffic, ...]:
    policy = service.policy
    rest = max(0.0, 1.0 - sum(policy.canary.values()))
    numbers = [service.version, *(other.version for other in service.others)]
    found = []
    for number in numbers:
        mine = [m for page in pages for m in page.models if (m.model, m.version) == (service.model, number)]
        found.append(
            VersionTraffic(
                version=number,
                share=round(rest, 9) if number == service.version else policy.canary.get(number, 0.0),
                shadow=number == policy.shadow,
                labels=tuple(sorted(label for label, version in policy.labels.items() if version == number)),
                requests=sum(_requests(m) for m in mine),
                failed=sum(m.failed for m in mine),
                refused=sum(sum(m.refused.values()) for m in mine),
            )
        )
    return tuple(found)


def _requests(model: ModelStatistics) -> int:
    return model.cached + sum(batch.requests for batch in model.batches)


def _shadow(found: Sequence[ShadowStatistics]) -> ShadowTraffic | None:
    if not found:
        return None
    return ShadowTraffic(
        version=found[0].version,
        offered=sum(s.offered for s in found),
        dropped=sum(s.dropped for s in found),
        failed=sum(s.failed for s in found),
        compared=sum(s.compared for s in found),
        mismatched=sum(s.mismatched for s in found),
        max_abs_error=max(s.max_abs_error for s in found),
        rows=sum(s.rows for s in found),
        rows_agreeing=sum(s.rows_agreeing for s in found),
    )
