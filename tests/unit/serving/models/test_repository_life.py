"""Whatever happens to a repository, in whatever order and at the same time, what serves goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import VersionPolicy
from modelyard.serving.models.policy import wanted
from modelyard.serving.models.states import Readiness, Stage
from tests.serving_harness import scripted
from tests.unit.serving.models.yard import Yard, write

NUMBERS = st.integers(1, 5)
POLICIES = st.one_of(
    st.builds(VersionPolicy, latest=st.integers(0, 3)),
    st.builds(VersionPolicy, versions=st.sets(NUMBERS, max_size=3).map(lambda s: tuple(sorted(s)))),
    st.builds(VersionPolicy, labels=st.dictionaries(st.sampled_from(["a", "b"]), NUMBERS, max_size=2)),
    st.builds(VersionPolicy, canary=st.dictionaries(NUMBERS, st.floats(0.1, 0.6), max_size=2)),
    st.builds(VersionPolicy, latest=st.just(1), shadow=NUMBERS),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), NUMBERS, st.sampled_from(["echo", "echo", "scale", "refuse", "crash", "exit"])),
    st.tuples(st.just("remove"), NUMBERS),
    st.tuples(st.just("garbage"), NUMBERS),
    st.tuples(st.just("policy"), POLICIES),
    st.tuples(st.just("write"), POLICIES),
    st.tuples(st.just("reread")),
    st.tuples(st.just("load"), st.sets(NUMBERS, max_size=2)),
    st.tuples(st.just("unload")),
    st.tuples(st.just("labels"), st.dictionaries(st.sampled_from(["a", "b"]), NUMBERS, max_size=2)),
)


def numbers_in(root: Path) -> list[int]:
    return [int(file.stem) for file in root.glob("m/[1-9]*")]


async def do(yard: Yard, root: Path, operation: tuple, moments: list[list[int]]) -> None:
    """One operation; what it raises must be an error of ours."""
    repository, folder = yard.repository, root / "m"
    match operation:
        case ("put", number, behaviour):
            write(root, scripted(behaviour, version=number))
        case ("remove", number):
            (folder / f"{number}.json").unlink(missing_ok=True)
        case ("garbage", number):
            (folder / f"{number}.json").write_text("{")
        case ("policy", policy):
            await repository.apply_policies({"m": policy})
        case ("write", policy):
            (folder / "policy.json").write_bytes(msgspec.json.encode(policy))
        case ("reread",):
            await repository.reread()
        case ("load", numbers):
            await repository.load("m", tuple(numbers) or None, None)
        case ("unload",):
            await repository.unload("m")
        case ("labels", labels):
            repository.set_labels("m", labels)
    moments.append(numbers_in(root))


def check(yard: Yard, served_before: bool, may_end: bool) -> None:
    model = yard.repository.models["m"]
    serving = model.routing.serving
    for number, executor in serving.items():
        assert not executor.closed
        assert executor.interface.version == number
        assert executor not in yard.repository.retiring
    for executor in yard.made:
        assert executor in serving.values() or executor in yard.repository.retiring or executor.leaving
    if served_before and not may_end:
        assert serving, "nothing serves any more, and nobody asked for that"
    if serving:
        target = model.routing.target()
        assert {target.pick().interface.version for _ in range(10)} <= set(serving)
        assert set(yard.picks(10)) <= set(model.routing.shares)
    for state in yard.repository.states("m"):
        assert (state.state is Readiness.READY) == (state.version in serving)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), max_size=10))
def test_what_serves_goes_on_serving(rounds):
    """Rounds of operations that happen at the same time."""

    async def scenario(root: Path) -> None:
        write(root, scripted("echo"), scripted("echo", version=2))
        yard = Yard(directory=root)
        await yard.repository.start()
        for operations in rounds:
            before, model = bool(yard.serving()), yard.repository.models["m"]
            policies = [model.policy, *(o[1] for o in operations if o[0] in ("policy", "write"))]
            moments = [numbers_in(root)]  # a scan may see the files of any moment of the round
            tasks = [asyncio.create_task(do(yard, root, operation, moments)) for operation in operations]
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, ModelyardError), result
            # a model may end only by being unloaded, or because the files of all that its policy wants are gone
            policies.append(model.policy)  # of an earlier round, read in this one
            gone = any(not wanted(policy, left, model.extra) for policy in policies for left in moments)
            check(yard, before, may_end=any(o[0] == "unload" for o in operations) or gone)
        await yard.settled()
        serving = set(yard.repository.models["m"].routing.serving.values())
        assert {e for e in yard.made if not e.closed} == serving
        assert Stage.LOADING not in yard.stages().values()
        await yard.close()

    with tempfile.TemporaryDirectory() as folder, contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(asyncio.wait_for(scenario(Path(folder)), 20))
