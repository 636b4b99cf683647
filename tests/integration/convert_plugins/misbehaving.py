"""Converters that go wrong in every way a real one has; loaded in children by the tests of modelyard.convert."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from modelyard.convert import ConversionJob, Edge, Product
from modelyard.domain.artifacts import ONNX, Target

WAYS = (
    "segfault", "hang", "hungry", "abrupt-exit", "leaves-children", "tampered", "calls-home", "writes-outside",
    "chatty", "link", "renames-output", "batch-constant", "casts-output",
)  # fmt: skip


class Misbehaving:
    name = "misbehaving"
    edges = tuple(Edge(f"test-{way}", Target(ONNX), Target(ONNX, way)) for way in WAYS)

    def convert(self, job: ConversionJob) -> Product:
        way = job.target.variant
        return getattr(self, way.replace("-", "_"))(job)

    def _copy(self, job: ConversionJob) -> Product:
        shutil.copyfile(Path(job.source.directory) / job.source.entry, job.directory / "model.onnx")
        return Product("model.onnx")

    def segfault(self, job: ConversionJob) -> Product:
        ctypes.string_at(0)
        raise AssertionError("unreachable")

    def hang(self, job: ConversionJob) -> Product:
        time.sleep(3600)
        raise AssertionError("unreachable")

    def hungry(self, job: ConversionJob) -> Product:
        kept = []
        while True:
            kept.append(np.ones(16 << 20, dtype=np.uint8))
            time.sleep(0.005)

    def abrupt_exit(self, job: ConversionJob) -> Product:
        os._exit(0)

    def leaves_children(self, job: ConversionJob) -> Product:
        # a session of its own, so that killing the process group does not reach it
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)", "modelyard-leftover"], start_new_session=True
        )
        return self._copy(job)

    def calls_home(self, job: ConversionJob) -> Product:
        port = int((Path(job.source.directory) / "port").read_text())
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return self._copy(job)

    def writes_outside(self, job: ConversionJob) -> Product:
        (Path(job.source.directory).parent / "canary").write_text("touched")
        return self._copy(job)

    def chatty(self, job: ConversionJob) -> Product:
        print("first line")
        for _ in range(2000):
            print("x" * 9999)
        print("last line", flush=True)
        return self._copy(job)

    def link(self, job: ConversionJob) -> Product:
        (job.directory / "model.onnx").symlink_to(Path(job.source.directory) / job.source.entry)
        return Product("model.onnx")

    def tampered(self, job: ConversionJob) -> Product:
        def shift(model):
            weights = model.graph.initializer[0]
            changed = np.frombuffer(weights.raw_data, dtype=np.float32).copy()
            changed[0] += 0.05
            weights.raw_data = changed.tobytes()

        return self._edited(job, shift)

    def renames_output(self, job: ConversionJob) -> Product:
        def rename(model):
            model.graph.node[-1].output[0] = "other"
            model.graph.output[0].name = "other"

        return self._edited(job, rename)

    def casts_output(self, job: ConversionJob) -> Product:
        import onnx

        def cast(model):
            node = model.graph.node[-1]
            name = node.output[0]
            node.output[0] = "narrow"
            model.graph.node.append(onnx.helper.make_node("Cast", ["narrow"], [name], to=onnx.TensorProto.DOUBLE))
            model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE

        return self._edited(job, cast)

    def batch_constant(self, job: ConversionJob) -> Product:
        """Computes the example's two rows only, whatever comes: a trace that baked the batch in."""
        import onnx

        def bake(model):
            node = model.graph.node[0]
            shape = onnx.helper.make_tensor("baked", onnx.TensorProto.INT64, [2], [2, 8])
            model.graph.initializer.append(shape)
            model.graph.node.insert(0, onnx.helper.make_node("Reshape", [node.input[0], "baked"], ["two_rows"]))
            node.input[0] = "two_rows"

        return self._edited(job, bake)

    def _edited(self, job: ConversionJob, edit) -> Product:
        import onnx

        model = onnx.load(Path(job.source.directory) / job.source.entry)
        edit(model)
        onnx.save(model, job.directory / "model.onnx")
        return Product("model.onnx")


CONVERTER = Misbehaving()


class Circular:
    """Two targets, each made from the other where the direct way fails, as it always does."""

    name = "circular"
    edges = tuple(
        Edge(f"test-{a}-{b}", Target(ONNX, a) if a else Target(ONNX), Target(ONNX, b))
        for a, b in (("", "left"), ("right", "left"), ("", "right"), ("left", "right"))
    )

    def convert(self, job: ConversionJob) -> Product:
        raise NotImplementedError("on purpose")


CIRCULAR = Circular()
