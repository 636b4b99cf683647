"""What it costs to run a model in a process of its own instead of the replica's: latency of one run, per runtime.

    python bench/isolation_cost.py [--rounds 9] [--seconds 0.2]

The MLP (32-64-10) and a small CNN (3x32x32) on onnxruntime, OpenVINO and PyTorch (exported programs), a pipeline on
scikit-learn, boosted trees on XGBoost; one thread, 1 and 32 rows. `thread` is an instance in this process, `process`
one in a child process. Both run in turns, round by round; medians. `interrupted` is how long after
`Instance.interrupt` a run that never ends raises, and `again` how long until the next answer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import Isolation, ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.profile import fingerprint
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.instances.service import Instances

ROWS = (1, 32)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_args()
    node = fingerprint()
    print(f"{node.cpu_model}, {node.cores} cores; {node.python}; node {node.id}")
    instances = Instances(Runtimes.discover())
    print(f"\n| runtime | model | rows | thread us | process us | more us | ratio |\n|{'---|' * 7}")
    with tempfile.TemporaryDirectory() as folder:
        for runtime, model, artifact in artifacts(Path(folder)):
            for rows in ROWS:
                inside, outside = compare(instances, runtime, artifact, rows, options)
                print(
                    f"| {runtime} | {model} | {rows} | {inside:.1f} | {outside:.1f} | {outside - inside:.1f} "
                    f"| {outside / inside:.2f} |",
                    flush=True,
                )
        print("\n| endless loop in | interrupted ms | again ms |\n|---|---|---|")
        for where in (Isolation.THREAD, Isolation.PROCESS):
            ended, again = interruption(instances, endless(Path(folder)), where, options.rounds)
            print(f"| {where} | {ended * 1e3:.1f} | {again * 1e3:.1f} |")


def compare(
    instances: Instances, runtime: str, artifact: LocalArtifact, rows: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Microseconds of a run inside and in a process; medians over rounds that alternate."""
    spec = artifact.signature.inputs[0]
    data = np.random.default_rng(0).standard_normal((rows, *spec.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    made = [
        instances.model(ServedModel("m", 1, artifact, runtime, isolation=where)).make()
        for where in (Isolation.THREAD, Isolation.PROCESS)
    ]
    results = [made[0].run({spec.name: data}), made[1].run({spec.name: data})]
    for name, expected in results[0].items():
        np.testing.assert_array_equal(results[1][name], expected)
    found: tuple[list[float], list[float]] = ([], [])
    for round_number in range(options.rounds):
        for i in (0, 1) if round_number % 2 else (1, 0):
            run = made[i].run
            found[i].append(one_round(lambda run=run: run({spec.name: data}), options.seconds))  # type: ignore[misc]
    for instance in made:
        instance.close()
    return statistics.median(found[0]) * 1e6, statistics.median(found[1]) * 1e6


def one_round(run: Callable[[], Any], seconds: float) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def interruption(instances: Instances, artifact: LocalArtifact, where: Isolation, rounds: int) -> tuple[float, float]:
    """Seconds from the interruption to the error, and to the next answer."""
    instance = instances.model(ServedModel("m", 1, artifact, "onnxruntime", isolation=where)).make()
    ended: list[float] = []
    again: list[float] = []
    for _ in range(min(rounds, 3)):  # more would spend the budget of restarts
        started = threading.Event()
        raised: list[float] = []

        def hang(started: threading.Event = started, raised: list[float] = raised) -> None:
            started.set()
            try:
                instance.run({"x": np.full((1, 4), 9e15, np.float32)})
            except ModelyardError:
                raised.append(time.perf_counter())

        thread = threading.Thread(target=hang)
        thread.start()
        started.wait()
        time.sleep(0.2)  # so that the loop is really under way when it is interrupted
        begun = time.perf_counter()
        instance.interrupt()
        thread.join()
        ended.append(raised[0] - begun)
        instance.run({"x": np.full((1, 4), 2, np.float32)})
        again.append(time.perf_counter() - begun)
    instance.close()
    return statistics.median(ended), statistics.median(again)


def artifacts(folder: Path) -> list[tuple[str, str, LocalArtifact]]:
    """Runtime, model, artifact of every row of the table."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    nets = {
        "MLP": (nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)), (32,)),
        "CNN": (
            nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
            ),
            (3, 32, 32),
        ),
    }  # fmt: skip
    rows: list[tuple[str, str, LocalArtifact]] = []
    for name, (net, shape) in nets.items():
        example = (torch.randn(2, *shape),)
        batch = ({0: torch.export.Dim("batch", max=1024)},)
        program = torch.export.export(net.eval(), example, dynamic_shapes=batch)
        torch.export.save(program, folder / f"{name}.pt2")
        torch.onnx.export(
            program, example, folder / f"{name}.onnx", input_names=["x"], output_names=["y"], dynamic_shapes=batch,
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        signature = Signature(
            (TensorSpec("x", Datatype.FP32, ("batch", *shape)),), (TensorSpec("y", Datatype.FP32, ("batch", 10)),)
        )
        rows += [
            ("onnxruntime", name, artifact(folder, f"{name}.onnx", "onnx", signature)),
            ("openvino", name, artifact(folder, f"{name}.onnx", "onnx", signature)),
            ("torch", name, artifact(folder, f"{name}.pt2", "pytorch-exported", signature)),
        ]
    return rows + tabular(folder)


def tabular(folder: Path) -> list[tuple[str, str, LocalArtifact]]:
    """Logistic regression behind a scaler, and 100 boosted trees."""
    import skops.io
    import xgboost
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    x = random.standard_normal((500, 32)).astype(np.float32)
    y = (x[:, :3] @ random.standard_normal((3, 3))).argmax(1)
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y), folder / "model.skops")
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(x, y), 100)
    booster.save_model(folder / "model.ubj")
    signature = Signature(
        (TensorSpec("features", Datatype.FP32, ("batch", 32)),),
        (TensorSpec("probabilities", Datatype.FP32, ("batch", 3)),),
    )
    return [
        ("sklearn", "scaler, regression", artifact(folder, "model.skops", "sklearn", signature)),
        ("xgboost", "100 trees x 3", artifact(folder, "model.ubj", "xgboost", signature)),
    ]


def endless(folder: Path) -> LocalArtifact:
    """y = x + x, added up by a loop that runs as often as the largest value says: 9e15 never ends."""
    import onnx
    from onnx import TensorProto as Type
    from onnx import helper

    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "one"], ["w"])],
        "body",
        [info("i", Type.INT64, []), info("go", Type.BOOL, []), info("v", Type.FLOAT, ["batch", 4])],
        [info("go_on", Type.BOOL, []), info("w", Type.FLOAT, ["batch", 4])],
        [helper.make_tensor("one", Type.FLOAT, [], [1.0])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["times"], to=Type.INT64),
            helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body),
        ],
        "endless",
        [info("x", Type.FLOAT, ["batch", 4])],
        [info("y", Type.FLOAT, ["batch", 4])],
        [helper.make_tensor("true", Type.BOOL, [], [True])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "endless.onnx"
    )
    tensor = (Datatype.FP32, ("batch", 4))
    signature = Signature((TensorSpec("x", *tensor),), (TensorSpec("y", *tensor),))
    return artifact(folder, "endless.onnx", "onnx", signature)


def artifact(folder: Path, entry: str, form: str, signature: Signature) -> LocalArtifact:
    """One file as an artifact."""
    return LocalArtifact(str(folder), entry, Target(form), Precision.FP32, signature)


if __name__ == "__main__":
    main()
