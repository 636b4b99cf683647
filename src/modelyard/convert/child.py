"""The child process: `python -m modelyard.convert.child task.json`. Opens model files; the parent never does."""

from __future__ import annotations

import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from modelyard.convert import isolation, tensorfile
from modelyard.convert.ports import ConversionJob, ConversionProblem, Converter
from modelyard.convert.tasks import Answer, Converted, ConvertTask, Problem, Ran, RunTask, Task
from modelyard.domain.errors import ModelyardError
from modelyard.domain.tensors import Tensor

_TRACEBACK_CHARACTERS = 16_000


def main(task_file: str) -> int:
    """Do the task of `task_file`, write the answer, return the exit status (0 also for a named problem)."""
    task = msgspec.json.decode(Path(task_file).read_bytes(), type=Task)
    isolation.die_with_parent(task.parent)
    layers = isolation.enter([Path(path) for path in task.writable])
    try:
        answer = _do(task, layers)
    except BaseException as error:  # noqa: BLE001 - process boundary: model code may raise anything, SystemExit too
        traceback.print_exc()
        answer = Answer(layers, problem=_problem(error))
    part = Path(task.answer + ".part")
    part.write_bytes(msgspec.json.encode(answer))
    part.rename(task.answer)
    return 0


def _do(task: Task, layers: tuple[str, ...]) -> Answer:
    if task.convert:
        return Answer(layers, converted=_convert(task.convert))
    if task.run:
        return Answer(layers, ran=_run(task.run))
    raise ValueError("the task asks for nothing")


def _convert(task: ConvertTask) -> Converted:
    module, _, attribute = task.converter.partition(":")
    converter = cast(Converter, getattr(import_module(module), attribute))
    calibration = tensorfile.nest(tensorfile.load(Path(task.calibration))) if task.calibration else []
    job = ConversionJob(
        source=task.source,
        route=task.route,
        target=task.target,
        signature=task.signature,
        directory=Path(task.directory),
        example=tensorfile.load(Path(task.example)),
        calibration=calibration,
        options=task.options,
        threads=task.threads,
    )
    product = converter.convert(job)
    return Converted(product.entry, dict(product.options))


def _run(task: RunTask) -> Ran:
    from modelyard.runtimes import RuntimeOptions, Runtimes

    cases = tensorfile.nest(tensorfile.load(Path(task.inputs)))
    started = time.monotonic()
    runtime = Runtimes.discover().get(task.runtime)
    predictor = runtime.load(task.artifact, RuntimeOptions(device=task.device, threads=task.threads))
    load_s = time.monotonic() - started
    outputs: list[dict[str, Tensor]] = []
    errors: list[str | None] = []
    optional_from = len(cases) if task.optional_from is None else task.optional_from
    started = time.monotonic()
    for index, case in enumerate(cases):
        if index > optional_from and time.monotonic() - started > task.budget_s:
            break
        try:
            # An input may be aliased or changed in place by the model: give it its own copy.
            outputs.append(dict(predictor.predict({name: tensor.copy() for name, tensor in case.items()})))
            errors.append(None)
        except Exception as error:  # noqa: BLE001 - one case's failure is evidence, kept and judged by the parent
            traceback.print_exc()
            outputs.append({})
            errors.append(_one_line(error))
    repeatable = True
    if cases and errors[0] is None:
        again = predictor.predict({name: tensor.copy() for name, tensor in cases[0].items()})
        repeatable = all(_same(outputs[0][name], again[name]) for name in outputs[0])
    tensorfile.save(Path(task.outputs), tensorfile.flatten(outputs))
    predictor.close()
    return Ran(tuple(errors), repeatable, load_s)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind == "f":
        # Parallel reductions may differ in the last bits; a model that draws random numbers differs by far more.
        return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True))
    return bool(np.array_equal(a, b))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:600]


def _problem(error: BaseException) -> Problem:
    text = traceback.format_exc()[-_TRACEBACK_CHARACTERS:]
    if isinstance(error, ConversionProblem):
        return Problem(type(error).__name__, str(error), hint=error.hint, failure=error.failure, traceback=text)
    if isinstance(error, ModelyardError):
        leaf = type(error).__name__
        return Problem(leaf, error.what, error.why, error.hint, leaf, traceback=text)
    return Problem(type(error).__name__, _one_line(error), traceback=text)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Frameworks' own teardown (thread pools, atexit hooks) has crashed after the work was done: skip it.
    os._exit(status)
