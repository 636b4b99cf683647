"""`yard predict`: call a running service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelyard.cli.command import command
from modelyard.cli.session import Session
from modelyard.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelyard.domain.tensors import Tensor


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output as `--json` shows it: an Open Inference Protocol tensor with nested data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: object


def predict(
    session: Session,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Name of a running service.")],
    source: Annotated[
        str, typer.Option("--input", "-i", metavar="FILE", help="A .json, .npy or .npz file; -: JSON on stdin.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to .npz or .npy instead.")
    ] = None,
) -> None:
    """Send one request to a running service and print what it answers.

    JSON is a V2 body {"inputs": [{name, shape, datatype, data}]} or {NAME: nested list}.
    """
    from modelyard.cli import tables, tensor_files
    from modelyard.workflow.calling import client_of

    with session.yard() as yard:
        running = yard.service(service).service
        with client_of(running) as client:
            signature = client.metadata(running.model).signature
        tensors = tensor_files.read(source, signature)
        try:
            answer = yard.predict(service, tensors)
        except InvalidInput as error:
            takes = f"the model takes {', '.join(map(str, signature.inputs))}"
            raise InvalidInput(error.what, why=error.why, hint=error.hint or takes) from error
    if output is not None:
        tensor_files.write(output, answer)
        session.output.emit("prediction-file", {"path": str(output)}, lambda: str(output))
        return
    session.output.emit("prediction", {"outputs": _outputs(answer)}, lambda: tables.prediction(answer))


def _outputs(answer: Mapping[str, Tensor]) -> list[OutputTensor]:
    from modelyard.domain.tensors import Datatype

    return [OutputTensor(name, Datatype.of(array.dtype), array.shape, _nested(array)) for name, array in answer.items()]


def _nested(array: Tensor) -> object:
    if array.dtype != object:
        return array.tolist()
    import numpy as np

    decode = np.vectorize(lambda v: v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v), otypes=[object])
    return decode(array).tolist()


def add(app: typer.Typer) -> None:
    command(app, "predict")(predict)
