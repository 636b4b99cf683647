"""OpenVINO IR and ONNX models by OpenVINO."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.artifacts import ONNX, OPENVINO, LocalArtifact, Precision
from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensors, TensorSpec
from modelyard.runtimes.loading import (
    entry_file,
    installed,
    loading,
    require,
    require_device,
    require_no_strings,
    require_precision,
)
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor, Run

NAME: Final = "openvino"
_HINTS: Final = {
    # The CPU plug-in's own default is bf16 where the CPU has it: an error of 6.6e-4 where fp32 has 3.7e-8 (DESIGN 6).
    Precision.FP32: "f32",
    Precision.FP16: "f16",
    Precision.BF16: "bf16",
    # Quantised operators carry their 8 bits in the graph; the rest of the graph computes in fp32.
    Precision.INT8: "f32",
}
_READ_BACK: Final = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_HINT: Final = (
    "an OpenVINO model is an .xml file with its .bin beside it; convert again with: yard convert MODEL --to openvino"
)


class OpenvinoRuntime:
    """Runs `openvino` artifacts (`.xml` + `.bin`), and `onnx` ones directly, by OpenVINO's own reader.

    One stream and one request per predictor: calls from several threads run one after the other; the GIL is released
    while one runs. The precision is set and read back: a CPU that cannot do it is an error, never a silent fallback.
    The telemetry package is kept from being imported (see `import_openvino`).
    """

    name = NAME
    formats = frozenset({OPENVINO, ONNX})

    def availability(self) -> Availability:
        return installed("openvino", ("openvino",), "openvino")

    def containment(self, artifact: LocalArtifact) -> Containment:
        """`bounded` without loop operators: `InferRequest.cancel` does not end a running loop, and the asynchronous
        call that it needs costs 112 us instead of 20 for the MLP (OpenVINO 2026.4)."""
        return Containment.UNCONTAINED if _has_loops(entry_file(artifact)) else Containment.BOUNDED

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require(NAME, self.availability())
        require_precision(NAME, artifact, tuple(_HINTS))
        require_no_strings(NAME, artifact)
        path = entry_file(artifact)
        with _signal_stack_kept():
            return self._load(artifact, options, path)

    def _load(self, artifact: LocalArtifact, options: RuntimeOptions, path: Path) -> CheckedPredictor:
        core = import_openvino().Core()
        device = _device(core, options.device)
        properties = {
            "INFERENCE_NUM_THREADS": options.threads,
            "INFERENCE_PRECISION_HINT": _HINTS[artifact.precision],
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            # Pinning is on by default and takes the same cores in every process: replicas would share one.
            "ENABLE_CPU_PINNING": False,
        }
        if device != "CPU":
            del properties["INFERENCE_NUM_THREADS"], properties["ENABLE_CPU_PINNING"]
        with loading(NAME, artifact, _HINT):
            model = core.read_model(path)
            inputs = _match("input", artifact.signature.inputs, model.inputs)
            outputs = _match("output", artifact.signature.outputs, model.outputs)
            compiled = core.compile_model(model, device, properties)
        precision = _read_back_precision(compiled, artifact.precision)
        return CheckedPredictor(
            NAME,
            artifact.signature,
            _runner(compiled.create_infer_request(), artifact.signature, inputs, outputs),
            {
                "device": options.device,
                "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")) if device == "CPU" else "0",
                "precision": precision,
                "pinned": str(device == "CPU" and compiled.get_property("ENABLE_CPU_PINNING")),
                "streams": str(compiled.get_property("NUM_STREAMS")),
                "concurrency": "serial",
            },
        )


_LOOPS: Final = re.compile(rb'type="(?:Loop|TensorIterator)"|"(?:\x04Loop|\x04Scan)')
"""A loop operator in an IR's XML, or as `op_type` (field 4) of an ONNX node; weights that look so only cost speed."""


