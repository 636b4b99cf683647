"""What an import costs: `import modelyard` and `yard --help` load no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

# fmt: off
HEAVY = {
    "alembic", "fsspec", "grpc", "jax", "jinja2", "lightgbm", "numpy", "onnx", "onnxruntime", "openvino", "optuna",
    "pyarrow", "rich", "scipy", "sklearn", "skops", "sqlalchemy", "tensorflow", "torch", "tritonclient", "uvloop",
    "xgboost",
}
# fmt: on


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"{code}\nimport sys; print('\\n'.join({{m.partition('.')[0] for m in sys.modules}}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


def test_importing_modelyard_loads_nothing_heavy() -> None:
    assert loaded_by("import modelyard") & (HEAVY | {"typer"}) == set()


@pytest.mark.parametrize("argv", [["--help"], ["models", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    found = loaded_by(f"from modelyard.cli import main; main({argv!r})")
    assert "typer" in found, "the check sees what is loaded"
    assert found & HEAVY == set()


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "modelyard", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("modelyard ")
