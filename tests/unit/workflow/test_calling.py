"""The sums that `yard services show` tells, from the pages of several replicas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import msgspec

from modelyard.domain.services import Endpoint, Release, Service, VersionPolicy
from modelyard.serving.models.comparison import ShadowStatistics
from modelyard.serving.observe.statistics import BatchStatistics, ModelStatistics, ReplicaStatistics
from modelyard.workflow.calling import traffic
from tests.builders import configuration

POLICY = VersionPolicy(labels={"next": 4}, canary={4: 0.25}, shadow=5, default=3)


def page(pid: int, requests: int, compared: int, error: float) -> ReplicaStatistics:
    def model(version: int, count: int) -> ModelStatistics:
        batches = [BatchStatistics(1, count, count), BatchStatistics(2, 1, 2)]
        return ModelStatistics("digits", version, 0, 1, {"expired": 2, "queue-full": 3}, 0.0, batches)

    shadow = ShadowStatistics("digits", 5, compared + 1, 1, 0, compared, 1, error, compared, compared - 1)
    other = ModelStatistics("other", 3, 0, 0, {}, 0.0, [BatchStatistics(1, 99, 99)])
    return ReplicaStatistics(1, "digits", pid, 1.0, True, [model(3, requests), model(4, 1), other], [shadow])


@contextmanager
def replicas(*pages: ReplicaStatistics) -> Iterator[Service]:
    """A service whose connections are answered by one page after the other."""
    turn = iter(range(10**6))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = msgspec.json.encode(pages[next(turn) % len(pages)])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        endpoint = Endpoint("127.0.0.1", server.server_address[1])
        others = (Release(4, configuration()), Release(5, configuration()))
        yield Service("digits", "digits", 3, configuration(), endpoint, "/x", "now", others=others, policy=POLICY)
        server.shutdown()
        thread.join()


def test_every_replica_is_counted_once_and_summed() -> None:
    with replicas(page(1, 10, 4, 0.5), page(1, 10, 4, 0.5), page(2, 20, 6, 0.25)) as service:
        found = traffic(service, [1, 2])
    assert [(v.version, v.share, v.shadow, v.labels) for v in found.versions] == [
        (3, 0.75, False, ()),
        (4, 0.25, False, ("next",)),
        (5, 0.0, True, ()),
    ]
    assert [(v.requests, v.failed, v.refused) for v in found.versions] == [(34, 2, 10), (6, 2, 10), (0, 0, 0)]
    shadow = found.shadow
    assert shadow is not None
    assert (shadow.version, shadow.offered, shadow.dropped, shadow.compared) == (5, 12, 2, 10)
    assert (shadow.max_abs_error, shadow.mismatched, shadow.rows, shadow.rows_agreeing) == (0.5, 2, 10, 8)
    assert (found.replicas, found.error) == (2, "")


def test_a_replica_that_cannot_be_asked_is_said() -> None:
    with replicas(page(1, 10, 4, 0.5)) as service:
        found = traffic(service, [1, 2])
    assert found.replicas == 1
    assert found.error == "1 of 2 replicas answered"
    gone = traffic(service, [1])
    assert gone.replicas == 0
    assert "0 of 1 replicas answered: " in gone.error
