"""The model as every peer runs it: the same ONNX file, onnxruntime with the settings of Modelyard's runtime.

Runs in the peers' own environments: numpy and onnxruntime only. The bench tells by the environment what to load.
"""

import os

import numpy as np
import onnxruntime

NAME = os.environ.get("BENCH_NAME", "model")
THREADS = int(os.environ.get("BENCH_THREADS", "1"))
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "1"))
PORT = int(os.environ.get("BENCH_HTTP_PORT", "0"))
GRPC_PORT = int(os.environ.get("BENCH_GRPC_PORT", "0"))
DTYPES = {"tensor(float)": ("FP32", np.float32), "tensor(int64)": ("INT64", np.int64)}


class OrtModel:
    """A session; `inputs` maps names to (datatype by Open Inference Protocol, numpy type)."""

    def __init__(self) -> None:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        spin = 1 < THREADS <= len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if spin:
            options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {node.name: DTYPES[node.type] for node in self.session.get_inputs()}

    def __call__(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        return self.session.run(None, feed)[0]

    def arrays(self, fields: dict[str, list]) -> dict[str, np.ndarray]:
        """Arrays from a JSON object of nested lists."""
        return {name: np.asarray(fields[name], dtype) for name, (_, dtype) in self.inputs.items()}

    def stacked(self, requests: list[dict[str, list]]) -> np.ndarray:
        """One run over requests of equal shape, in their order."""
        feeds = [self.arrays(fields) for fields in requests]
        return self({name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs})
