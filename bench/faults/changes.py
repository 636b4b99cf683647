"""Versions and configurations that change under load, broken ones among them: rows T22 and T23."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np

from bench.faults.result import Options, Result
from modelyard.client import NO_RETRIES, AsyncClient
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import ServedModel
from modelyard.serving.tfs import messages as pb
from tests.serving_harness import RunningReplica, replica, scripted

CALLERS = 4
MORE = 50
"""Answers between two changes."""
BROKEN_EVERY = 10
"""One in so many versions cannot be loaded."""
METHOD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def adding(version: int) -> ServedModel:
    """A model that adds its version to every number: answers show who gave them."""
    return scripted("add", version=version, add=version)


def put(folder: Path, *models: ServedModel) -> None:
    """Models into a repository, each at once or not at all."""
    for model in models:
        (folder / model.name).mkdir(parents=True, exist_ok=True)
        temporary = folder / model.name / f".{model.version}"
        temporary.write_bytes(msgspec.json.encode(model))
        temporary.replace(folder / model.name / f"{model.version}.json")


class Traffic:
    """Callers that check of which version their answers are, in all their rows."""

    def __init__(self, url: str) -> None:
        self.client = AsyncClient(url, retries=NO_RETRIES)
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._over = False

    async def _call(self, caller: int) -> None:
        chance = random.Random(caller)
        while not self._over:
            x = np.full((chance.randint(1, 4), 4), chance.randint(0, 99), np.float32)
            try:
                found = await self.client.infer("m", {"x": x}, binary=bool(caller % 2))
            except ModelyardError as error:
                self.wrong.append(str(error))
            else:
                self.answered[found.version] += 1
                if not np.array_equal(found["y"], x + np.float32(found.version)):
                    self.wrong.append(f"version {found.version} gave {found['y']} for {x}")
            await asyncio.sleep(0.001)  # the callers leave something of the cores to the changes

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Calls meanwhile."""
        tasks = [asyncio.create_task(self._call(i)) for i in range(CALLERS)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*tasks)
            await self.client.close()

    async def more(self) -> None:
        """Until some more calls are answered: a change is judged by those after it, too."""
        enough = self.answered.total() + MORE
        while self.answered.total() < enough and not self.wrong:
            await asyncio.sleep(0.001)

    def __str__(self) -> str:
        for text in self.wrong[:3]:
            print(f"    {text}")
        total = self.answered.total() + len(self.wrong)
        return f"{len(self.wrong)} of {total:,} requests failed or mixed, answers of {len(self.answered)} versions"


async def failed(change: Awaitable[None]) -> bool:
    """Whether a change is refused."""
    try:
        await change
    except ModelyardError:
        return True
    return False


def t22(folder: Path, options: Options) -> Result:
    """100 version swaps, every tenth version broken, under load: no request fails, each answer is of one version."""
    models = folder / "models"
    put(models, adding(1))
    swaps = 2 * options.times

    async def swap(server: RunningReplica) -> tuple[Traffic, int, int]:
        traffic, end = Traffic(f"http://{server.address}"), options.until()
        done = mistaken = 0
        async with traffic.going_on():
            for version in range(2, 2 + swaps):
                broken = version % BROKEN_EVERY == 0
                put(models, scripted("refuse", version=version) if broken else adding(version))
                mistaken += await failed(traffic.client.load("m")) != broken
                if broken:
                    (models / "m" / f"{version}.json").unlink()
                done += 1
                await traffic.more()
                if time.perf_counter() > end:
                    break
        return traffic, done, mistaken

    with replica(folder / "r", repository=str(models)) as server:
        traffic, done, mistaken = asyncio.run(swap(server))
    broken = len([v for v in range(2, 2 + done) if v % BROKEN_EVERY == 0])
    figure = f"{done} swaps, {broken} of them to a broken version ({mistaken} told wrong): {traffic}"
    return Result(figure, not traffic.wrong and not mistaken and done == swaps and len(traffic.answered) > done // 2)


def configured(*versions: int, name: str = "m", base_path: str = "", labels: dict[str, int] | None = None) -> Any:
    """A ModelServerConfig of one model; without versions, of its latest."""
    request = pb.ReloadConfigRequest()
    model = request.config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
    if versions:
        model.model_version_policy.specific.versions.extend(versions)
    model.version_labels.update(labels or {})
    return request


def invalid(kind: int) -> Any:
    """A request that must change nothing."""
    twice = configured(1)
    twice.config.model_config_list.config.append(configured(2).config.model_config_list.config[0])
    nothing = configured(1)
    nothing.config.model_config_list.config[0].model_version_policy.specific.ClearField("versions")
    kinds = (
        configured(9),
        configured(1, name=""),
        configured(1, name="unknown"),
        configured(1, base_path="/etc"),
        configured(1, labels={"stable": 9}),
        twice,
        nothing,
        pb.ReloadConfigRequest(),
        configured(4),  # there is one, and it cannot be loaded
    )
    return kinds[kind % len(kinds)]


def t23(folder: Path, options: Options) -> Result:
    """100 configurations by HandleReloadConfigRequest, half of them invalid, under load: 0 errors, last good kept."""
    models = folder / "models"
    put(models, *(adding(v) for v in (1, 2, 3)), scripted("refuse", version=4))
    (models / "m" / "policy.json").write_text('{"versions": [3]}')
    reloads = 2 * options.times

    async def reload(server: RunningReplica) -> tuple[Traffic, list[int], list[str]]:
        traffic, chance, end = Traffic(f"http://{server.address}"), random.Random(2), options.until()
        good, counts, mistaken = {3}, [0, 0], list[str]()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, traffic.going_on():
            send = channel.unary_unary(
                METHOD, pb.ReloadConfigRequest.SerializeToString, pb.ReloadConfigResponse.FromString
            )
            while sum(counts) < reloads and time.perf_counter() < end:
                valid = sum(counts) % 2 == 0
                versions = sorted(chance.sample((1, 2, 3), chance.randint(1, 3)))
                request = configured(*versions, labels={"stable": versions[0]}) if valid else invalid(counts[0])
                answer = await send(request, timeout=20)
                if valid:
                    good = set(versions)
                counts[not valid] += 1
                await traffic.more()
                served = {int(v) for v in (await traffic.client.metadata("m")).versions}
                if (answer.status.error_code == 0) != valid or served != good:
                    mistaken.append(f"{request} was answered {answer}; served: {served}, the last good one: {good}")
        return traffic, counts, mistaken

    with replica(folder / "r", repository=str(models)) as server:
        traffic, counts, mistaken = asyncio.run(reload(server))
    for text in mistaken[:3]:
        print(f"    {text}")
    figure = f"{counts[0]} valid and {counts[1]} invalid, {len(mistaken)} told or kept wrong: {traffic}"
    return Result(figure, not traffic.wrong and not mistaken and sum(counts) == reloads)
