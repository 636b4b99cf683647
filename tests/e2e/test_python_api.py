"""The Python API, as its example shows it."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.conftest import EXAMPLES, YardCli

SCRIPT = EXAMPLES / "python_api.py"


def test_the_example_publishes_a_model_from_memory_in_at_most_20_lines(yard: YardCli) -> None:
    lines = [line for line in SCRIPT.read_text().split('"""', 2)[2].splitlines() if line.strip()]
    assert len(lines) <= 20
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=yard.environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "throughput per core" in done.stdout
    assert "probabilities" in done.stdout
    assert yard.json("models", "ls")[0]["name"] == "tumours"
    assert yard.processes() == []
