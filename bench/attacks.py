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
import os
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.serving_harness import RunningReplica, replica, scripted

MIB = 1024 * 1024
PATH = "/v2/models/m/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(BODY))
CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
HONEST = 4


class Honest:
    """Closed loop over a few connections in a thread of its own; counts answers and notes the slowest."""

    def __init__(self, server: RunningReplica) -> None:
        self._server = server
        self._over = False
        self.answers = self.failures = 0
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._run) for _ in range(HONEST)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection = self._server.connect()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._over:
            started = time.perf_counter()
            connection.sendall(HEAD + BODY)
            answer = b""
            while b"}]}" not in answer:
                more = connection.recv(65536)
                if not more:
                    self.failures += 1
                    return
                answer += more
            if answer.startswith(b"HTTP/1.1 200"):
                self.answers += 1
            else:
                self.failures += 1
            self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
            time.sleep(0.002)  # a client with a life: the attackers and it share the machine
        connection.close()

    def end(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()


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
    sockets = []
    for _ in range(200):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError, OSError):
            while sent < 4 * MIB:
                sent += one.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 200)
        sockets.append(one)
    started = time.perf_counter()
    left = set(sockets)
    longest = 0.0
    while left and time.perf_counter() - started < 45:
        for one in list(left):  # a reset is seen by writing; reading would end the attack
            try:
                one.send(b"\r")
            except BlockingIOError:
                continue
            except OSError:
                left.discard(one)
                longest = time.perf_counter() - started
        time.sleep(0.2)
    for one in sockets:
        one.close()
    return Seen({"closed": 200 - len(left), "open": len(left)}, longest, "200 connections, pipelined, never read")


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
    with tempfile.TemporaryDirectory() as name, replica(Path(name), scripted("scale"), grpc_port=None) as server:
        for attack in (a for group in chosen for a in ATTACKS[group]):
            calm = Honest(server)
            time.sleep(3)
            calm.end()
            rate = calm.answers / 3
            peak, honest, cpu, started = Peak(server), Honest(server), cpu_s(server), time.perf_counter()
            seen = attack(server.http_port)
            took = time.perf_counter() - started
            used = cpu_s(server) - cpu
            honest.end()
            said = ", ".join(f"{k}: {n}" for k, n in seen.statuses.items())
            goodput = honest.answers / took / rate
            print(
                f"{seen.note:48} {said:28} {seen.longest_s:6.2f} {goodput:8.0%} {honest.slowest_s * 1e3:11.1f} "
                f"{peak.end():8.1f} {used:6.2f}" + (f"  {honest.failures} honest failures" if honest.failures else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
