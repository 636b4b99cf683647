"""What a replica keeps of its service while clients attack its HTTP port: rows T13-T16 of the fault table.

    python bench/attacks.py [slow-senders] [slow-readers] [bodies] [bombs]

Each row: the attack at full size against one replica (a doubling model, no framework), an honest client with 4
connections before and during it. `goodput`: honest requests/s during the attack as a share of those before, client and
attackers on the same machine. `RSS`: growth of the replica's resident memory at its peak. About three minutes in all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.serving_harness import RunningReplica, replica, scripted

MIB = 1024 * 1024
PATH = "/v2/models/m/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(BODY))
CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
HONEST = 4


async def honest_connection(port: int, over: asyncio.Event, latencies: list[float]) -> int:
    """Requests one after the other, a few milliseconds apart; the number that failed."""
    failures = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        started = time.perf_counter()
        writer.write(HEAD + BODY)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
        failures += not head.startswith(b"HTTP/1.1 200")
        latencies.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)
    writer.close()
    return failures


def honest_process(port: int, pipe: Connection) -> None:
    """In a process of its own: be honest until told to end, then report latencies and failures."""

    async def main() -> None:
        over, latencies = asyncio.Event(), list[float]()
        pipe.send("begun")
        asyncio.get_running_loop().add_reader(pipe.fileno(), over.set)
        failures = await asyncio.gather(*(honest_connection(port, over, latencies) for _ in range(HONEST)))
        pipe.send((latencies, sum(failures)))

    asyncio.run(main())


class Honest:
    """A client that wants its answers."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=honest_process, args=(port, theirs))
        self._process.start()
        self._pipe.recv()
        self._started = time.perf_counter()
        self.rate = self.slowest_s = 0.0
        self.failures = 0

    def end(self) -> None:
        self._pipe.send(None)
        took = time.perf_counter() - self._started
        latencies, self.failures = self._pipe.recv()
        self._process.join()
        self.rate = (len(latencies) - self.failures) / took
        self.slowest_s = max(latencies)


class Peak:
    """The replica's resident memory, sampled."""

    def __init__(self, server: RunningReplica) -> None:
        self._file = Path(f"/proc/{server.process.pid}/statm")
        self.start = self.most = self._read()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _read(self) -> int:
        return int(self._file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, self._read())

    def end(self) -> float:
        """Growth in MiB."""
        self._over.set()
        self._thread.join()
        return (self.most - self.start) / MIB


def cpu_s(server: RunningReplica) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Seen:
    """What the attackers saw: statuses, and how long the last of them was kept."""

    statuses: dict[str, int]
    longest_s: float
    note: str = ""


def count(statuses: list[str]) -> dict[str, int]:
    return {s: statuses.count(s) for s in sorted(set(statuses))}


