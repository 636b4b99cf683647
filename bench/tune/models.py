"""The models whose whole space of configurations is measured: each made ready for `yard register`, none downloaded.

    python -m bench.tune.models [--out DIR] [NAME ...]

Five kinds of work, all of them examples of the repository: a small CNN (`digits`), two image networks
(`gan-discriminator`, `resnet-cifar`), a boosted tree (`tumour`), and a transformer whose requests differ in length
(`translation`).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.errors import BackendFailed, NotFound

_EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True, slots=True)
class TuneModel:
    """A model of the bench: its name once registered, and the example, script and manifest that it comes from."""

    name: str
    title: str
    example: str
    script: str
    manifest: str = "model.yaml"

    def build(self, out_dir: Path) -> Path:
        """The manifest of a copy of the example in `out_dir`; its script has run, once for each state of its code.

        Raises BackendFailed where the script fails. Not safe against another process that builds in `out_dir`.
        """
        folder = (out_dir / self.example).resolve()
        code = sorted(path for path in (_EXAMPLES / self.example).iterdir() if path.suffix in (".py", ".yaml"))
        state = hashlib.sha256(b"\0".join(path.read_bytes() for path in code)).hexdigest()
        done = folder / ".made"
        if not done.exists() or done.read_text() != state:
            done.unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            for path in code:
                shutil.copyfile(path, folder / path.name)
            self._run(folder)
            done.write_text(state)
        return folder / self.manifest

    def _run(self, folder: Path) -> None:
        ran = subprocess.run(
            [sys.executable, self.script], cwd=folder, capture_output=True, text=True, check=False, timeout=600
        )
        if ran.returncode:
            last = "\n".join(ran.stderr.strip().splitlines()[-12:])
            script = f"examples/{self.example}/{self.script}"
            raise BackendFailed(f"{self.name} could not be made", why=last, hint=f"run {script} by itself")


MODELS = (
    TuneModel("digits", "CNN, 8 x 8 pixels", "digits", "train.py"),
    TuneModel("tumour", "150 boosted trees", "tabular", "train.py"),
    TuneModel(
        "gan-discriminator", "DCGAN discriminator, 32 x 32", "design_space", "models.py", "gan-discriminator.yaml"
    ),
    TuneModel("resnet-cifar", "ResNet-20, 32 x 32", "design_space", "models.py", "resnet-cifar.yaml"),
    TuneModel("translation", "transformer, 8 to 48 tokens", "design_space", "models.py", "translation.yaml"),
)
"""From the quickest to the slowest request."""


def get(name: str) -> TuneModel:
    """The model called `name`. Raises NotFound."""
    for model in MODELS:
        if model.name == name:
            return model
    raise NotFound(f"no model '{name}' in the bench", hint=f"there are {', '.join(m.name for m in MODELS)}")


def build(out_dir: Path) -> dict[str, Path]:
    """The manifests of all models, by name, made ready in `out_dir`. Raises BackendFailed."""
    return {model.name: model.build(out_dir) for model in MODELS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir(), "bench-tune-models"), help="folder")
    args = parser.parse_args()
    for model in [get(name) for name in args.names] or MODELS:
        print(f"yard register {model.build(args.out)}   # {model.title}")


if __name__ == "__main__":
    main()
