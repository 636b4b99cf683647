"""All servers of one model: environments made, each started as often as its cold start is timed, then frozen."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.serving.deployed import CANNOT, Deployed, Workload
from bench.serving.environments import CannotInstall, python_of
from bench.serving.options import Options
from bench.serving.plan import variants
from bench.serving.processes import end_leftovers
from bench.serving.results import Results
from bench.serving.systems import SYSTEMS, System

Key = tuple[str, bool | None]
"""A system, and whether it batches (None: it cannot)."""


def pythons(options: Options, results: Results) -> dict[str, str]:
    """The Python of each system's environment, made where it is missing; systems that cannot be installed are left out.

    Everything is installed before anything is measured.
    """
    found = {}
    for name in options.systems:
        system = SYSTEMS[name]
        try:
            found[name] = python_of(
                options.cache / "venvs", name, system.requirements, shared_libpython=system.shared_libpython
            )
        except CannotInstall as error:
            say(f"{name} cannot be installed: {error}")
            for model in options.models:
                results.server(model, name, None).reason = f"cannot be installed: {error}"
    return found


@contextmanager
def servers(
    options: Options, workload: Workload, python: Mapping[str, str], results: Results, cold_starts: int
) -> Iterator[dict[Key, Deployed]]:
    """Every system that serves the model, frozen; ended on leaving."""
    up: dict[Key, Deployed] = {}
    model = workload.model
    try:
        for name in python:
            system = SYSTEMS[name]
            if system.models and model.name not in system.models:
                continue
            for batching in variants(system, model):
                times = cold_starts if batching is not False else 1
                deployed = _start(options, workload, system, batching, python[name], results, times)
                if deployed is not None:
                    up[name, batching] = deployed
                    deployed.rest()
        yield up
    finally:
        for deployed in up.values():
            deployed.end()


def _start(
    options: Options,
    workload: Workload,
    system: System,
    batching: bool | None,
    python: str,
    results: Results,
    times: int,
) -> Deployed | None:
    """The last of `times` starts; None where one fails: the reason is in the results then."""
    record = results.server(workload.model.name, system.name, batching)
    variant = {True: " with batching", False: " without batching", None: ""}[batching]
    folder = work_folder(options) / f"{workload.model.name}-{system.name}-{'off' if batching is False else 'on'}"
    deployed: Deployed | None = None
    for _ in range(times):
        if deployed is not None:
            deployed.end()
        try:
            deployed = Deployed.start(
                system, workload, python, batching=bool(batching), threads=options.threads, folder=folder
            )
        except CANNOT as error:
            record.reason = words(error)
            say(f"{workload.model.name}: {system.name}{variant} cannot be measured: {record.reason}")
            return None
        record.cold_starts_s.append(deployed.cold_start_s)
    say(f"{workload.model.name}: {system.name}{variant} up in {record.cold_starts_s[-1]:.2f} s")
    return deployed


def work_folder(options: Options) -> Path:
    """Where this run's servers have their files and logs."""
    return options.cache / "work" / str(os.getpid())


def clear_away(options: Options) -> None:
    """What runs left whose process is gone: their servers, where they were killed, and logs."""
    if left := end_leftovers():
        say(f"killed {left} processes that an earlier run left behind")
    for old in (options.cache / "work").glob("[0-9]*"):
        if not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)


def words(error: BaseException) -> str:
    """An error in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def say(text: str) -> None:
    """Progress on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
