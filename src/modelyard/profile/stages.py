"""Where the time goes inside the server: the difference of two snapshots of its `GET /stats`.

Servers without that page (other serving systems, a naive service) have no split; that is None, not an error.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from modelyard.domain.measurement import StageTimes
from modelyard.domain.services import Endpoint

_TIMES = ("queue_s", "batch_wait_s", "pre_s", "infer_s", "post_s", "encode_s")
_TRIES_PER_REPLICA = 8


class _Batch(msgspec.Struct):
    """Counters of batches of `rows` rows, as the server documents them: sums of seconds over requests."""

    rows: int
    batches: int
    requests: int
    queue_s: float
    batch_wait_s: float
    pre_s: float
    infer_s: float
    post_s: float
    encode_s: float
    send_s: float = 0.0


class _Model(msgspec.Struct):
    model: str
    version: int
    batches: list[_Batch]


class _Page(msgspec.Struct):
    pid: int
    models: list[_Model]


Snapshot = Mapping[int, _Page]
"""The statistics page of each replica by its process id."""


def snapshot(endpoint: Endpoint, pids: Sequence[int]) -> Snapshot:
    """Ask for the statistics of every replica.

    Replicas share a port and the kernel picks who answers, so new connections are made until each of `pids` has
    answered or a bounded number of tries is used up; empty where the service has no such page.
    """
    pages: dict[int, _Page] = {}
    for _ in range(_TRIES_PER_REPLICA * max(1, len(pids))):
        page = _ask(endpoint)
        if page is None:
            break
        pages[page.pid] = page
        if len(pages) >= len(pids):
            break
    return pages


def stage_times(pairs: Iterable[tuple[Snapshot, Snapshot]], model: str, version: int) -> StageTimes | None:
    """Mean stage times of the requests between each (before, after); None where the pages say nothing of them."""
    requests = batches = rows = 0.0
    sums = dict.fromkeys(_TIMES, 0.0)
    for before, after in pairs:
        for pid in before.keys() & after.keys():
            old = {b.rows: b for b in _batches(before[pid], model, version)}
            for new in _batches(after[pid], model, version):
                was = old.get(new.rows, _Batch(new.rows, 0, 0, 0, 0, 0, 0, 0, 0))
                requests += new.requests - was.requests
                batches += new.batches - was.batches
                rows += (new.batches - was.batches) * new.rows
                for name in _TIMES:
                    sums[name] += getattr(new, name) - getattr(was, name)
                sums["encode_s"] += new.send_s - was.send_s  # one stage in a measurement: rendering and writing
    if requests <= 0 or batches <= 0:
        return None
    means = {f"{name[:-2]}_ms": total / requests * 1e3 for name, total in sums.items()}
    return StageTimes(**means, mean_batch_rows=rows / batches)


def _batches(page: _Page, model: str, version: int) -> list[_Batch]:
    return [batch for m in page.models if (m.model, m.version) == (model, version) for batch in m.batches]


def _ask(endpoint: Endpoint) -> _Page | None:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.http_port, timeout=5)
    try:
        connection.request("GET", "/stats", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        return msgspec.json.decode(body, type=_Page) if response.status == 200 else None
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
