"""The load client seen from the profiler: start it, give it commands, end it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from modelyard.domain.errors import BackendFailed, Unavailable
from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Protocol, Workload
from modelyard.profile.plan import (
    Answer,
    BlockDone,
    Command,
    LeadIn,
    LedIn,
    LoadPlan,
    RunBlock,
    Trouble,
    WarmedUp,
    WarmUp,
    WarmUpRule,
)
from modelyard.profile.requests import GRPC_INFER

_PLAN, _PAYLOADS, _LOG = "plan.json", "payloads.bin", "client.log"


def write_plan(
    directory: Path,
    endpoint: Endpoint,
    workload: Workload,
    payloads: Sequence[bytes],
    *,
    warm_up: WarmUpRule = WarmUpRule(),  # noqa: B008  a frozen value
    cpus: Sequence[int] = (),
    connections: int | None = None,
    trace_file: Path | None = None,
) -> Path:
    """Write the plan and its payloads into `directory`; return the plan's path. Raises Unavailable (no gRPC port)."""
    grpc = workload.protocol is Protocol.GRPC
    if grpc and not endpoint.grpc_port:
        raise Unavailable("the service has no gRPC port", hint="profile it with --protocol http-binary")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _PAYLOADS).write_bytes(b"".join(payloads))
    plan = LoadPlan(
        host=endpoint.host,
        port=(endpoint.grpc_port if grpc else endpoint.http_port) or endpoint.http_port,
        workload=workload,
        payload_file=str(directory / _PAYLOADS),
        payload_lengths=tuple(map(len, payloads)),
        samples_dir=str(directory),
        grpc_method=GRPC_INFER if grpc else "",
        connections=connections or workload.concurrency,
        warm_up=warm_up,
        cpus=tuple(cpus),
        trace_file=str(trace_file or ""),
    )
    path = directory / _PLAN
    path.write_bytes(msgspec.json.encode(plan))
    return path


class ClientProcess:
    """A running load client; a context manager that ends it however the block is left."""

    def __init__(self, plan: Path, *, python: str = sys.executable) -> None:
        self._log = plan.with_name(_LOG)
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the profiler, which then ends the client.
            self._process = subprocess.Popen(
                [python, "-m", "modelyard.profile.client", str(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)

    @property
    def pid(self) -> int:
        """Process id of the client."""
        return self._process.pid

    def warm_up(self) -> WarmedUp:
        """Connect and warm up. Raises Unavailable where the service cannot be reached, BackendFailed."""
        answer = self._ask(WarmUp())
        if not isinstance(answer, WarmedUp):
            raise BackendFailed("the load client gave a wrong answer", why=repr(answer))
        return answer

    def lead_in(self) -> LedIn:
        """Send the workload for a moment, unrecorded. Raises Unavailable, BackendFailed."""
        answer = self._ask(LeadIn())
        if not isinstance(answer, LedIn):
            raise BackendFailed("the load client gave a wrong answer", why=repr(answer))
        return answer

    def run_block(self, number: int) -> BlockDone:
        """Run one block. Raises Unavailable where the service cannot be reached, BackendFailed."""
        answer = self._ask(RunBlock(number))
        if not isinstance(answer, BlockDone):
            raise BackendFailed("the load client gave a wrong answer", why=repr(answer))
        return answer

    def _ask(self, command: Command) -> Answer:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise BackendFailed("the load client has no pipes")
        try:
            stdin.write(msgspec.json.encode(command) + b"\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            tail = self._log.read_text(errors="replace")[-2000:].strip()
            raise BackendFailed(f"the load client ended with status {code}", why=tail, hint=f"its log is {self._log}")
        answer = self._decoder.decode(line)
        if isinstance(answer, Trouble):
            raise Unavailable(answer.what, why=answer.why, hint="is the service up? yard services ls")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # To a client that is dead, closing fails once more on the command that could not be sent.
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            # The end of its input ends it when it is idle; in the middle of a block it must be stopped.
            self._process.wait(timeout=5 if kind is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
