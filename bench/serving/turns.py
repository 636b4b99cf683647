"""Latencies that are compared to microseconds: two sides asked in turns by one blocking client, a few requests each.

Cells that are seconds apart differ by what else the machine does and how deep its cores sleep: for a runtime of 50 ms
by more than a millisecond. Asked in turns, both sides meet the same machine. The client has one core and the side that
is asked another: else the system puts a quick side beside the client and a slower one elsewhere, and what is compared
is how long a sleeping core takes to wake up.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from bench.serving.clients import ClientFailed
from bench.serving.deployed import CANNOT, Deployed
from bench.serving.fleet import Key, say, words
from bench.serving.inprocess import InProcess
from bench.serving.messages import Message
from bench.serving.models import Model
from bench.serving.plan import INPROCESS
from bench.serving.results import Results, Side, Turns
from bench.serving.systems.ports import BINARY, JSON
from modelyard.domain.workload import Protocol

Ask = Callable[[int], float]
"""Asks the n-th request; its seconds."""

_PAIRS: dict[str, tuple[tuple[Key, Key, Protocol], ...]] = {
    "mlp": tuple((("modelyard", True), ("floor", None), protocol) for protocol in (JSON, BINARY)),
    "cnn": tuple((("modelyard", True), ("modelyard", False), protocol) for protocol in (BINARY, JSON)),
    "resnet50": ((("modelyard", True), (INPROCESS, None), BINARY),),
}
_CORES = sorted(os.sched_getaffinity(0))
_BURST, _BURSTS = 200, 10
"""Requests of one side before the other has its turn, and turns of each side in a round."""
_SLOW_BURST, _SLOW_BURSTS = 2, 15
"""The same for models of a few runs per second."""


def measure(model: Model, up: dict[Key, Deployed], inprocess: InProcess, round_: int, results: Results) -> None:
    """One round of the pairs of a model that are up."""
    for one, other, protocol in _PAIRS.get(model.name, ()):
        if one not in up or (other not in up and other[0] != INPROCESS):
            continue
        try:
            with _asking(one, up, inprocess, protocol) as ask, _asking(other, up, inprocess, protocol) as ask_other:
                burst, bursts = (_SLOW_BURST, _SLOW_BURSTS) if model.slow else (_BURST, _BURSTS)
                difference, mine, theirs = _in_turns(ask, ask_other, burst, bursts)
                stages = _stages(up[one])
        except (*CANNOT, ClientFailed) as error:
            say(f"{model.name}: {one[0]} and {other[0]} in turns over {protocol}: {words(error)}")
            continue
        turns = Turns(round_, difference, mine, theirs, stages)
        results.turns_of(model.name, Side(*one), Side(*other), protocol).rounds.append(turns)


def _in_turns(ask: Ask, other: Ask, burst: int, bursts: int) -> tuple[float, float, float]:
    """Median over the turns of the difference of the medians of a turn, and the medians themselves, in ms.

    The first request of each turn is not counted: caches and cores are still the other side's.
    """
    pairs: list[tuple[float, float]] = []
    for number in range(bursts):
        sides = [(ask, []), (other, [])] if number % 2 == 0 else [(other, []), (ask, [])]
        for side, times in sides:
            side(0)
            times += [side(i) for i in range(burst)]
        found = {id(side): statistics.median(times) * 1e3 for side, times in sides}
        pairs.append((found[id(ask)], found[id(other)]))
    return (
        statistics.median(a - b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def _stages(deployed: Deployed) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{deployed.http_port}/requests", timeout=10) as response:
        recent = json.load(response)["recent"]
    names = [name for name in recent[0] if name.endswith("_us")] if recent else []
    return {name.removesuffix("_us"): statistics.median(request[name] for request in recent) for name in names}


@contextmanager
def _on(core: int, processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Keep all threads of some processes on a core meanwhile."""
    before = {
        int(task.name): os.sched_getaffinity(int(task.name))
        for process in processes
        for task in Path(f"/proc/{process.pid}/task").iterdir()
    }
    for thread in before:
        os.sched_setaffinity(thread, {core})
    try:
        yield
    finally:
        for thread, cores in before.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


@contextmanager
def _asking(key: Key, up: dict[Key, Deployed], inprocess: InProcess, protocol: Protocol) -> Iterator[Ask]:
    if key[0] == INPROCESS:
        with _on(_CORES[-1], [inprocess.process]):
            yield lambda _: inprocess.measure(1, 0.0).p50_ms / 1e3
        return
    deployed = up[key]
    with ExitStack() as stack:
        deployed.server.thaw()
        stack.callback(deployed.rest)
        deployed.check(protocol)
        stack.enter_context(_on(_CORES[-1], deployed.server.processes()))
        stack.enter_context(_on(_CORES[0], [psutil.Process()]))
        connection = socket.create_connection(("127.0.0.1", deployed.http_port), timeout=60)
        stack.enter_context(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield _asker(connection, deployed.launch.path, deployed.messages[protocol])


def _asker(connection: socket.socket, path: str, messages: Sequence[Message]) -> Ask:
    requests = [_request(path, message) for message in messages]
    room = bytearray(1 << 20)

    def ask(number: int) -> float:
        request = requests[number % len(requests)]
        began = time.perf_counter()
        connection.sendall(request)
        size = connection.recv_into(room)
        lasted = time.perf_counter() - began
        if room[:12] != b"HTTP/1.1 200":
            raise ClientFailed(f"answered {bytes(room[:size])[:60]!r}")
        head, _, body = bytes(room[:size]).partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-le")
        )
        if len(body) != length:
            raise ClientFailed("an answer came in parts: such models cannot be asked in turns")
        return lasted

    return ask


def _request(path: str, message: Message) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in message.headers.items())]
    lines.append(f"Content-Length: {len(message.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + message.body
