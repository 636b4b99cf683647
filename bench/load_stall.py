"""How long the event loop stands still while a model loads beside traffic: `python bench/load_stall.py`.

A replica's loop ticks every millisecond, as if requests came; a thread of the repository loads ResNet-50 (97 MB) by
each runtime, the first time (the framework is imported) and again (a new version). What is reported is the longest
delay of a tick and the 99th percentile, medians of fresh processes, and the same without any load. What stalls the
loop is the global interpreter lock, held by an import or by a framework's constructor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.serving.models import MODELS
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.services import Isolation, ServedModel, VersionPolicy
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.instances.service import Instances
from modelyard.serving.models import loading
from modelyard.serving.models.aside import AsidePool
from modelyard.serving.models.repository import Repository
from modelyard.serving.scheduling.executor import Executor

TICK_S = 1e-3
RUNTIMES = {"onnxruntime": ("onnx", "model.onnx"), "torch": ("pytorch-exported", "model.pt2")}


def artifact(folder: Path, runtime: str) -> LocalArtifact:
    """ResNet-50 in the runtime's format, made in `folder` if it is not there."""
    form, entry = RUNTIMES[runtime]
    model = MODELS["resnet50"]
    file = folder / entry
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if form == "onnx":
            model.write(file)
        else:
            _write_exported(file)
    return LocalArtifact(str(folder), entry, Target(form), Precision.FP32, model.signature)


def _write_exported(file: Path) -> None:
    import importlib.util

    import torch

    source = Path(__file__).parents[1] / "examples" / "resnet50" / "net.py"
    spec = importlib.util.spec_from_file_location("stall_resnet50", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    batch = torch.export.Dim("batch", max=1024)
    program = torch.export.export(module.build().eval(), (torch.randn(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(file))


class Ticker:
    """How late the ticks of the loop are."""

    def __init__(self) -> None:
        self._delays: list[float] = []
        self._last = perf_counter()
        self._tick()

    def _tick(self) -> None:
        now = perf_counter()
        self._delays.append(now - self._last - TICK_S)
        self._last = now
        asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def take(self, name: str) -> dict[str, float]:
        """The longest and the 99th percentile since the last call, in ms."""
        delays, self._delays = sorted(self._delays), []
        return {f"{name}_ms": delays[-1] * 1e3, f"{name}_p99_ms": delays[int(len(delays) * 0.99)] * 1e3}


async def measure(folder: Path, runtime: str, isolation: Isolation) -> dict[str, float]:
    """Stalls of one fresh process, in ms, and the loads' times in s."""
    served = ServedModel("m", 1, artifact(folder, runtime), runtime, batching=Batching(1), isolation=isolation)
    pool = AsidePool(2)
    instances = Instances(Runtimes.discover())

    def make(loaded: loading.Loaded) -> Executor:
        return Executor(loaded.interface, loaded.model, served.batching, served.queue, pool)

    models = (served, replace(served, version=2))
    policies = {"m": VersionPolicy(versions=(1,))}
    repository = Repository(models, policies, None, lambda m: loading.load(m, instances), make, pool, 5.0)
    ticker = Ticker()
    await asyncio.sleep(1.0)
    found = ticker.take("quiet")
    for name, version in (("first", 1), ("again", 2)):
        started = perf_counter()
        await repository.load("m", (version,), None)
        found |= ticker.take(name) | {f"{name}_load_s": perf_counter() - started}
    for executor in repository.executors:
        executor.close()
    await repository.close()
    return found


def main() -> None:
    """Measure each runtime in fresh processes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "modelyard-load-stall")
    parser.add_argument("--one", nargs=2, metavar=("RUNTIME", "ISOLATION"), help="measure once, here; print JSON")
    options = parser.parse_args()
    if options.one:
        runtime, isolation = options.one
        print(json.dumps(uvloop.run(measure(options.folder, runtime, Isolation(isolation)))))
        return
    cells = [(runtime, isolation) for runtime in RUNTIMES for isolation in ("thread", "process")]
    for runtime in RUNTIMES:
        artifact(options.folder, runtime)
    found: dict[tuple[str, str], list[dict[str, float]]] = {cell: [] for cell in cells}
    for _ in range(options.rounds):
        for cell in cells:
            command = [sys.executable, __file__, "--folder", str(options.folder), "--one", *cell]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            found[cell].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        "| runtime | executes in | no load ms (p99) | first load ms (p99) | again ms (p99) | first load s | again s |"
    )
    print("|---|---|---|---|---|---|---|")
    for cell, rows in found.items():
        middle = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
        stalls = [f"{middle[f'{k}_ms']:.0f} ({middle[f'{k}_p99_ms']:.1f})" for k in ("quiet", "first", "again")]
        seconds = [f"{middle[f'{k}_load_s']:.1f}" for k in ("first", "again")]
        print(f"| {' | '.join([*cell, *stalls, *seconds])} |")


if __name__ == "__main__":
    main()