def _has_loops(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _LOOPS.search(content) is not None


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_: ClassVar = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Undo what OpenVINO does to this thread's alternate signal stack.

    Its CPU plug-in sets one of its own (for the large signal frames of AMX) and frees it with the last model, but
    leaves it set: the next signal, a SIGTERM say, then ends the process with SIGSEGV (seen with OpenVINO 2026.4). On
    the thread's ordinary stack such frames fit.
    """
    libc = ctypes.CDLL(None)
    before = _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def import_openvino() -> Any:
    """The openvino module without its telemetry. Import it only through here.

    `import openvino` would import `openvino_telemetry`, which sends usage events unless a file in the user's home
    says no, and itself writes there. OpenVINO has a stub for when that package is missing, so it is made to look
    missing: `None` in `sys.modules` is Python's documented way to do that. Nothing is written anywhere.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def read_signature(artifact: LocalArtifact) -> Signature:
    """The signature of a model file; dynamic dimensions get names, a dynamic first one is `batch`."""
    require(NAME, OpenvinoRuntime().availability())
    path = entry_file(artifact)
    with loading(NAME, artifact, _HINT):
        model = import_openvino().Core().read_model(path)
        return Signature(
            tuple(_spec(port, f"input_{i}") for i, port in enumerate(model.inputs)),
            tuple(_spec(port, f"output_{i}") for i, port in enumerate(model.outputs)),
        )


def _device(core: Any, device: str) -> str:
    available = {"cpu": "CPU"}
    gpus = [name for name in core.available_devices if name.startswith("GPU")]
    available |= {f"gpu:{i}": name for i, name in enumerate(gpus)}
    require_device(NAME, device, list(available))
    return available[device]


def _read_back_precision(compiled: Any, precision: Precision) -> str:
    element = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if _READ_BACK.get(element, element) != _HINTS[precision]:
        raise Unsupported(
            f"this device cannot compute in {precision}",
            why=f"OpenVINO fell back to {element}",
            hint="use openvino in fp32",
        )
    return str(precision)


def _match(kind: str, declared: tuple[TensorSpec, ...], ports: Sequence[Any]) -> list[int]:
    """The port index of each declared tensor: by name, or by position where the model carries no names at all."""
    listing = ", ".join(str(_spec(port, f"{kind}_{i}")) for i, port in enumerate(ports))
    if (kind == "input" and len(declared) != len(ports)) or len(declared) > len(ports):
        raise InvalidInput(
            f"the model has {len(ports)} {kind}s, the signature {len(declared)}", hint=f"its {kind}s are {listing}"
        )
    if not any(port.get_names() for port in ports):
        return list(range(len(declared)))
    found: list[int] = []
    for spec in declared:
        index = next((i for i, port in enumerate(ports) if spec.name in port.get_names()), None)
        if index is None:
            raise InvalidInput(f"the model has no {kind} '{spec.name}'", hint=f"its {kind}s are {listing}")
        element = ports[index].element_type
        if np.dtype(element.to_dtype()) != spec.datatype.numpy:
            raise InvalidInput(
                f"{kind} '{spec.name}' is {element.to_string()} in the model",
                why=f"the signature says {spec.datatype}",
                hint=f"its {kind}s are {listing}",
            )
        found.append(index)
    return found


def _spec(port: Any, default: str) -> TensorSpec:
    element = port.element_type
    if element.to_string() == "string":
        raise Unsupported(f"runtime '{NAME}' has no string tensors", hint="run the ONNX model by onnxruntime")
    names = port.get_names()
    name = port.get_any_name() if names else default
    shape: tuple[Dim, ...] = tuple(
        ("batch" if i == 0 else f"{name}_{i}") if dim.is_dynamic else dim.get_length()
        for i, dim in enumerate(port.partial_shape)
    )
    return TensorSpec(name, Datatype.of(np.dtype(element.to_dtype())), shape)


def _runner(request: Any, signature: Signature, inputs: list[int], outputs: list[int]) -> Run:
    names = [(spec.name, index) for spec, index in zip(signature.inputs, inputs, strict=True)]
    lock = threading.Lock()

    def run(tensors: Tensors) -> Sequence[NDArray[Any]]:
        feed = {index: np.ascontiguousarray(tensors[name]) for name, index in names}
        with lock:  # one request: its output buffers are reused by the next call, hence the copies inside the lock
            result = request.infer(feed, share_inputs=True, share_outputs=False)
            return [result[index] for index in outputs]

    return run
