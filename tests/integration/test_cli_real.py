"""The real `yard` on a real hub, with a small XGBoost model: registry, deploy, predict, bad input, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from modelyard.cli import main
from tests import small_model

PATIENCE_S = 120.0
MANIFEST = small_model.MANIFEST + "metrics: {accuracy: 0.9}\ntags: [tiny]\n"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]


Yard = Callable[..., Done]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
    return {**kept, "MODELYARD_HOME": str(home), "COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manifest, the model and its data."""
    path = tmp_path_factory.mktemp("model")
    small_model.write(path, MANIFEST)
    return path


@pytest.fixture(scope="module")
def yard(home: Path, folder: Path) -> Iterator[Yard]:
    """Run `yard ARGS...` in this process (one import of everything), in the model's folder."""

    def run(*argv: str, stdin: str = "") -> Done:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
            code = main(argv)
        return Done(code, out.getvalue(), err.getvalue())

    handler, stdin = signal.getsignal(signal.SIGTERM), sys.stdin
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        for name, value in environment(home).items():
            patch.setenv(name, value)
        yield run
        run("services", "stop", "--all")
    signal.signal(signal.SIGTERM, handler)
    sys.stdin = stdin


@pytest.fixture(scope="module")
def registered(yard: Yard) -> str:
    done = yard("register", "model.yaml", "--json")
    assert done.code == 0, done.err
    return str(done.data["version"]["number"])


def test_a_dry_run_checks_and_writes_nothing(yard: Yard) -> None:
    done = yard("register", ".", "--dry-run", "--home", "elsewhere")
    assert done.code == 0, done.err
    assert "small.ubj" not in done.out
    assert "is valid: small" in done.out
    assert yard("models", "ls", "--home", "elsewhere", "--json").data == []


def test_the_same_content_again_is_told_not_duplicated(yard: Yard, registered: str) -> None:
    done = yard("register", "model.yaml")
    assert done.code == 0
    assert f"is already registered, with identical content, as small:{registered}" in done.out
    assert len(yard("models", "ls", "small", "--json").data) == 1


def test_the_registry_by_command(yard: Yard, registered: str) -> None:
    ref = f"small:{registered}"
    assert "xgboost" in yard("models", "show", ref).out
    assert yard("models", "search", "--metric", "accuracy>=0.8", "--tag", "tiny", "--json").data["items"]
    assert not yard("models", "search", "--metric", "accuracy>=0.95", "--json").data["items"]
    assert yard("models", "update", ref, "--description", "odd words: [bold]", "--add-tag", "new").code == 0
    assert "odd words: [bold]" in yard("models", "show", ref).out
    assert yard("models", "alias", "small", "production", registered).code == 0
    assert yard("models", "show", "small@production", "--json").data["version"]["number"] == int(registered)
    assert yard("models", "rm", ref, "--yes").code == 5, "an alias names it"
    assert yard("models", "alias", "small", "production", "--remove").code == 0
    assert "would free" in yard("models", "rm", ref, "--dry-run").out
    assert yard("gc", "--dry-run", "--json").data["blobs"] == 0
    assert yard("models", "show", "small:99").code == 3
    assert yard("models", "show", "small:0").code == 2


