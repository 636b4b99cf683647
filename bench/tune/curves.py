"""In-process latency of every proven artifact of the bench's models: what the simulator starts from.

    python -m bench.tune.curves [--home DIR] [NAME ...]

Registers and converts each model (reused where the home has it), then measures batches of 1, 8 and 32 rows with 1 and
2 threads, each in a process of its own. Sentences of the translator have their median length of 24 tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import modelyard
from bench.tune.models import MODELS, get
from modelyard.domain.artifacts import Artifact
from modelyard.domain.versions import ModelRef, Version
from modelyard.profile.curve import measure_curve
from modelyard.workflow.progress import Progress

BATCHES, THREADS = (1, 8, 32), (1, 2)
BUDGET_S = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir(), "bench-tune"), help="data directory")
    args = parser.parse_args()
    heads = [f"{batch} rows, {threads} thr" for threads in THREADS for batch in BATCHES]
    print(f"| model | artifact | {' | '.join(heads)} |")
    print("|---|---|" + "---|" * len(heads))
    with modelyard.open(modelyard.Settings.read(home=args.home)) as yard:
        for model in [get(name) for name in args.names] or MODELS:
            manifest = model.build(args.home / "models")
            version = yard.register(manifest, listener=say).version
            yard.convert(version.ref, version.definition.convert, listener=say)
            for artifact in yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True):
                print(line(yard, version, artifact), flush=True)


def line(yard: modelyard.Yard, version: Version, artifact: Artifact) -> str:
    """One row of the table: median milliseconds of one run."""
    (runtime,) = yard.profiling.runtimes_for(artifact)
    curve = measure_curve(
        yard.hub.artifacts.checkout(artifact),
        runtime,
        yard.profiling.rows.model_rows(version),
        threads=THREADS,
        batches=BATCHES,
        point_budget_s=BUDGET_S,
    )
    if curve.error:
        return f"| {version.model} | {artifact.target} | {curve.error} |"
    wall_s = {(point.threads, point.batch): point.wall_s for point in curve.points}
    cells = [f"{wall_s[threads, batch] * 1e3:.2f}" for threads in THREADS for batch in BATCHES]
    return f"| {version.model} | {artifact.target} | {' | '.join(cells)} |"


def say(progress: Progress) -> None:
    """Progress on stderr."""
    print(f"[{progress.step}] {progress.message}", file=sys.stderr)


if __name__ == "__main__":
    main()
