"""How many measurements does a search need? Regret of every strategy on spaces that were measured whole.

    python -m bench.tune                      # replay the stored data: the table of docs/tuning.md (make bench-tune)
    python -m bench.tune measure [MODEL ...]  # measure the spaces on this machine first: an hour, nothing else may run

`measure` goes on where it was interrupted (its hub is in --home). Regret: how much worse the point is that a strategy
would choose after so many measurements than the best of the space, both as measured at length.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.tune import exhaustive
from bench.tune.data import Exhaustive, stored
from bench.tune.plan import TASKS, task_of
from bench.tune.replay import WITHIN, Replay, Run
from modelyard.tune.strategies.registry import built_in

BUDGET = 40
SEEDS = 40
SHOWN = (1, 2, 4, 6, 8, 12, 16, 24, 32, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("replay", "measure"), default="replay")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir(), "bench-tune"), help="hub of `measure`")
    parser.add_argument("--most", type=int, help="measure only the first so many points, and store nothing")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="searches per strategy")
    args = parser.parse_args()
    if args.what == "measure":
        for task in [task_of(name) for name in args.models] or TASKS:
            found = exhaustive.measure(task, args.home, most=args.most)
            if args.most is None:
                found.save()
    if not stored():
        parser.exit(1, "no space was measured yet: python -m bench.tune measure\n")
    for data in stored():
        if not args.models or data.model in args.models:
            _report(data, args.seeds)


def _report(data: Exhaustive, seeds: int) -> None:
    replay = Replay(data)
    measured = sum(c.truth is not None for c in data.cells)
    feasible = sum(c.truth is not None and c.truth.feasible for c in data.cells)
    print(f"\n## {data.model}: {data.aim}\n")
    print(f"{len(data.cells)} configurations, {measured} measured, {feasible} feasible; {data.created_at[:10]},")
    print(
        f"{data.fingerprint.cpu_model}, {data.fingerprint.cores} cores. "
        f"The default is {_regret(replay.regret_of(data.default))} from the best.\n"
    )
    print(
        "| strategy | " + " | ".join(map(str, SHOWN)) + f" | within {WITHIN:.0%} after | stops after | s per proposal |"
    )
    print("|" + "---|" * (len(SHOWN) + 4))
    for kind in built_in():
        began = time.perf_counter()
        runs = [replay.run(kind.name, seed, BUDGET) for seed in range(1 if kind.name == "grid" else seeds)]
        seconds = (time.perf_counter() - began) / sum(r.stopped for r in runs)
        print(_row(kind.name, runs, seconds))


def _row(name: str, runs: Sequence[Run], seconds: float) -> str:
    medians = [statistics.median(r.regrets[k - 1] for r in runs) for k in SHOWN]
    found = [r.found_after for r in runs]
    after = statistics.median(BUDGET + 1 if k is None else k for k in found)
    reached = "never" if after > BUDGET else f"{after:g}"
    share = sum(k is not None for k in found) / len(found)
    cells = " | ".join(map(_regret, medians))
    stops = statistics.median(r.stopped for r in runs)
    return f"| {name} | {cells} | {reached} ({share:.0%} of runs) | {stops:g} | {seconds:.3f} |"


def _regret(value: float) -> str:
    return "none feasible" if value == float("inf") else f"{value:.1%}"


if __name__ == "__main__":
    main()
