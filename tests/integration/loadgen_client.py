"""MLPerf LoadGen against an HTTP service, as an oracle: `loadgen_client.py PORT OUT_DIR '{"scenario": "Server", ...}'`.

Leaves LoadGen's own logs in OUT_DIR. Options: `scenario` (LoadGen's name), `queries`, `rate` and `limit_ms` (Server).
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading

import mlperf_loadgen as lg

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
WORKERS = 64


def ask(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b'{"outputs":[]}'):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the service closed the connection")
        answer += part


def worker(port: int, waiting: queue.SimpleQueue[int | None]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (query := waiting.get()) is not None:
            ask(connection)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query, 0, 0)])


def settings(options: dict[str, object]) -> lg.TestSettings:
    made = lg.TestSettings()
    made.scenario = getattr(lg.TestScenario, str(options["scenario"]))
    made.mode = lg.TestMode.PerformanceOnly
    made.min_duration_ms = 0
    made.min_query_count = made.max_query_count = int(options["queries"])
    if options["scenario"] == "Server":
        made.server_target_qps = float(options["rate"])
        made.server_target_latency_ns = int(float(options["limit_ms"]) * 1e6)
    made.schedule_rng_seed = made.sample_index_rng_seed = made.qsl_rng_seed = 11
    return made


def main(port: int, out: str, options: dict[str, object]) -> None:
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=worker, args=(port, waiting)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()

    def issue(samples: list[lg.QuerySample]) -> None:
        for sample in samples:
            waiting.put(sample.id)

    sut = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(64, 64, lambda indices: None, lambda indices: None)
    where = lg.LogSettings()
    where.log_output.outdir = out
    where.enable_trace = True
    lg.StartTestWithLogSettings(sut, library, settings(options), where, "")
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    lg.DestroyQSL(library)
    lg.DestroySUT(sut)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