def test_deploy_predict_and_stop(yard: Yard, registered: str, folder: Path, tmp_path: Path) -> None:
    done = yard("deploy", f"small:{registered}", "--json")
    assert done.code == 0, done.err
    port = done.data["endpoint"]["http_port"]
    row = np.load(folder / "holdout.npz")["x"][:1]
    body = json.dumps({"features": row.tolist()})
    answer = yard("predict", "small", "--input", "-", "--json", stdin=body)
    assert [o["name"] for o in answer.data["outputs"]] == ["label", "probabilities"]
    np.save(tmp_path / "row.npy", row)
    assert yard("predict", "small", "-i", str(tmp_path / "row.npy"), "-o", str(tmp_path / "out.npz")).code == 0
    with np.load(tmp_path / "out.npz") as written:
        assert written["label"].tolist() == answer.data["outputs"][0]["data"]
    wrong = yard("predict", "small", "-i", "-", stdin='{"features": [[1, 2]]}')
    assert (wrong.code, "FP32[batch, 4]" in wrong.err) == (2, True)

    assert yard("services", "ls", "--json").data[0]["state"] == "ready"
    assert "ready" in yard("services", "logs", "small").out
    assert yard("models", "rm", f"small:{registered}", "--yes").code == 5, "a service runs it"
    taken = yard("deploy", f"small:{registered}", "--name", "other", "--port", str(port))
    assert (taken.code, f"{port}" in taken.err, "  try: " in taken.err) == (5, True, True)

    pids = [r["pid"] for r in yard("services", "show", "small", "--json").data["replicas"]]
    assert yard("services", "stop", "small").code == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert yard("predict", "small", "-i", "-", stdin=body).code == 3


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("path: small.ubj", "path: none.ubj", (2, 3), "none.ubj"),
        ("path: small.ubj", f"path: small.ubj, sha256: {'0' * 64}", (2,), "sha256"),
        ("[batch, 4]", "[batch, 5]", (2,), "5"),
        ("metrics:", "metrisc:", (2,), "did you mean 'metrics'"),
        ("name: small", "name: Small!", (2,), "Small!"),
    ],
)
def test_a_wrong_manifest_is_one_clear_error(
    old: str, new: str, code: tuple[int, ...], said: str, yard: Yard, registered: str, folder: Path
) -> None:
    assert old in MANIFEST
    path = folder / "wrong.yaml"
    path.write_text(MANIFEST.replace(old, new, 1))
    done = yard("register", path.name)
    assert done.code in code, done.err
    assert (done.out, "Traceback" in done.err) == ("", False)
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert line
    assert said in done.err
    assert len(yard("models", "ls", "--json").data) == 1


def test_a_pickle_is_refused_and_never_opened(yard: Yard, registered: str, folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    (folder / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    (folder / "evil.yaml").write_text(
        MANIFEST.replace("small.ubj", "evil.pkl")
        .replace("name: small", "name: evil")
        .replace("xgboost", "scikit-learn")
    )
    done = yard("register", "evil.yaml")
    assert done.code == 4, done.err
    assert "--trust" in done.err or "trust: true" in done.err
    assert not trace.exists()


def test_names_that_do_not_exist_have_code_3_and_unknown_runtimes_5(yard: Yard, registered: str) -> None:
    for argv in (("convert", "nothing"), ("profile", "nothing:1"), ("services", "show", "x"), ("deploy", "small@none")):
        done = yard(*argv)
        assert done.code == 3, (argv, done.err)
        assert "  try: " in done.err
    done = yard("deploy", "small", "--runtime", "abacus")
    assert (done.code, "onnxruntime" in done.err) == (5, True)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_publish_leaves_nothing_running_and_can_go_on(
    sent: signal.Signals, yard: Yard, registered: str, folder: Path, home: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "publish", f"small:{registered}", "--effort", "quick"],
        cwd=folder,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = []
    deadline = time.monotonic() + PATIENCE_S
    for line in process.stderr:
        told.append(line)
        assert time.monotonic() < deadline
        if line.startswith("[profile]"):
            break
    assert told
    assert told[-1].startswith("[profile]"), told
    process.send_signal(sent)
    _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + sent
    assert "is kept" in rest
    assert f"yard publish small:{registered} --effort quick" in rest
    assert "Traceback" not in rest
    left = [p.cmdline() for p in psutil.process_iter() if str(home) in " ".join(_command(p))]
    assert left == []
    assert yard("services", "ls", "--json").data == []
    assert yard("models", "show", f"small:{registered}", "--json").data["conversions"], "what was converted is kept"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
