"""Faults of replicas, models, clients and configurations under load, with what callers see.

    python -m bench.faults [T10 T11 T12 T18 T20 T21 T22 T23 T24] [--write docs/benchmarks.md]

T10, T11, T12 and T21 run on the process engine, as a user's services do; T18, T20, T22, T23 and T24 against one
replica whose models are scripted (`tests/serving_child.py`), so that a model sleeps, breaks or counts as the row needs
it. T13 to T16 are `bench/attacks.py`, T17 and T19 `bench/overload.py`. Everything shares this machine's cores, the
clients included.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from bench.faults.changes import t22, t23
from bench.faults.expired import t18
from bench.faults.load import Stuck
from bench.faults.models import t11, t12
from bench.faults.poison import t24
from bench.faults.replicas import t10, t21
from bench.faults.result import Options, Result, Row, write
from bench.faults.retries import t20
from modelyard.profile import fingerprint

ROWS: dict[str, Row] = {
    "T10": t10,
    "T11": t11,
    "T12": t12,
    "T18": t18,
    "T20": t20,
    "T21": t21,
    "T22": t22,
    "T23": t23,
    "T24": t24,
}


def main() -> int:
    """Run the rows; 0 where all pass."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[*ROWS, []], help=f"{', '.join(ROWS)}; default: all")
    parser.add_argument("--times", type=int, default=50, help="how often a replica or model is hurt")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement and quiet window")
    parser.add_argument(
        "--limit", type=float, default=75.0, help="seconds after which a row of many faults takes no more"
    )
    parser.add_argument("--rate", type=float, help="requests/s instead of 70 %% of the capacity, or 200 for neighbours")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into the fault table of this page")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services are stopped on the way out
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; node {node.id}; load {os.getloadavg()[0]:.1f}")
    found: dict[str, Result] = {}
    for name in given.rows or ROWS:
        print(f"{name}: {ROWS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found[name] = attempt(ROWS[name], Path(folder), Options.of(given))
        print(f"  {found[name].verdict}", flush=True)
        if given.write:
            write(given.write, {name: found[name]})
    return 0 if all(result.passed for result in found.values()) else 1


def attempt(row: Row, folder: Path, options: Options) -> Result:
    """Run a row; one that gets stuck has missed, and the others go on."""
    try:
        return row(folder, options)
    except Stuck as error:
        return Result(str(error), passed=False)


if __name__ == "__main__":
    raise SystemExit(main())
