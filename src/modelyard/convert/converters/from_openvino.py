"""ONNX to OpenVINO, and OpenVINO's precision variants.

The IR is always saved uncompressed: `save_model` would halve the weights to fp16 by default. The bf16 variant has the
same files as fp32; the runtime computes it in bf16 because the artifact says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from modelyard.convert.planning import BF16_FLAGS
from modelyard.convert.ports import ConversionJob, Edge, Product
from modelyard.domain.artifacts import ONNX, OPENVINO, Target

_NEEDS: Final = ("openvino",)
_EDGES: Final = (
    Edge("onnx-openvino", Target(ONNX), Target(OPENVINO), _NEEDS, "openvino"),
    Edge("openvino-bf16", Target(OPENVINO), Target(OPENVINO, "bf16"), _NEEDS, "openvino", cpu_flags=BF16_FLAGS),
    Edge("onnx-openvino-int8", Target(ONNX, "int8-static"), Target(OPENVINO, "int8-static"), _NEEDS, "openvino"),
)


class FromOpenvino:
    """ONNX files read by OpenVINO, without the framework they came from."""

    name = "openvino"
    edges: Sequence[Edge] = _EDGES

    def convert(self, job: ConversionJob) -> Product:
        source = Path(job.source.directory) / job.source.entry
        if job.route == "openvino-bf16":
            for path in (source, source.with_suffix(".bin")):
                shutil.copyfile(path, job.directory / ("model" + path.suffix))
            return Product("model.xml")
        from modelyard.runtimes.openvino import import_openvino

        openvino = import_openvino()
        return save(openvino, openvino.Core().read_model(source), job.directory)


CONVERTER: Final = FromOpenvino()


def save(openvino: Any, model: Any, directory: Path) -> Product:
    """Write a model as IR with its weights as they are."""
    openvino.save_model(model, directory / "model.xml", compress_to_fp16=False)
    return Product("model.xml")
