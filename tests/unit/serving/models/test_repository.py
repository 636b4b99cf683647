"""The repository on a real loop, with executors that only record what happens to them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, NotFound, Unavailable
from modelyard.domain.services import VersionPolicy
from modelyard.domain.tensors import Signature
from modelyard.serving.models import source
from modelyard.serving.models.states import Readiness, Stage
from tests.serving_harness import VECTOR, scripted, tensor
from tests.unit.serving.models.yard import Yard, write


def driven(scenario):
    """Run an async test with a deadline."""

    def run(*arguments, **more):
        asyncio.run(asyncio.wait_for(scenario(*arguments, **more), 20))

    run.__name__, run.__doc__ = scenario.__name__, scenario.__doc__
    return run


def model(version, behaviour="echo", **more):
    return scripted(behaviour, version=version, **more)


def started(scenario):
    async def run():
        yard = Yard(model(1), model(2), model(3), policies={"m": VersionPolicy(versions=(1, 2))})
        await yard.repository.start()
        await scenario(yard)
        await yard.close()

    run.__name__ = scenario.__name__
    return driven(run)


def test_states_before_while_and_after_loading():
    @driven
    async def scenario():
        yard = Yard(model(1), model(2, "refuse"))
        yard.gates[1] = threading.Event()
        starting = asyncio.create_task(yard.repository.start())
        while ("m", 1) not in yard.loads:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="'m' is not at ready state: it is being loaded"):
            yard.repository.model("m").routing.target()
        assert yard.stages()[1] in (Stage.START, Stage.LOADING)
        yard.gates[1].set()
        await starting
        first, second = yard.repository.states("m")
        assert (first.state, first.stage, first.reason) == (Readiness.READY, Stage.AVAILABLE, "")
        assert (second.state, second.stage, second.reason) == (Readiness.UNAVAILABLE, Stage.END, "the file is no model")
        with pytest.raises(Unavailable, match="version 2 is not at ready state: the file is no model"):
            yard.repository.model("m").routing.target("2")
        with pytest.raises(NotFound, match="Request for unknown model: 'm' version 7 is not found"):
            yard.repository.model("m").routing.target("7")
        with pytest.raises(NotFound, match="Request for unknown model: 'n' is not found"):
            yard.repository.states("n")
        for nonsense in ("x", "-1", "0", "1.0", "9" * 30, "٣"):
            with pytest.raises(InvalidInput, match="version"):
                yard.repository.model("m").routing.target(nonsense)
        await yard.close()

    scenario()


@started
async def test_there_is_one_target_per_name_and_it_lives_through_unload_and_load(yard):
    routing = yard.repository.model("m").routing
    target, two = routing.target(), routing.target("2")
    assert routing.target("2") is routing.target("02") is two
    assert target.pick().interface.version == 2
    await yard.repository.unload("m")
    for gone in (target, two):
        with pytest.raises(NotFound):
            gone.pick()
    await yard.repository.load("m", None, None)
    assert target.pick() is two.pick() is routing.serving[2]
    assert routing.target() is target


@started
async def test_unload_drains_then_frees(yard):
    one, two = yard.made
    two.idle = False
    await yard.repository.unload("m")
    assert yard.stages()[2] is Stage.UNLOADING
    assert two in yard.repository.retiring
    assert not two.closed
    two.idle = True
    await yard.settled()
    assert one.closed
    assert two.closed
    states = {s.version: (s.state, s.reason) for s in yard.repository.states("m")}
    assert states[1] == states[2] == (Readiness.UNAVAILABLE, "unloaded")
    with pytest.raises(NotFound, match="failed to unload 'n'"):
        await yard.repository.unload("n")


@started
async def test_a_version_that_left_is_garbage(yard):
    gone = weakref.ref(next(e for e in yard.made if e.interface.version == 1))
    yard.repository.model("m").routing.target("1")
    await yard.repository.apply_policies({"m": VersionPolicy(versions=(2,))})
    await yard.settled()
    yard.made.clear()
    gc.collect()
    assert gone() is None


@started
async def test_what_is_being_decoded_for_a_version_keeps_it(yard):
    decoding = threading.Event()
    job = yard.pool.submit(decoding.wait, 10)
    (one, _) = yard.made
    await yard.repository.apply_policies({"m": VersionPolicy(versions=(2,))})
    for _ in range(5):
        await asyncio.sleep(0.01)
        assert not one.closed
    decoding.set()
    await yard.settled()
    assert one.closed
    assert job.result() is True


@started
async def test_load_adds_versions_beside_what_serves_until_the_policy_changes(yard):
    await yard.repository.load("m", (3,), None)
    assert yard.serving() == [1, 2, 3]
    await yard.repository.load("m", None, None)
    assert yard.serving() == [1, 2, 3]
    assert Counter(yard.loads) == {("m", 1): 1, ("m", 2): 1, ("m", 3): 1}  # nothing changed: nothing is loaded again
    await yard.repository.apply_policies({"m": VersionPolicy(latest=1)})
    assert yard.serving() == [3]
    with pytest.raises(NotFound, match="failed to load 'm', version 9"):
        await yard.repository.load("m", (9,), None)
    with pytest.raises(NotFound, match="failed to load 'n', failed to poll from model repository"):
        await yard.repository.load("n", None, None)


@started
async def test_an_override_holds_for_one_load_and_keeps_the_counters(yard):
    before = yard.repository.model("m").versions[2].executor
    before.ledger.failed = 5
    await yard.repository.load("m", (2,), {"batching": {"max_size": 3}})
    version = yard.repository.model("m").versions[2]
    assert version.served.batching.max_size == 3
    assert version.source.batching.max_size == 8
    assert version.executor is not before
    assert version.executor.ledger.failed == 5
    assert yard.stages()[2] is Stage.AVAILABLE
    await yard.repository.apply_policies({"m": VersionPolicy(versions=(2,))})
    assert version.served.batching.max_size == 3
    await yard.repository.load("m", None, None)
    assert version.served.batching.max_size == 8
    await yard.settled()
    assert before.closed


def test_a_failed_load_changes_nothing_and_says_so_in_tritons_words(tmp_path):
    @driven
    async def scenario():
        write(tmp_path, model(1))
        yard = Yard(directory=tmp_path)
        await yard.repository.start()
        write(tmp_path, model(2, "refuse"))
        said = "failed to load 'm', version 2 is at UNAVAILABLE state: the file is no model"
        with pytest.raises(InvalidInput, match=said):
            await yard.repository.load("m", None, None)
        assert yard.serving() == [1]
        write(tmp_path, model(2, "crash"))
        with pytest.raises(BackendFailed, match="ZeroDivisionError"):
            await yard.repository.load("m", None, None)
        write(tmp_path, model(2, "exit"))
        with pytest.raises(BackendFailed, match="SystemExit"):
            await yard.repository.load("m", None, None)
        assert yard.serving() == [1]
        assert not yard.made[0].closed
        write(tmp_path, model(2))
        await yard.repository.load("m", None, None)
        assert yard.serving() == [2]
        await yard.close()

    scenario()


def test_a_version_whose_reload_fails_goes_on_with_what_it_has(tmp_path):
    @driven
    async def scenario():
        write(tmp_path, model(1))
        yard = Yard(directory=tmp_path)
        await yard.repository.start()
        write(tmp_path, model(1, "refuse"))
        with pytest.raises(InvalidInput, match="version 1 is at UNAVAILABLE"):
            await yard.repository.reread()
        (state,) = yard.repository.states("m")
        assert (state.state, state.reason) == (Readiness.READY, "the file is no model")
        assert yard.picks(3) == {1: 3}
        await yard.close()

    scenario()


def test_a_source_that_forgets_a_version_unloads_it_and_the_record_goes(tmp_path):
    @driven
    async def scenario():
        write(tmp_path, model(1), model(2))
        yard = Yard(directory=tmp_path, policies={})
        await yard.repository.start()
        assert yard.serving() == [2]
        (tmp_path / "m" / "2.json").unlink()
        await yard.repository.reread()
        assert yard.serving() == [1]
        await yard.settled()
        await yard.repository.reread()
        assert [s.version for s in yard.repository.states("m")] == [1]
        (tmp_path / "m" / "1.json").unlink()
        await yard.repository.reread()
        await yard.settled()
        assert yard.serving() == []
        await yard.close()

    scenario()


def test_what_an_earlier_scan_saw_never_replaces_what_a_later_one_saw(tmp_path, monkeypatch):
    """The first scan of two sees the directory first and comes back last, if nothing makes the second wait."""
    write(tmp_path, model(1))
    scan, seen, go_on = source.scan, threading.Event(), threading.Event()

    def slow_at_first(directory):
        found = scan(directory)
        if not seen.is_set():
            seen.set()
            go_on.wait(1)  # in vain where the second scan waits for this one
        else:
            go_on.set()
        return found

    @driven
    async def scenario():
        yard = Yard(directory=tmp_path)
        await yard.repository.start()
        monkeypatch.setattr(source, "scan", slow_at_first)
        monkeypatch.setattr(yard.repository._loaders, "threads", ThreadPoolExecutor(2))
        first = asyncio.create_task(yard.repository.reread())
        while not seen.is_set():
            await asyncio.sleep(0.005)
        write(tmp_path, model(2))
        await asyncio.gather(first, asyncio.create_task(yard.repository.reread()))
        assert set(yard.repository.model("m").found.versions) == {1, 2}
        await yard.close()

    scenario()


def test_an_unloaded_model_stays_away_until_it_is_loaded(tmp_path):
    @driven
    async def scenario():
        write(tmp_path, model(1))
        yard = Yard(directory=tmp_path)
        await yard.repository.start()
        await yard.repository.unload("m")
        write(tmp_path, model(2))
        await yard.repository.reread()
        assert yard.serving() == []
        await yard.repository.load("m", None, None)
        assert yard.serving() == [2]
        await yard.close()

    scenario()


@started
async def test_policies_of_several_models_are_followed_all_or_none(yard):
    broken = {"m": VersionPolicy(versions=(3,)), "n": VersionPolicy()}
    with pytest.raises(NotFound, match="'n' is not found"):
        await yard.repository.apply_policies(broken)
    assert yard.serving() == [1, 2]
    assert ("m", 3) not in yard.loads


def test_a_load_that_fails_for_one_model_undoes_the_others(tmp_path):
    @driven
    async def scenario():
        models = (model(1), model(2), model(1, name="n"), model(2, "refuse", name="n"))
        first = {"m": VersionPolicy(versions=(1,)), "n": VersionPolicy(versions=(1,))}
        yard = Yard(*models, policies=first)
        await yard.repository.start()
        then = {"m": VersionPolicy(versions=(2,), labels={"new": 2}), "n": VersionPolicy(versions=(2,))}
        with pytest.raises(InvalidInput, match="failed to load 'n', version 2"):
            await yard.repository.apply_policies(then)
        assert (yard.serving("m"), yard.serving("n")) == ([1], [1])
        assert yard.freed == [("m", 2)]
        assert yard.repository.model("m").routing.policy == first["m"]
        assert yard.repository.states("m")[1].state is Readiness.UNAVAILABLE
        await yard.close()

    scenario()


def test_models_that_an_exclusive_configuration_leaves_out_are_unloaded():
    @driven
    async def scenario():
        yard = Yard(model(1), model(1, name="n"))
        await yard.repository.start()
        await yard.repository.apply_policies({"m": VersionPolicy()}, exclusive=True)
        assert (yard.serving("m"), yard.serving("n")) == ([1], [])
        await yard.close()

    scenario()


@started
async def test_labels_go_onto_versions_that_serve_only(yard):
    repository = yard.repository
    repository.set_labels("m", {"stable": 1})
    stable = repository.model("m").routing.target(label="stable")
    assert stable.pick().interface.version == 1
    with pytest.raises(Conflict, match="assign label to version 3 of model m, which is not currently available"):
        repository.set_labels("m", {"stable": 3})
    assert stable.pick().interface.version == 1
    repository.set_labels("m", {"stable": 2})
    assert stable.pick().interface.version == 2
    repository.set_labels("m", {})
    with pytest.raises(NotFound, match="no label 'stable'"):
        stable.pick()
    await repository.apply_policies({"m": VersionPolicy(latest=1, labels={"old": 1})})
    assert yard.serving() == [1, 3]  # a label keeps its version
    assert repository.model("m").routing.target(label="old").pick().interface.version == 1


@started
async def test_canary_shares_hold_to_the_request(yard):
    await yard.repository.apply_policies({"m": VersionPolicy(canary={2: 0.01, 3: 0.24})})
    assert yard.picks(100) == {1: 75, 2: 1, 3: 24}
    assert yard.picks(100) == {1: 75, 2: 1, 3: 24}
    assert {yard.repository.model("m").routing.target("1").pick().interface.version for _ in range(9)} == {1}


def test_a_canary_with_other_tensors_is_refused_and_freed():
    @driven
    async def scenario():
        other = Signature((tensor("x", "FP32", "batch", 4),), (tensor("z", "FP32", "batch", 4),))
        policies = {"m": VersionPolicy(versions=(1,))}
        yard = Yard(model(1), scripted("echo", other, version=2), policies=policies)
        await yard.repository.start()
        for policy in (VersionPolicy(canary={2: 0.1}), VersionPolicy(shadow=2)):
            with pytest.raises(Conflict, match="cannot share requests"):
                await yard.repository.apply_policies({"m": policy})
        assert yard.serving() == [1]
        assert yard.freed == [("m", 2)] * 2
        assert yard.picks(4) == {1: 4}
        await yard.close()

    scenario()


def test_versions_in_conflict_at_the_start_are_a_wrong_spec():
    @driven
    async def scenario():
        other = Signature(VECTOR.inputs, (tensor("z", "FP32", "batch", 4),))
        yard = Yard(model(1), scripted("echo", other, version=2), policies={"m": VersionPolicy(canary={2: 0.1})})
        with pytest.raises(InvalidInput, match="cannot share requests"):
            await yard.repository.start()
        await yard.close()

    scenario()


def test_a_start_with_a_model_that_has_no_version_raises_what_the_model_said():
    @driven
    async def scenario():
        yard = Yard(model(1), model(1, "refuse", name="n"))
        with pytest.raises(InvalidInput, match=r"^the file is no model$"):
            await yard.repository.start()
        await yard.close()

    scenario()


@started
async def test_a_change_goes_on_when_its_caller_leaves(yard):
    yard.gates[3] = threading.Event()
    asked = asyncio.create_task(yard.repository.load("m", (3,), None))
    while ("m", 3) not in yard.loads:
        await asyncio.sleep(0.005)
    asked.cancel()
    yard.gates[3].set()
    while yard.serving() != [1, 2, 3]:
        await asyncio.sleep(0.005)


@started
async def test_changes_of_one_model_happen_one_after_the_other(yard):
    policies = [VersionPolicy(versions=(1 + i % 3,)) for i in range(12)]
    await asyncio.gather(*(yard.repository.apply_policies({"m": p}) for p in policies))
    assert yard.serving() == [3]
    await yard.settled()
    assert sum(not e.closed for e in yard.made) == 1


@started
async def test_a_version_that_broke_for_good_leaves_its_requests_to_the_others(yard):
    yard.repository.disable("m", 2, BackendFailed("its process died too often"))
    assert yard.picks(3) == {1: 3}
    with pytest.raises(Unavailable, match="version 2 is not at ready state: its process died too often"):
        yard.repository.model("m").routing.target("2")
    await yard.settled()
    assert yard.repository.states("m")[1].reason == "its process died too often"
    yard.repository.disable("m", 2, BackendFailed("again"))


@started
async def test_no_change_begins_once_the_replica_ends(yard):
    yard.repository.refuse_changes()
    with pytest.raises(Unavailable, match="shutting down"):
        await yard.repository.load("m", (3,), None)
    assert yard.serving() == [1, 2]


def broken_repository(root):
    """`good`; `refused` does not load, `damaged` is no JSON, `misruled` has a policy of a version that is not there."""
    write(root, scripted("echo", name="good"), scripted("refuse", name="refused"), scripted("echo", name="misruled"))
    (root / "misruled" / "policy.json").write_text('{"versions": [7]}')
    (root / "damaged").mkdir()
    (root / "damaged" / "1.json").write_text("{")
    return root


def test_a_start_that_fails_names_every_broken_model(tmp_path):
    @driven
    async def scenario():
        yard = Yard(directory=broken_repository(tmp_path))
        with pytest.raises(InvalidInput, match="3 models cannot be served") as failed:
            await yard.repository.start()
        for told in ("the file is no model", "cannot read damaged/1.json", "'misruled' version 7 is not found"):
            assert told in failed.value.why
        await yard.close()

    scenario()


def test_where_errors_may_be_the_other_models_are_served_and_the_broken_say_why(tmp_path):
    @driven
    async def scenario():
        yard = Yard(model(1), directory=broken_repository(tmp_path), exit_on_error=False)
        await yard.repository.start()
        assert yard.serving() == yard.serving("good") == [1]
        for name, why in (("refused", "no model"), ("damaged", "damaged/1.json"), ("misruled", "version 7")):
            (state,) = yard.repository.states(name)
            assert state.state is Readiness.UNAVAILABLE
            assert why in str(state.error)
        (tmp_path / "misruled" / "policy.json").unlink()
        with pytest.raises(InvalidInput):  # of those that are broken still
            await yard.repository.reread()
        assert yard.serving("misruled") == [1]
        await yard.close()

    scenario()


def test_a_model_that_the_spec_lists_must_be_served_in_any_case():
    @driven
    async def scenario():
        yard = Yard(model(1, "refuse"), exit_on_error=False)
        with pytest.raises(InvalidInput, match="the file is no model"):
            await yard.repository.start()
        await yard.close()

    scenario()


def test_clients_are_told_why_without_the_servers_paths_which_the_log_has(tmp_path, caplog):
    @driven
    async def scenario():
        yard = Yard(model(1), directory=tmp_path, exit_on_error=False)
        yard.lost = tmp_path / "secret" / "model.bin"
        await yard.repository.start()
        write(tmp_path, scripted("lost", name="n"))
        with pytest.raises(InvalidInput) as refused:
            await yard.repository.load("n", None, None)
        (state,) = yard.repository.states("n")
        assert "there is no file .../model.bin" in state.reason
        for told in (state.reason, str(state.error), str(refused.value), refused.value.hint):
            assert str(tmp_path) not in told
        with pytest.raises(Unavailable) as answer:
            yard.repository.model("n").routing.target()
        assert str(tmp_path) not in str(answer.value)
        assert f"n:1 is not loaded: there is no file {yard.lost}" in caplog.text
        tmp_path.rename(tmp_path.with_name("moved"))
        with pytest.raises(InvalidInput) as unread:
            await yard.repository.load("n", None, None)
        assert str(tmp_path) not in str(unread.value)
        await yard.close()

    scenario()
