"""ONNX models by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from modelyard.domain.artifacts import ONNX, LocalArtifact, Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, Unsupported
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensors, TensorSpec
from modelyard.runtimes.loading import entry_file, installed, loading, require, require_device, require_precision
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.predictor import CheckedPredictor
from modelyard.runtimes.strings import to_bytes, to_text

NAME: Final = "onnxruntime"

SPIN_US: Final = "50"
"""How long an idle pool thread spins for more work before it sleeps.

Seen once on 2 cores, by a script that was not kept: onnxruntime 1.31, 2 threads, a small CNN of batch 4 (us per run:
wall / CPU). Back to back, spinning for 50 us 146 / 291, the default 147 / 295, never 261 / 426; one run every 2 ms,
50 us 448 / 616, the default 180 / 2451, never 341 / 668. So 50 us keeps the throughput of spinning at the CPU cost of
not spinning, and wakes up later when idle.
"""

_DATATYPES: Final = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
_PRECISIONS: Final = (Precision.FP32, Precision.FP64, Precision.FP16, Precision.INT8)
_HINT: Final = "check the file with: python -c \"import onnx; onnx.checker.check_model('FILE')\""


class OnnxRuntime:
    """Runs `onnx` artifacts, external data files included.

    Sessions are thread-safe and run in parallel; the GIL is released while one runs. Telemetry is switched off before
    the first session. The precision is that of the file's operators; fast-math shortcuts below it are switched off.
    """

    name = NAME
    formats = frozenset({ONNX})

    def availability(self) -> Availability:
        return installed("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"), "onnx")

    def containment(self, artifact: LocalArtifact) -> Containment:  # noqa: ARG002 - the Protocol's
        """`RunOptions.terminate` ends any run between two nodes, loop bodies included."""
        return Containment.INTERRUPTIBLE

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> CheckedPredictor:
        require(NAME, self.availability())
        require_precision(NAME, artifact, _PRECISIONS)
        path = entry_file(artifact)
        with loading(NAME, artifact, _HINT):
            session = _session(str(path), options)
        signature = artifact.signature
        _check_names(signature, session)
        settings = session.get_session_options()
        runs = _Runs(session, signature)
        return CheckedPredictor(
            NAME,
            signature,
            runs.run,
            {
                "device": options.device,
                "provider": session.get_providers()[0],
                "threads": str(settings.intra_op_num_threads),
                "precision": str(artifact.precision),
                "spinning": settings.get_session_config_entry("session.intra_op.allow_spinning"),
                "concurrency": "parallel",
            },
            interrupt=runs.interrupt,
        )


def import_onnxruntime() -> Any:
    """The onnxruntime module, its telemetry switched off. Import it only through here."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def read_signature(artifact: LocalArtifact) -> Signature:
    """The signature that an ONNX file declares; unnamed dimensions get names, an unnamed first one is `batch`."""
    require(NAME, OnnxRuntime().availability())
    path = entry_file(artifact)
    with loading(NAME, artifact, _HINT):
        session = _session(str(path), RuntimeOptions())
    return Signature(
        tuple(_spec(node) for node in session.get_inputs()), tuple(_spec(node) for node in session.get_outputs())
    )


def _session(path: str, options: RuntimeOptions) -> Any:
    onnxruntime = import_onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; warnings would go to the user's terminal once per node
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning thread without a core of its own only keeps the one that has work from running.
    spin = 1 < options.threads <= len(os.sched_getaffinity(0))
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if spin:
        settings.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    settings.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    return onnxruntime.InferenceSession(path, settings, providers=_providers(onnxruntime, options.device))


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    kind, _, index = device.partition(":")
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    available = ["cpu", *(["gpu:0"] if has_cuda else [])]
    if has_cuda and kind == "gpu" and index.isdigit():
        # TF32 would halve the mantissa behind the signature's back.
        return [("CUDAExecutionProvider", {"device_id": int(index), "use_tf32": 0}), "CPUExecutionProvider"]
    require_device(NAME, device, available)
    return ["CPUExecutionProvider"]


def _check_names(signature: Signature, session: Any) -> None:
    for kind, declared, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        found = {node.name: _spec(node) for node in nodes}
        listing = ", ".join(map(str, found.values()))
        for spec in declared:
            if spec.name not in found:
                raise InvalidInput(f"the model has no {kind} '{spec.name}'", hint=f"its {kind}s are {listing}")
            if found[spec.name].datatype.numpy != spec.datatype.numpy:  # BF16 is float32 here
                raise InvalidInput(
                    f"{kind} '{spec.name}' is {found[spec.name].datatype} in the model",
                    why=f"the signature says {spec.datatype}",
                    hint=f"its {kind}s are {listing}",
                )
        if kind == "input" and len(found) != len(declared):
            missing = sorted(found.keys() - {spec.name for spec in declared})
            raise InvalidInput(
                f"the signature leaves out the model's input '{missing[0]}'", hint=f"its inputs are {listing}"
            )


def _spec(node: Any) -> TensorSpec:
    if node.type.startswith("seq(") or node.type.startswith("map("):
        raise InvalidInput(
            f"output '{node.name}' is a {node.type}, not a tensor",
            hint="convert classifiers with options={'zipmap': False}",
        )
    if node.type not in _DATATYPES:
        raise Unsupported(f"'{node.name}' is a {node.type}, which no protocol carries", hint="cast it in the model")
    shape: tuple[Dim, ...] = tuple(_dim(node.name, i, dim) for i, dim in enumerate(node.shape))
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _dim(name: str, index: int, dim: int | str | None) -> Dim:
    if isinstance(dim, int):
        return dim
    return dim or ("batch" if index == 0 else f"{name}_{index}")


class _Runs:
    """Runs a session under run options that another thread can set to terminate.

    Given run options cost less than none (4.5 instead of 5.1 us for the MLP): the binding else makes new ones per run.
    """

    def __init__(self, session: Any, signature: Signature) -> None:
        self._session = session
        self._names = [spec.name for spec in signature.outputs]
        self._strings_in = [spec.name for spec in signature.inputs if spec.datatype is Datatype.BYTES]
        self._strings_out = [i for i, spec in enumerate(signature.outputs) if spec.datatype is Datatype.BYTES]
        self._options = self._fresh()

    def run(self, inputs: Tensors) -> Sequence[NDArray[Any]]:
        feed = inputs
        if self._strings_in:
            feed = {**inputs, **{name: to_text(name, inputs[name]) for name in self._strings_in}}
        options = self._options
        try:
            outputs: list[NDArray[Any]] = self._session.run(self._names, feed, options)
        except Exception as error:
            if options.terminate:
                raise BackendFailed("the run was interrupted", why="it took too long") from error
            raise
        for i in self._strings_out:
            outputs[i] = to_bytes(outputs[i])
        return outputs

    def interrupt(self) -> None:
        """End the runs under way; later ones get new options first, so that none of them is hit."""
        running, self._options = self._options, self._fresh()
        running.terminate = True

    @staticmethod
    def _fresh() -> Any:
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = 4  # the error comes as an exception; onnxruntime would print it as well
        return options
