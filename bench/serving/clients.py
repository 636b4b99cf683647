"""The load: wrk for REST, h2load for gRPC, a client that counts whole cycles for models of a few runs per second."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench.serving.messages import INFER, Message, framed

_LUA = """
wrk.method = "POST"
wrk.path = "{path}"
local requests, at = {{}}, 0
local function body(name) local f = io.open(name, "rb"); local b = f:read("*a"); f:close(); return b end
{load}
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'RESULT {{"count": %d, "us": %d, "failed": %d, "p50_us": %.1f, "p99_us": %.1f}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
_TURNS = """
function init(_) for i, r in ipairs(requests) do requests[i] = wrk.format(nil, nil, r[2], body(r[1])) end end
function request() at = at % #requests + 1; return requests[at] end
"""


class ClientFailed(Exception):
    """A load generator itself failed; the message has its last line."""


@dataclass(frozen=True, slots=True)
class Load:
    """One timed cell. `failed` counts requests without a good answer; `client_cores` is the client's CPU."""

    rate: float
    p50_ms: float
    p99_ms: float
    count: int
    failed: int
    client_cores: float


class _WrkResult(msgspec.Struct):
    count: int
    us: int
    failed: int
    p50_us: float
    p99_us: float


class CycleResult(msgspec.Struct):
    """What the client of whole cycles prints."""

    rate: float
    p50_ms: float
    p99_ms: float
    count: int
    failed: int


def missing_tools() -> list[str]:
    """Debian packages whose programs are not on the path."""
    packages = {"wrk": "wrk", "h2load": "nghttp2-client"}
    return [package for program, package in packages.items() if shutil.which(program) is None]


def wrk(folder: Path, port: int, path: str, messages: Sequence[Message], connections: int, seconds: float) -> Load:
    """Closed loop over REST, one request in flight per connection; several messages are sent in turn."""
    names = []
    for number, message in enumerate(messages):
        names.append(folder / f"body-{number}")
        names[-1].write_bytes(message.body)
    if len(messages) == 1:  # without a function of its own wrk sends prepared bytes: the fastest way
        load = f'wrk.headers = {_lua_table(messages[0].headers)}\nwrk.body = body("{names[0]}")'
    else:
        pairs = zip(names, messages, strict=True)
        load = "\n".join(f'requests[#requests + 1] = {{"{n}", {_lua_table(m.headers)}}}' for n, m in pairs) + _TURNS
    script = folder / "load.lua"
    script.write_text(_LUA.format(path=path, load=load))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
    text, cores = _run([*command, f"http://127.0.0.1:{port}"])
    found = re.search(r"^RESULT (.*)$", text, re.MULTILINE)
    if found is None:
        raise ClientFailed(f"wrk printed no result: {text.strip()[-200:]}")
    try:
        result = msgspec.json.decode(found[1], type=_WrkResult)
    except msgspec.DecodeError as error:  # without a single answer percentiles are "nan"
        raise ClientFailed(f"wrk got no answer: {found[1]}") from error
    if not result.count:
        raise ClientFailed(f"no request was answered in {max(1, round(seconds))} s")
    rate = (result.count - min(result.failed, result.count)) / result.us * 1e6
    return Load(rate, result.p50_us / 1e3, result.p99_us / 1e3, result.count, result.failed, cores)


def _lua_table(headers: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items()) + "}"


def h2load(
    folder: Path, port: int, messages: Sequence[Message], connections: int, seconds: float, answer_bytes: int
) -> Load:
    """Closed loop over gRPC, one call in flight per connection.

    h2load sends one body per process: several messages go out from up to four processes at once. It does not look at
    gRPC's trailers, so failed calls are found by the bytes received: an error has no message (`answer_bytes` is that of
    a good one, frame head included).
    """
    groups = min(len(messages), connections, 4)
    chosen = [messages[(2 * i + 1) * len(messages) // (2 * groups)] for i in range(groups)]
    commands, logs = [], []
    for number, message in enumerate(chosen):
        body, log = folder / f"grpc-{number}", folder / f"grpc-{number}.log"
        body.write_bytes(framed(message.body))
        log.unlink(missing_ok=True)
        logs.append(log)
        share = connections // groups + (number < connections % groups)
        command = ["h2load", f"-c{share}", "-m1", f"-D{max(1, round(seconds))}", "-d", str(body), f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        commands.append([*command, f"http://127.0.0.1:{port}{INFER}"])
    before = _children_cpu_s()
    started = time.monotonic()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    texts = [process.communicate()[0] for process in running]
    cores = (_children_cpu_s() - before) / (time.monotonic() - started)
    rate, count, failed = 0.0, 0, 0
    for text in texts:
        good, bad = _h2load_counts(text, answer_bytes)
        rate += good / max(1, round(seconds))
        count, failed = count + good + bad, failed + bad
    times = np.concatenate([_times_ms(log) for log in logs])
    if not len(times):
        raise ClientFailed(f"h2load finished no call: {texts[0].strip()[-200:]}")
    p50, p99 = np.percentile(times, (50, 99))
    return Load(rate, float(p50), float(p99), count, failed, cores)


def _h2load_counts(text: str, answer_bytes: int) -> tuple[int, int]:
    """Good and failed calls of one h2load. Raises ClientFailed where it printed no counts."""
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    data = re.search(r"\((\d+)\) data", text)
    if counts is None or data is None:
        raise ClientFailed(f"h2load printed no counts: {text.strip()[-200:]}")
    succeeded, others = int(counts[2]), int(counts[3]) + int(counts[4]) + int(counts[5])
    if answer_bytes and succeeded:
        messages = int(data[1]) / answer_bytes
        # calls in flight at the end may have been counted in bytes but not as done: a per cent is no error
        if messages < succeeded * 0.99:
            lost = succeeded - int(messages)
            return succeeded - lost, others + lost
    return succeeded, others


def _times_ms(log: Path) -> np.ndarray:
    if not log.exists() or not log.stat().st_size:
        return np.empty(0)
    return np.loadtxt(log, usecols=2, ndmin=1) / 1e3


def cycles(folder: Path, port: int, path: str, messages: Sequence[Message], connections: int, seconds: float) -> Load:
    """Closed loop by whole cycles per connection, REST or (with an empty `path`) gRPC: see cycle_client.py."""
    for number, message in enumerate(messages):
        (folder / f"cycle-{number}").write_bytes(message.body)
    headers = msgspec.json.encode([dict(message.headers) for message in messages]).decode()
    command = [sys.executable, "-m", "bench.serving.cycle_client", str(folder), str(len(messages)), headers]
    text, cores = _run([*command, str(port), path, str(connections), f"{seconds:g}"])
    result = msgspec.json.decode(text.strip().splitlines()[-1], type=CycleResult)
    return Load(result.rate, result.p50_ms, result.p99_ms, result.count, result.failed, cores)


def _run(command: list[str]) -> tuple[str, float]:
    """What a command printed, and its CPU cores."""
    before, started = _children_cpu_s(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cores = (_children_cpu_s() - before) / (time.monotonic() - started)
    if done.returncode:
        raise ClientFailed(f"{command[0]}: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout, cores


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
