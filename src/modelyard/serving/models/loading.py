"""From a ServedModel to something that runs: artifact loaded by its runtime, steps built, warmed up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.batching import LatencyModel, RowCost
from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError
from modelyard.domain.services import ServedModel
from modelyard.domain.tensors import Datatype, Signature, Tensor, TensorSpec
from modelyard.runtimes.tabular import class_labels
from modelyard.serving.instances.process import Run
from modelyard.serving.instances.service import Instances, Loadable, ModelInstances
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.ports import Instance
from modelyard.serving.scheduling.work import Runnable, Steps

_log = logging.getLogger(__name__)

_WARM_RUNS: Final = 5
_WARM_BUDGET_S: Final = 5.0
_OPEN_DIMENSION: Final = 8
"""Size given to symbolic dimensions other than the batch in generated inputs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to serve, what the protocol shows of it, and its latency as warm-up saw it.

    `unavailable` says why it answers nothing at the moment, although it was loaded; empty where it does.
    `restarts`: how often a process of it was started again.
    """

    served: ServedModel
    interface: Interface
    model: Runnable
    cost: LatencyModel
    load_s: float
    unavailable: Callable[[], str] = str
    restarts: Callable[[], int] = int


def load(served: ServedModel, instances: Instances) -> Loaded:
    """Load a model's instances and warm them up. Blocking: call it off the event loop. Raises ModelyardError."""
    started = perf_counter()
    copies = instances.model(served)
    made: list[Loadable] = []
    cost = LatencyModel()
    try:
        for _ in range(served.instances):
            made.append(copies.make())
            _warm(served, copies, made[-1], cost)
        inner = made[0].signature
        outer, pre, post = _steps(served, inner)
    except BaseException:
        for instance in made:
            instance.close()
        raise

    def renew() -> Instance:
        instance = copies.make()
        _warm(served, copies, instance, LatencyModel())
        return instance

    def close() -> None:
        for instance in made:
            instance.close()

    model = Runnable(inner, made[0].run, close, pre, post, tuple(made), renew)
    _check_classes(served, outer)
    interface = Interface(served.name, served.version, outer, served.classes or _classes_of(served.artifact))
    return Loaded(
        served, interface, model, cost, perf_counter() - started, lambda: copies.unavailable, lambda: copies.restarts
    )


def _check_classes(served: ServedModel, outer: Signature) -> None:
    """Class names must be as many as some output has columns, where that is known. Raises InvalidInput."""
    columns = {spec.shape[-1] for spec in outer.outputs if spec.shape}
    known = sorted(c for c in columns if isinstance(c, int))
    if served.classes and len(known) == len(columns) and len(served.classes) not in known:
        raise InvalidInput(
            f"model '{served.name}' version {served.version} has {len(served.classes)} names in 'classes'",
            why=f"its outputs have {' or '.join(map(str, known))} columns",
            hint="name every column, in order",
        )


def _classes_of(artifact: LocalArtifact) -> tuple[str, ...]:
    """The class names that came with the model's files."""
    found = class_labels(artifact)
    return () if found is None else tuple(str(name) for name in found.tolist())


def _warm(served: ServedModel, copies: ModelInstances, instance: Loadable, cost: LatencyModel) -> None:
    """Warm up an instance now and, where its process is started again, then. Raises BackendFailed."""
    inner = instance.signature
    rows = served.batching.max_size if inner.batched else 1

    def again(run: Run) -> None:
        warm(run, LatencyModel())

    def warm(run: Run, cost: LatencyModel) -> None:
        try:
            warm_up(inner, run, rows, cost)
        except ModelyardError as error:
            if not _guessed(inner):
                raise BackendFailed(
                    f"model '{served.name}' version {served.version} failed its warm-up",
                    why=str(error),
                    hint="run it with the same runtime outside the server: yard predict, or verify it again",
                ) from error
            _log.warning("warm-up of %s:%d with generated inputs failed: %s", served.name, served.version, error)

    try:
        warm(instance.run, cost)
    except ModelyardError:
        instance.close()
        raise
    copies.warmed(instance, again)


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


def warm_up(
    inner: Signature, run: Run, max_rows: int, cost: LatencyModel, clock: Callable[[], float] = perf_counter
) -> None:
    """Run batches of 1 and of `max_rows` generated rows; the first run of each allocates and is not learned from."""
    for rows in sorted({1, max_rows}):
        inputs = generated_inputs(inner, rows)
        units = rows * RowCost(inner)([t.shape[1:] if inner.batched else t.shape for t in inputs.values()])
        run(inputs)
        deadline = clock() + _WARM_BUDGET_S
        for _ in range(_WARM_RUNS):
            start = clock()
            run(inputs)
            cost.observe(units, clock() - start)
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
