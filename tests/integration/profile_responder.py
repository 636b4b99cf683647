"""A scripted HTTP service for tests and benchmarks of the load client; it prints its port, then serves until killed.

`python profile_responder.py '{"service_s": 0.01}'`: first come, first served. Options:
`service_s` time per request, never less (0: answer at once); `law`: `fixed`, `exponential` (mean `service_s`) or
`bimodal` (half of `service_s`, but each tenth request on average 5.5 times of it; the mean is the same), drawn from
`seed`; `servers` k: that many at once; `stall_at` = [request number, seconds]: that request blocks the whole process;
`refuse_every` n: each n-th request gets a 429; `close_every` n: each n-th response closes the connection; `chunked`:
chunked bodies; `silent_every` n: each n-th request is never answered; `first`: run before ordinary processes where the
system allows it, so that other load of the machine does not change the script.

A request is done at max(its arrival, when a server is free) + its service time. An answer that goes out late delays no
other one, so that the error of a timer (below 0.2 ms on an idle machine) does not add up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import selectors
import sys
import time
from typing import ClassVar

import uvloop

BODY = b'{"outputs":[]}'


class Responder(asyncio.Protocol):
    """Requests with Content-Length bodies, one at a time per connection."""

    options: ClassVar[dict[str, object]] = {}
    free_at: ClassVar[list[float]] = []
    draws = random.Random(0)
    count = 0

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.data[:end].lower()
        at = head.find(b"\r\ncontent-length: ")
        length = int(head[at + 18 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.data) < end + 4 + length:
            return
        self.data = self.data[end + 4 + length :]
        cls, options = Responder, self.options
        cls.count += 1
        if options.get("stall_at") and cls.count == options["stall_at"][0]:
            time.sleep(options["stall_at"][1])
        if self._every("silent_every"):
            return
        service_s = options.get("service_s", 0)
        if not service_s:
            self.respond(self._every("refuse_every"), self._every("close_every"))
            return
        loop = asyncio.get_running_loop()
        first = min(range(len(cls.free_at)), key=cls.free_at.__getitem__)
        cls.free_at[first] = max(cls.free_at[first], loop.time()) + self._service_s(service_s)
        loop.call_at(cls.free_at[first], self.respond, self._every("refuse_every"), self._every("close_every"))

    def _service_s(self, mean_s):
        law = self.options.get("law", "fixed")
        if law == "exponential":
            return Responder.draws.expovariate(1 / mean_s)
        if law == "bimodal":
            return mean_s * (5.5 if Responder.draws.random() < 0.1 else 0.5)
        return mean_s

    def _every(self, name):
        return bool(self.options.get(name)) and Responder.count % self.options[name] == 0

    def respond(self, refuse, close):
        if self.transport.is_closing():
            return
        status = b"429 Too Many Requests" if refuse else b"200 OK"
        extra = b"Connection: close\r\n" if close else b""
        if self.options.get("chunked"):
            body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (BODY[:5], BODY[5:])) + b"0\r\n\r\n"
            framing = b"Transfer-Encoding: chunked"
        else:
            body, framing = BODY, b"Content-Length: %d" % len(BODY)
        self.transport.write(b"HTTP/1.1 %s\r\n%s%s\r\n\r\n%s" % (status, extra, framing, body))
        if close:
            self.transport.close()


async def main(options):
    Responder.options = options
    if options.get("first"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    Responder.free_at = [0.0] * options.get("servers", 1)
    Responder.draws = random.Random(options.get("seed", 0))
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    if given.get("service_s"):
        # uvloop counts whole milliseconds from a clock it reads once a turn, so its timers may fire early; select(2)
        # takes microseconds and rounds up
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            runner.run(main(given))
    else:
        uvloop.run(main(given))
