"""How long `yard publish` takes for the digits example, from a manifest to a live service, in an empty home.

python bench/publish_digits.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import modelyard

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits"
RUNS = 3


def main() -> None:
    if not (EXAMPLE / "digits.pt2").exists():
        subprocess.run([sys.executable, str(EXAMPLE / "train.py")], check=True)
    totals = []
    for run in range(RUNS):
        with (
            tempfile.TemporaryDirectory(prefix="bench-digits-") as home,
            modelyard.open(modelyard.Settings.read(home=Path(home))) as yard,
        ):
            started = time.monotonic()
            published = yard.publish(EXAMPLE / "model.yaml")
            totals.append(time.monotonic() - started)
            steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in published.seconds.items())
            print(f"run {run + 1}: {totals[-1]:.1f} s ({steps}); chosen {published.choice.reason}")
            if published.service:
                yard.stop(published.service.name)
    print(f"median of {RUNS}: {statistics.median(totals):.1f} s")


if __name__ == "__main__":
    main()
