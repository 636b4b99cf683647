"""A client for models of a few runs per second: it counts whole cycles, so that no run is cut by the window's edge.

    python -m bench.serving.cycle_client FOLDER COUNT HEADERS PORT PATH CONNECTIONS SECONDS

One thread per connection, each with one request in flight. A connection's rate is its requests over the time from an
answer to an answer, after its first request; the service's rate is the sum. At hundreds of requests per second the
client would be the bottleneck: wrk and h2load are for those. An empty PATH means gRPC.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from bench.serving.clients import CycleResult
from bench.serving.messages import INFER

_WARM_UP = 1
_LEAST = 2


class Connection:
    """One connection: `times` are the latencies of counted requests, `span_s` the time they took together."""

    def __init__(self, ask: Callable[[int], bool], end: float) -> None:
        self._ask, self._end = ask, end
        self.times: list[float] = []
        self.span_s = 0.0
        self.failed = 0

    def run(self) -> None:
        """Until the time is over and enough is counted."""
        number = 0
        while number < _WARM_UP:
            self.failed += not self._ask(number)
            number += 1
        began = last = time.perf_counter()
        while last < self._end or len(self.times) < _LEAST:
            self.failed += not self._ask(number)
            number += 1
            now = time.perf_counter()
            self.times.append(now - last)
            last = now
            if self.failed > 10:
                break
        self.span_s = last - began


def rest(port: int, path: str, bodies: list[bytes], headers: list[dict[str, str]]) -> Callable[[int], bool]:
    """Asks over one HTTP connection; False for any answer but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(number: int) -> bool:
        try:
            connection.request("POST", path, bodies[number % len(bodies)], headers[number % len(bodies)])
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return response.status == 200

    return ask


def rpc(port: int, bodies: list[bytes]) -> Callable[[int], bool]:
    """Asks over one gRPC channel; False for any status but OK."""
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    call = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)

    def ask(number: int) -> bool:
        try:
            call(bodies[number % len(bodies)], timeout=60)
        except grpc.RpcError:
            return False
        return True

    return ask


def main() -> None:
    folder, count, headers, port, path, connections, seconds = sys.argv[1:]
    bodies = [(Path(folder) / f"cycle-{i}").read_bytes() for i in range(int(count))]
    given = msgspec.json.decode(headers, type=list[dict[str, str]])
    end = time.perf_counter() + float(seconds)
    all_ = [
        Connection(rest(int(port), path, bodies, given) if path else rpc(int(port), bodies), end)
        for _ in range(int(connections))
    ]
    threads = [threading.Thread(target=connection.run) for connection in all_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = np.concatenate([connection.times for connection in all_]) * 1e3
    p50, p99 = np.percentile(times, (50, 99))
    failed = sum(connection.failed for connection in all_)
    rate = sum(len(connection.times) / connection.span_s for connection in all_)
    rate *= max(0.0, 1 - failed / len(times))
    print(msgspec.json.encode(CycleResult(rate, float(p50), float(p99), len(times), failed)).decode())


if __name__ == "__main__":
    main()