async def trickle(port: int, first: bytes, rest: bytes, every_s: float, until_s: float) -> tuple[str, float]:
    """Send `first`, then a byte of `rest` now and then, until the server ends it: status and how long it took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.perf_counter()
    writer.write(first)
    answer = b""
    with contextlib.suppress(OSError):
        for i in range(len(rest)):
            try:
                answer = await asyncio.wait_for(reader.read(65536), every_s)
                break
            except TimeoutError:
                if time.perf_counter() - started > until_s:
                    break
                writer.write(rest[i : i + 1])
    took = time.perf_counter() - started
    writer.close()
    return (answer[9:12].decode() or "open"), took


def slow_heads(port: int) -> Seen:
    async def attack() -> list[tuple[str, float]]:
        return await asyncio.gather(*(trickle(port, b"GET /v2 HTTP/1.1\r\n", b"X" * 99, 1.0, 20) for _ in range(500)))

    ends = asyncio.run(attack())
    return Seen(count([s for s, _ in ends]), max(t for _, t in ends), "500 heads, 1 byte/s")


def slow_bodies(port: int) -> Seen:
    async def attack() -> list[tuple[str, float]]:
        return await asyncio.gather(*(trickle(port, HEAD, BODY, 10.0, 75) for _ in range(500)))

    ends = asyncio.run(attack())
    return Seen(count([s for s, _ in ends]), max(t for _, t in ends), "500 bodies, 1 byte/10 s")


def slow_readers(port: int) -> Seen:
    rows = 4096
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "parameters": {"binary_data_size": rows * 16}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    names = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d" % (len(header), len(header) + rows * 16)
    large = b"POST %b HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % (PATH.encode(), names) + header + bytes(rows * 16)
    ends = asyncio.run(flood(port, large, 200))
    statuses = {"closed": len(ends), "open": 200 - len(ends)}
    return Seen(statuses, max(ends, default=0.0), "200 pipeline 64 KiB tensors, never read")


class NeverReads(asyncio.Protocol):
    """Writes requests as long as the server takes them; a reset is noticed by what cannot be written."""

    def __init__(self, request: bytes, ends: list[float]) -> None:
        self._request, self._ends = request, ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._full = False
        transport.pause_reading()
        self._started = time.perf_counter()
        self._fill()

    def _fill(self) -> None:
        while not self._full and not self._transport.is_closing():
            self._transport.write(self._request)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._fill()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._ends.append(time.perf_counter() - self._started)


async def flood(port: int, request: bytes, number: int) -> list[float]:
    """Open so many connections that never read; after how many seconds each was closed, within 45."""
    ends: list[float] = []
    transports = []
    for _ in range(number):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        made = await asyncio.get_running_loop().create_connection(lambda: NeverReads(request, ends), sock=one)
        transports.append(made[0])
    for _ in range(450):
        if len(ends) == number:
            break
        await asyncio.sleep(0.1)
    found = list(ends)
    for transport in transports:
        transport.abort()
    return found


def exchange(port: int, parts: list[bytes], times: int = 1) -> str:
    """Send as long as the server takes it; the status of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        with contextlib.suppress(OSError):
            for _ in range(times):
                for part in parts:
                    one.sendall(part)
        try:
            return one.recv(65536)[9:12].decode() or "closed"
        except OSError:
            return "reset"


def declared(port: int) -> Seen:
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 10737418240\r\n\r\n" % PATH.encode()
    started = time.perf_counter()
    found = [exchange(port, [head, b"x" * MIB]) for _ in range(100)]
    return Seen(count(found), (time.perf_counter() - started) / 100, "10 GiB declared, 100 times")


def tiny_chunks(port: int) -> Seen:
    found: list[str] = []
    part = b"1\r\n1\r\n" * 10_000

    def one() -> None:
        found.append(exchange(port, [CHUNKED] + [part] * 100))

    threads = [threading.Thread(target=one) for _ in range(100)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Seen(count(found), time.perf_counter() - started, "1M one-byte chunks on each of 100 connections")


def bombs(port: int) -> Seen:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(1024)) + stream.flush()
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    started = time.perf_counter()
    found = [exchange(port, [head % (PATH.encode(), len(bomb)) + bomb]) for _ in range(50)]
    took = (time.perf_counter() - started) / 50
    return Seen(count(found), took, f"{len(bomb) / MIB:.2g} MiB of gzip that are 1 GiB, 50 times")


ATTACKS: dict[str, list[Callable[[int], Seen]]] = {
    "slow-senders": [slow_heads, slow_bodies],
    "slow-readers": [slow_readers],
    "bodies": [declared, tiny_chunks],
    "bombs": [bombs],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], help="all by default")
    chosen = parser.parse_args().attacks or list(ATTACKS)
    print(
        f"{'attack':48} {'seen by attackers':28} {'s':>6} {'goodput':>8} {'slowest ms':>11} {'RSS MiB':>8} {'CPU s':>6}"
    )
    with (
        tempfile.TemporaryDirectory() as name,
        replica(Path(name), scripted("scale", batch=4096), grpc_port=None) as server,
    ):
        for attack in (a for group in chosen for a in ATTACKS[group]):
            calm = Honest(server.http_port)
            time.sleep(3)  # the honest client alone: what the attack is compared with
            calm.end()
            honest = Honest(server.http_port)
            peak, cpu = Peak(server), cpu_s(server)
            seen = attack(server.http_port)
            used = cpu_s(server) - cpu
            honest.end()
            said = ", ".join(f"{k}: {n}" for k, n in seen.statuses.items())
            goodput = honest.rate / calm.rate
            print(
                f"{seen.note:48} {said:28} {seen.longest_s:6.2f} {goodput:8.0%} {honest.slowest_s * 1e3:11.1f} "
                f"{peak.end():8.1f} {used:6.2f}" + (f"  {honest.failures} honest failures" if honest.failures else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
