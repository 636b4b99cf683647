"""The two gRPC fronts side by side: the same replica, model and load (h2load), in turns; medians of the rounds.

    python bench/grpc_fronts.py [--rounds 3] [--seconds 2]

The model doubles four numbers in the event loop: what is left is protocol. Needs h2load (Debian: nghttp2-client).
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2 as pb

sys.path.insert(0, str(Path(__file__).parents[1]))
from modelyard.domain.services import GrpcFront
from tests.serving_harness import replica, scripted

LOADS = ((1, 1), (8, 1), (32, 1), (128, 1), (1, 32), (4, 100))
"""Connections, and streams at a time on each."""


def body(rows: int, request_id: str = "") -> bytes:
    request = pb.ModelInferRequest(model_name="m", id=request_id)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(np.ones((rows, 4), np.float32).tobytes())
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def rate(port: int | None, file: Path, connections: int, streams: int, seconds: int) -> float:
    command = [
        "h2load", "-D", str(seconds), "-c", str(connections), "-m", str(streams), "-d", str(file),
        "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer",
    ]  # fmt: skip
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if " 0 failed, 0 errored" not in out:
        raise SystemExit(out)
    return float(re.search(r"([\d.]+) req/s", out)[1])  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = directory / "body"
        file.write_bytes(body(1))
        fronts = {
            front: stack.enter_context(replica(directory / front, scripted("scale", batch=32), grpc_front=front))
            for front in GrpcFront
        }
        print("connections x streams   fast req/s    aio req/s    ratio")
        for connections, streams in LOADS:
            seen: dict[GrpcFront, list[float]] = {front: [] for front in fronts}
            for _ in range(options.rounds):
                for front, running in fronts.items():
                    seen[front].append(rate(running.grpc_port, file, connections, streams, options.seconds))
            pairs = zip(seen[GrpcFront.FAST], seen[GrpcFront.AIO], strict=True)
            ratio = statistics.median(fast / aio for fast, aio in pairs)
            fast, aio = (statistics.median(seen[front]) for front in (GrpcFront.FAST, GrpcFront.AIO))
            print(f"{connections:>11} x {streams:<7}   {fast:>10.0f}   {aio:>10.0f}   {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
