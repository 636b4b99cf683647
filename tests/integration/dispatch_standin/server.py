"""A stand-in for a replica: stdlib only, starts in milliseconds, misbehaves on order.

What it does is in the first model's artifact options, `behave`:
    crash       logs and exits with code 3 before it is ready
    never       does not get ready
    wrong       gets ready but answers every inference with 500
    child       starts a child process that would live for an hour
    reluctant   does not end on SIGTERM
`crash_if` names a file: while it exists every start crashes.
and on order by HTTP: POST /exit (code 4), /hog (takes 400 MiB), /hang (heart stops), /log (writes 100 kB of lines),
/burn (computes for a second, as two processes, and answers how much CPU time that got).
"""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

spec = json.loads(Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
model = spec["models"][0]
options = model["artifact"]["options"]
behave = options.get("behave", "")
hung = threading.Event()
hoard = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, {"pid": os.getpid(), "version": model["version"]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/exit":
            print("told to exit", file=sys.stderr, flush=True)
            os._exit(4)
        if self.path == "/hang":
            hung.set()
        if self.path == "/hog":
            hoard.append(b"x" * (400 * 2**20))
        if self.path == "/log":
            for number in range(1000):
                print(f"line {number:04d} " + "." * 89, file=sys.stderr, flush=True)
        if self.path == "/burn":
            self.reply(200, burnt())
        elif behave == "wrong":
            self.reply(500, {"error": "the weights are wrong"})
        else:
            self.reply(200, {"pid": os.getpid(), "version": model["version"], "length": len(body)})

    def log_message(self, *args):
        pass


def burnt():
    """CPU and wall seconds of two processes that do nothing but compute for a second."""
    burn = "import time; t = time.monotonic() + 1\nwhile time.monotonic() < t: pass"
    start, before = time.monotonic(), os.times()
    for child in [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]:
        child.wait()
    after = os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])
    return {"cpu_s": cpu_s, "wall_s": time.monotonic() - start}


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    allow_reuse_port = spec["reuse_port"]
    daemon_threads = True
    request_queue_size = 128


def beat():
    while True:
        if not hung.is_set():
            Path(spec["heartbeat_file"]).touch()
        time.sleep(0.1)


print(f"stand-in {os.getpid()} version {model['version']}", file=sys.stderr, flush=True)
if behave == "crash" or ("crash_if" in options and Path(options["crash_if"]).exists()):
    print("boom: the weights are missing", file=sys.stderr, flush=True)
    sys.exit(3)
if behave == "never":
    time.sleep(3600)
if behave == "child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
threading.Thread(target=beat, daemon=True).start()
server = Server((spec["host"], spec["http_port"]), Handler)
if behave == "reluctant":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
ready = Path(spec["ready_file"])
part = ready.with_suffix(".part")
part.write_text(json.dumps({"pid": os.getpid(), "http_port": server.server_address[1], "grpc_port": None}))
part.rename(ready)
server.serve_forever(poll_interval=0.02)
