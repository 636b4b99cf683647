"""The design-space experiment: what searching a service's settings gains over guessing, with equal budgets.

    python examples/design_space/explore.py [--quick] [--model NAME ...] [--concurrency 1,20,60] [--budget 25] ...

Makes, registers and converts the models, measures the default configuration's round trips under growing concurrency,
then searches each model's space (NAME.space.yaml) at each concurrency with `random`, `bayesian` and `simulate-verify`,
and measures all winners again in turns. Tables go to stdout, progress to stderr; DIR gets the HTML reports and
results.json. After an interrupt the same command goes on where it was. docs/design-space.md explains what it prints.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiment import LEVELS, MODELS, Experiment, Scale, can_cap
from findings import markdown

import modelyard
from modelyard.domain.errors import ModelyardError
from modelyard.workflow.progress import Listener, Progress, Step


def progress(began_s: float) -> Listener:
    """Writes to stderr what happens, with the minutes since the beginning; not every block or simulated point."""

    def say(p: Progress) -> None:
        if not re.search(r"\d/\d+$|\d configurations simulated$", p.message):
            print(f"[{(time.monotonic() - began_s) / 60:5.1f} min] {p.message}", file=sys.stderr, flush=True)

    return say


def counts(text: str) -> tuple[int, ...]:
    """`1,20,60` as numbers."""
    found = tuple(int(word) for word in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--model", action="append", choices=MODELS, help="repeatable; default: all three")
    made.add_argument("--concurrency", type=counts, metavar="LIST", help="default: 1,20,60")
    made.add_argument(
        "--budget", type=int, help="trials of the shorter random search (25); the longer have twice it; 0: no search"
    )
    made.add_argument("--seeds", type=int, default=1, help="repeat every search with so many seeds")
    made.add_argument("--quick", action="store_true", help="one model at 20 concurrent, few and short trials")
    made.add_argument("--out", type=Path, help="folder of the models and the results (design-space)")
    return made


def arguments(words: Sequence[str] | None = None) -> tuple[Scale, Path]:
    """What the command line asks for."""
    made = parser()
    given = made.parse_args(words)
    models = tuple(dict.fromkeys(given.model or (MODELS[:1] if given.quick else MODELS)))
    concurrency = given.concurrency or ((20,) if given.quick else (1, 20, 60))
    budget = given.budget if given.budget is not None else 4 if given.quick else 25
    if budget < 0 or given.seeds < 1:
        made.error("--budget is at least 0, --seeds at least 1")
    scale = Scale(models, concurrency, budget, given.seeds)
    if given.quick:
        scale = replace(scale, levels=LEVELS[::3], verify=3, candidates=200, blocks=3, joint=5, shorter=0.5)
    folder = given.out or Path("design-space-quick" if given.quick else "design-space")
    return scale, folder.resolve()


def main() -> int:
    scale, out = arguments()
    out.mkdir(parents=True, exist_ok=True)
    say = progress(time.monotonic())
    try:
        with modelyard.open() as yard:
            capped = can_cap(yard.settings)
            say(Progress(Step.TUNE, f"about {scale.seconds() / 60:.0f} minutes, less what was measured before"))
            if not capped:
                say(Progress(Step.TUNE, "no caps on CPU are searched: set MODELYARD_CGROUP (docs/deploying.md)"))
            print(markdown(Experiment(yard, scale, out, capped, say).run()))
    except ModelyardError as error:
        print(f"error: {error}\n  try: {error.hint}" if error.hint else f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"reports and results.json are in {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
