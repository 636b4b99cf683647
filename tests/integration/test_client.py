"""Both clients against the real server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelyard.client import NO_RETRIES, AsyncClient, Client, InferResult, TransportOptions
from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.errors import BackendFailed, InvalidInput, NotFound, Unavailable
from modelyard.domain.services import ServedModel, VersionPolicy
from modelyard.domain.tensors import Datatype, Signature, Tensor
from tests.serving_harness import RunningReplica, replica, scripted, tensor, until

X = {"x": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [0.5, -65504.0],
    "FP32": [0.1, -3.4e38],
    "FP64": [0.1, 1.7e308],
    "BF16": [0.5, -3.0e38],
    "BYTES": [b"", "gr\u00fcn".encode()],
}
KINDS = [str(d) for d in Datatype]


def values(datatype: str) -> Tensor:
    dtype = Datatype(datatype).numpy
    if datatype in VALUES:
        sent = np.empty((1, 2), dtype)
        sent[0] = VALUES[datatype]
        return sent
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max]], dtype)


def echo(name: str, datatype: str) -> ServedModel:
    return scripted(
        "echo", Signature((tensor("x", datatype, "batch", 2),), (tensor("y", datatype, "batch", 2),)), name=name
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    directory = tmp_path_factory.mktemp("client")
    models = [
        scripted("scale"),
        scripted("poison", name="poison"),
        scripted("sleep", name="slow", seconds=0.5),
        replace(scripted("scale", name="labelled"), classes=("a", "b", "c", "d")),
        *[echo(f"echo-{kind}", kind) for kind in KINDS],
    ]
    socket = str(directory / "socket")
    policies = {"m": VersionPolicy(labels={"stable": 1})}
    with replica(directory, *models, unix_socket=socket, policies=policies) as running:
        running.files["socket"] = Path(socket)
        yield running


@pytest.fixture
def client(running: RunningReplica) -> Iterator[Client]:
    with Client(f"http://{running.address}") as client:
        yield client


def connected(running: RunningReplica) -> Client:
    return Client(f"http://{running.address}", retries=NO_RETRIES)


def on_loop(url: str, use: Callable[[AsyncClient], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, **options) as client:
            return await use(client)

    return asyncio.run(main())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_datatype_comes_back_bit_for_bit(
    running: RunningReplica, client: Client, kind: str, binary: bool
) -> None:
    sent = values(kind)
    datatypes = {"x": "BF16"} if kind == "BF16" else None
    model = f"echo-{kind}"
    first = client.infer(model, {"x": sent}, binary=binary, datatypes=datatypes)
    second: InferResult = on_loop(
        f"http://{running.address}", lambda c: c.infer(model, {"x": sent}, binary=binary, datatypes=datatypes)
    )
    want = client.infer(model, {"x": sent}, datatypes=datatypes)["y"]
    for got in (first["y"], second["y"]):
        assert got.dtype == sent.dtype
        assert got.tolist() == want.tolist()
        if kind != "BF16":
            assert got.tolist() == sent.tolist()
    assert np.allclose(want, sent, rtol=2**-8) if kind == "BF16" else True


def test_what_the_service_says_about_itself(client: Client) -> None:
    assert (client.live(), client.ready(), client.model_ready("m"), client.model_ready("none")) == (
        True, True, True, False,
    )  # fmt: skip
    assert "binary_tensor_data" in client.server_metadata().extensions
    assert [str(t) for t in client.metadata("m", version=1).signature.inputs] == ["x: FP32[batch, 4]"]
    before = client.statistics("m")[0].inference_count
    result = client.infer("m", {"x": np.repeat(X["x"], 3, axis=0)}, version=1, request_id="7")
    assert (result["y"].shape, result.model, result.version, result.id) == ((3, 4), "m", "1", "7")
    assert client.statistics("m")[0].inference_count == before + 3
    assert {s.name for s in client.statistics()} >= {"m", "slow"}


def test_a_label_names_a_version(client: Client) -> None:
    assert client.infer("m", X, label="stable").version == "1"
    with pytest.raises(NotFound):
        client.infer("m", X, label="none")


def test_the_services_errors_arrive_as_what_they_are(client: Client) -> None:
    with pytest.raises(NotFound, match="Request for unknown model: 'none' is not found"):
        client.infer("none", X)
    with pytest.raises(InvalidInput, match="data-type is 'FP64'"):
        client.infer("m", {"x": np.zeros((1, 4))})
    with pytest.raises(InvalidInput, match="unexpected shape"):
        client.infer("m", {"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(BackendFailed, match="poison"):
        client.infer("poison", {"x": np.full((1, 4), 666, np.float32)})
    with pytest.raises(InvalidInput, match="exceeds the limit"):
        client.infer("m", {"x": np.zeros((5_000_000, 4), np.float32)})
    assert client.infer("m", X)["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]


def test_the_deadline_holds_here_whatever_the_service_does(running: RunningReplica, client: Client) -> None:
    with pytest.raises(Unavailable):
        client.infer("slow", X, timeout_s=0.1)
    with pytest.raises(Unavailable):
        on_loop(f"http://{running.address}", lambda c: c.infer("slow", X, timeout_s=0.1))
    assert client.infer("m", X)["y"].shape == (1, 4)


def test_compressed_bodies_are_understood(running: RunningReplica) -> None:
    options = TransportOptions(compress_requests=True, compress_responses=True)
    sent = np.ones((2000, 4), np.float32)
    with Client(f"http://{running.address}", transport=options) as client:
        for binary in (True, False):
            assert (client.infer("m", {"x": sent}, binary=binary)["y"] == 2).all()


def test_a_unix_socket_is_a_way_too(running: RunningReplica) -> None:
    url = f"unix://{running.files['socket']}"
    with Client(url) as client:
        assert client.infer("m", X)["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]
    assert on_loop(url, lambda c: c.infer("m", X))["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]


def test_many_callers_get_their_own_answers(running: RunningReplica, client: Client) -> None:
    def ask(number: int) -> bool:
        return client.infer("m", {"x": np.full((1, 4), number, np.float32)})["y"].tolist() == [[2.0 * number] * 4]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))

    async def tasks(client: AsyncClient) -> None:
        sent = [np.full((1, 4), n, np.float32) for n in range(400)]
        results = await asyncio.gather(*[client.infer("m", {"x": s}) for s in sent])
        assert all((r["y"] == 2 * s).all() for r, s in zip(results, sent, strict=True))

    on_loop(f"http://{running.address}", tasks)


def test_overload_is_told_with_a_time_to_come_back(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()  # warm-up runs through it
    model = scripted("gate", batch=1, queue=QueuePolicy(max_requests=1), gate=str(gate))
    with replica(tmp_path, model) as running, ThreadPoolExecutor(2) as pool, connected(running) as client:
        gate.unlink()
        try:
            waiting = [pool.submit(client.infer, "m", X)]
            until(lambda: running.held() == 1, "one runs")
            waiting.append(pool.submit(client.infer, "m", X))
            until(lambda: running.held() == 2, "one waits")
            with pytest.raises(Unavailable) as caught:
                client.infer("m", X)
            assert caught.value.retry_after_s
        finally:
            gate.touch()
        assert [w.result(30)["y"].shape for w in waiting] == [(1, 4)] * 2


def test_models_come_and_go(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "new").mkdir(parents=True)
    (repository / "new" / "1.json").write_bytes(msgspec.json.encode(scripted("scale", name="new")))
    with replica(tmp_path, scripted("scale"), repository=str(repository)) as running, connected(running) as client:
        client.load("new")
        assert client.infer("new", X)["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]
        assert "new" in {m.name for m in client.models() if m.state == "READY"}
        client.unload("new")
        until(lambda: not client.model_ready("new"), "the model is gone")
        with pytest.raises(NotFound):
            client.load("none")


def test_a_replica_that_drains_loses_no_call(tmp_path: Path) -> None:
    """SIGTERM under load: what was asked before is answered; then nobody is there."""
    with (
        replica(tmp_path, scripted("scale")) as running,
        Client(f"http://{running.address}", retries=NO_RETRIES) as client,
    ):
        client.infer("m", X)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable):
            while True:
                assert client.infer("m", X)["y"].shape == (1, 4)
        assert running.process.wait(30) == 0


def test_classes_and_priorities_are_understood(running: RunningReplica, client: Client) -> None:
    sent = {"x": np.array([[0.0, 3.0, 1.0, 2.0], [9.0, 0.0, 0.0, 0.0]], np.float32)}
    got = client.infer("labelled", sent, outputs=["y"], classify=2, priority=1)
    rows = got.classes("y")
    assert [(c.index, c.score, c.label) for c in rows[0]] == [(1, 6.0, "b"), (3, 4.0, "d")]
    assert (rows[1][0].index, rows[1][0].label) == (0, "a")
    assert client.infer("labelled", sent, outputs=["y"], classify=2, binary=False).classes("y") == rows


def test_work_that_nobody_waits_for_is_not_done(tmp_path: Path) -> None:
    """T18 with the client's own deadlines: what waits behind a long run is gone when its caller is."""
    journal = tmp_path / "journal"
    model = scripted("sleep", batch=1, seconds=0.3, journal=str(journal))
    with replica(tmp_path, model) as running, ThreadPoolExecutor(6) as pool, connected(running) as client:
        warm = len(journal.read_text().splitlines())
        first = pool.submit(client.infer, "m", X)
        until(lambda: running.held() == 1, "one runs")
        late = [pool.submit(client.infer, "m", X, timeout_s=0.05) for _ in range(5)]
        for call in late:
            assert isinstance(call.exception(30), Unavailable)
        assert first.result(30)["y"].shape == (1, 4)
        assert client.infer("m", X)["y"].shape == (1, 4)
        assert len(journal.read_text().splitlines()) == warm + 2
