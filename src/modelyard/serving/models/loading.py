"""From a ServedModel to something that runs: artifact loaded by its runtime, steps built, warmed up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from modelyard.domain.batching import LatencyModel
from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.services import ServedModel
from modelyard.domain.tensors import Datatype, Signature, Tensor, TensorSpec
from modelyard.runtimes.ports import RuntimeOptions
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.work import Runnable, Steps

_log = logging.getLogger(__name__)

_WARM_RUNS: Final = 5
_WARM_BUDGET_S: Final = 5.0
_OPEN_DIMENSION: Final = 8
"""Size given to symbolic dimensions other than the batch in generated inputs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to serve, what the protocol shows of it, and its latency as warm-up saw it."""

    served: ServedModel
    interface: Interface
    model: Runnable
    cost: LatencyModel
    load_s: float


def load(served: ServedModel, runtimes: Runtimes) -> Loaded:
    """Load and warm up a model. Blocking: call it off the event loop. Raises ModelyardError."""
    started = perf_counter()
    runtime = runtimes.get(served.runtime)
    predictor = runtime.load(served.artifact, RuntimeOptions(device=served.device, threads=served.threads))
    inner = predictor.signature
    outer, pre, post = _steps(served, inner)
    model = Runnable(inner, predictor.predict, predictor.close, pre, post)
    cost = LatencyModel()
    try:
        warm_up(model, served.batching.max_size if inner.batched else 1, cost)
    except ModelyardError as error:
        if _guessed(inner):
            _log.warning("warm-up of %s:%d with generated inputs failed: %s", served.name, served.version, error)
        else:
            predictor.close()
            raise BackendFailed(
                f"model '{served.name}' version {served.version} failed its warm-up",
                why=str(error),
                hint="run it with the same runtime outside the server: yard predict, or verify it again",
            ) from error
    return Loaded(
        served, Interface(served.name, served.version, outer, served.classes), model, cost, perf_counter() - started
    )


def _steps(served: ServedModel, inner: Signature) -> tuple[Signature, Steps | None, Steps | None]:
    if not served.preprocess and not served.postprocess:
        return inner, None, None
    from modelyard.manifest.steps import Phase, Pipeline  # pydantic and the imaging library only where steps need them

    directory = Path(served.steps_directory or served.artifact.directory)
    outer = inner
    pre = post = None
    if served.preprocess:
        pre = Pipeline.build(served.preprocess, directory, Phase.BEFORE)
        outer = pre.outer_signature(outer)
    if served.postprocess:
        post = Pipeline.build(served.postprocess, directory, Phase.AFTER)
        outer = post.outer_signature(outer)
    return outer, pre, post


def warm_up(model: Runnable, max_rows: int, cost: LatencyModel, clock: Callable[[], float] = perf_counter) -> None:
    """Run batches of 1 and of `max_rows` generated rows; the first run of each allocates and is not learned from."""
    for rows in sorted({1, max_rows}):
        inputs = generated_inputs(model.inner, rows)
        model.predict(inputs)
        deadline = clock() + _WARM_BUDGET_S
        for _ in range(_WARM_RUNS):
            start = clock()
            model.predict(inputs)
            cost.observe(rows, clock() - start)
            if clock() > deadline:
                break


def generated_inputs(signature: Signature, rows: int) -> dict[str, Tensor]:
    """Inputs of the right names, datatypes and shapes: small positive numbers, zeros for integers, "0" for strings."""
    random = np.random.default_rng(0)
    return {spec.name: _generated(spec, rows, signature.batched, random) for spec in signature.inputs}


def _generated(spec: TensorSpec, rows: int, batched: bool, random: np.random.Generator) -> Tensor:
    shape = [d if isinstance(d, int) else _OPEN_DIMENSION for d in spec.shape]
    if batched:
        shape[0] = rows
    elif spec.batched:
        shape[0] = 1
    if spec.datatype is Datatype.BYTES:
        return np.full(shape, b"0", dtype=object)
    if spec.datatype.numpy.kind == "f":
        return random.random(shape).astype(spec.datatype.numpy)
    return np.zeros(shape, spec.datatype.numpy)


def _guessed(signature: Signature) -> bool:
    """Whether generated inputs may be nonsense to the model: strings, or open dimensions besides the batch."""
    return any(
        spec.datatype is Datatype.BYTES or any(isinstance(d, str) for d in spec.shape[1:]) for spec in signature.inputs
    )
