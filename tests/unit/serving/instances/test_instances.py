"""Instances inside and in a process of their own: one suite, and what only one of them does."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError, Unavailable, Unsupported
from modelyard.domain.services import Isolation, ServedModel
from modelyard.domain.tensors import Datatype, Signature
from modelyard.processes import resident_bytes
from modelyard.runtimes.ports import Containment
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.faults import STATUS
from modelyard.serving.instances.frames import failure, raised
from modelyard.serving.instances.local import HELD_TICKS, LocalInstance
from modelyard.serving.instances.memory import MemoryWatch
from modelyard.serving.instances.process import ProcessInstance, SharedBudget
from modelyard.serving.instances.restarts import RestartBudget
from modelyard.serving.instances.service import Instances, ModelInstances, choose
from modelyard.serving.instances.watchdog import Watchdog
from tests.contract.runtime_cases import CASES, rows
from tests.serving_child import ScriptedRuntime
from tests.serving_harness import scripted, tensor, until

PLACES = (Isolation.THREAD, Isolation.PROCESS)
EVERY = Signature(
    tuple(tensor(str(d), str(d), "batch", "n") for d in Datatype),
    tuple(tensor(f"{d}_out", str(d), "batch", "n") for d in Datatype),
)


def instances(*runtimes) -> Instances:
    return Instances(Runtimes(runtimes or (ScriptedRuntime(),)))


def served(behaviour, place, signature=EVERY, **options) -> ServedModel:
    return dataclasses.replace(scripted(behaviour, signature, **options), isolation=place)


@pytest.fixture
def make() -> Iterator:
    made = []

    def one(model: ServedModel, house: Instances | None = None):
        made.append((house or instances()).model(model).make())
        return made[-1]

    yield one
    for instance in made:
        instance.close()


VECTOR = Signature((tensor("x", "FP32", "batch", "n"),), (tensor("y", "FP32", "batch", "n"),))


def vector(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([values], np.float32)}


def every(shape: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    arrays = {}
    for datatype in Datatype:
        if datatype is Datatype.BYTES:
            array = np.empty(shape, object)
            array.ravel()[:] = [random.bytes(int(random.integers(0, 9))) for _ in range(array.size)]
        elif datatype is Datatype.BOOL:
            array = random.integers(0, 2, shape).astype(bool)
        else:
            array = random.integers(0, 100, shape).astype(datatype.numpy)
        arrays[str(datatype)] = array
    return arrays


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_runtime_gives_the_same_bits_inside_and_in_a_process(case, place, tmp_path, make):
    artifact = case.build(tmp_path).artifact
    house = Instances(Runtimes.discover())
    inputs = rows(artifact.signature, 5)
    expected = house.model(ServedModel("m", 1, artifact, case.runtime, isolation=Isolation.THREAD)).make()
    got = make(ServedModel("m", 1, artifact, case.runtime, isolation=place), house)
    assert got.signature == artifact.signature
    for name, array in expected.run(inputs).items():
        np.testing.assert_array_equal(got.run(inputs)[name], array)
    expected.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[ProcessInstance]:
    instance = instances().model(served("echo", Isolation.PROCESS)).make()
    yield instance
    instance.close()


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(0, 5), st.integers(0, 300)), seed=st.integers(0, 9))
def test_every_datatype_and_shape_survives_the_way_there_and_back(echo, shape, seed):
    inputs = every(shape, seed)
    outputs = echo.run(inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(outputs[f"{name}_out"], array)
        assert outputs[f"{name}_out"].dtype == array.dtype


def test_tensors_that_outgrow_the_shared_memory_get_more_of_it(make):
    instance = make(served("scale", Isolation.PROCESS, VECTOR))
    for size in (1, 100, 1_000_000, 10, 3_000_000, 1):
        data = np.arange(size, dtype=np.float32).reshape(1, -1)
        np.testing.assert_array_equal(instance.run({"x": data})["y"], data * 2)


def test_outputs_belong_to_the_caller_for_as_long_as_he_keeps_them(make):
    """Large ones are lent, not copied: many kept at the same time must all stay what they were."""
    instance = make(served("scale", Isolation.PROCESS, VECTOR))
    kept = [instance.run({"x": np.full((1, 50_000), i, np.float32)})["y"] for i in range(9)]
    for i, output in enumerate(kept):
        assert (output == 2 * i).all()
    del kept, output
    gc.collect()
    assert (instance.run({"x": np.full((1, 50_000), 5, np.float32)})["y"] == 10).all()
    instance.close()


def test_an_input_may_be_strided(make):
    instance = make(served("scale", Isolation.PROCESS, VECTOR))
    data = np.arange(12, dtype=np.float32).reshape(3, 4)[::2, ::-1]
    np.testing.assert_array_equal(instance.run({"x": data})["y"], data * 2)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_model_raises_comes_out(place, make):
    instance = make(served("moody", place, VECTOR))
    with pytest.raises((BackendFailed, ValueError), match="poisoned"):
        instance.run(vector(666))
    np.testing.assert_array_equal(instance.run(vector(1))["y"], [[2]])


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_error_is_the_same_leaf_after_its_way_between_processes(kind):
    error = kind("what", why="why", hint="hint")
    again = raised(failure(error))
    assert (type(again), again.what, again.why, again.hint) == (kind, "what", "why", "hint")


def test_the_time_to_come_back_survives_and_a_damaged_failure_is_one():
    assert raised(failure(Unavailable("later", retry_after_s=2.5))).retry_after_s == 2.5
    assert isinstance(raised(b"{}"), BackendFailed)


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_does_not_load_says_why(place):
    with pytest.raises(InvalidInput, match="the file is no model"):
        instances().model(served("refuse", place)).make()


def test_a_runtime_that_another_process_cannot_make_runs_inside_or_says_so():
    class Local(ScriptedRuntime):
        pass

    model = served("moody", Isolation.AUTO)
    assert choose(model, Local()) is Isolation.THREAD
    with pytest.raises(Unsupported, match="process of its own"):
        instances(Local()).model(dataclasses.replace(model, isolation=Isolation.PROCESS)).make()


def test_auto_isolates_what_cannot_be_contained_and_what_has_a_memory_limit():
    runtime = ScriptedRuntime()
    assert choose(served("echo", Isolation.AUTO), runtime) is Isolation.THREAD
    assert choose(served("moody", Isolation.AUTO), runtime) is Isolation.PROCESS
    limited = dataclasses.replace(served("echo", Isolation.AUTO), memory_limit_bytes=1 << 30)
    assert choose(limited, runtime) is Isolation.PROCESS
    assert choose(served("moody", Isolation.THREAD), runtime) is Isolation.THREAD


# --- the end of a run


def hang(instance, inputs) -> tuple[threading.Thread, list[Exception]]:
    errors: list[Exception] = []

    def run() -> None:
        try:
            instance.run(inputs)
        except Exception as error:  # noqa: BLE001 - kept for the test
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


@pytest.mark.parametrize("stopped", [False, True])
def test_an_interrupted_process_raises_and_the_next_run_is_answered_by_another(make, stopped):
    instance = make(served("moody", Isolation.PROCESS, VECTOR))
    before = instance.pid
    if stopped:
        psutil.Process(before).send_signal(signal.SIGSTOP)
    thread, errors = hang(instance, vector(667))
    until(lambda: stopped or psutil.Process(before).status() == psutil.STATUS_SLEEPING, "it hangs")
    assert instance.interrupt()
    thread.join(20)
    assert isinstance(errors[0], BackendFailed)
    assert "took too long" in str(errors[0])
    np.testing.assert_array_equal(instance.run(vector(1))["y"], [[2]])
    assert instance.pid != before


def test_a_run_that_waits_for_a_process_can_be_interrupted_without_starting_over(make, tmp_path):
    refused = tmp_path / "refused"
    instance = make(served("moody", Isolation.PROCESS, VECTOR, refused=refused))
    refused.touch()
    psutil.Process(instance.pid).kill()
    until(lambda: instance.pid is None, "the process ended")
    thread, errors = hang(instance, vector(1))
    until(lambda: len(instance._changed._waiters) == 2, "the run and the keeper wait")
    assert instance.interrupt()
    thread.join(20)
    assert "started again" in str(errors[0])


def test_a_closed_instance_ends_its_process_and_answers_unavailable(make):
    instance = make(served("echo", Isolation.PROCESS, VECTOR))
    process = psutil.Process(instance.pid)
    instance.close()
    instance.close()
    until(lambda: not process.is_running(), "the process ended")
    with pytest.raises((Unavailable, BackendFailed)):
        instance.run(vector(1))
    with pytest.raises(Unavailable):
        until(lambda: instance.pid is None, "the keeper noticed")
        instance.run(vector(1))


def test_a_spent_budget_is_told_at_once_with_the_last_reason():
    budget = SharedBudget(RestartBudget(restarts=1))
    model = served("moody", Isolation.PROCESS, VECTOR)
    made = ModelInstances(model, ScriptedRuntime(), Isolation.PROCESS, Watchdog(), 0, MemoryWatch(Watchdog(), None))
    made._budget = budget
    instance = made.make()
    for _ in range(2):
        with pytest.raises(BackendFailed, match="SIGSEGV"):
            instance.run(vector(668))
    until(lambda: made.unavailable, "the budget is spent")
    with pytest.raises(Unavailable, match="SIGSEGV"):
        instance.run(vector(1))
    instance.close()


def test_a_process_beyond_its_memory_limit_is_refused_more(make):
    instance = make(dataclasses.replace(served("moody", Isolation.PROCESS, VECTOR), memory_limit_bytes=300 << 20))
    with pytest.raises(BackendFailed, match=r"(?i)memory"):
        instance.run(vector(669))
    np.testing.assert_array_equal(instance.run(vector(1))["y"], [[2]])


def test_a_limit_below_what_the_loaded_model_has_is_told_when_it_is_loaded(make):
    with pytest.raises(BackendFailed, match="needs more memory than it may use") as raised_error:
        make(dataclasses.replace(served("echo", Isolation.PROCESS, VECTOR), memory_limit_bytes=1024))
    assert "the limit is 0.000977 MiB" in raised_error.value.why
    assert "raise the memory limit" in raised_error.value.hint


def test_why_no_process_runs_is_known_while_it_is_started_again(make):
    instance = make(served("moody", Isolation.PROCESS, VECTOR))
    assert instance.absent == ""
    with pytest.raises(BackendFailed, match="SIGSEGV"):
        instance.run(vector(668))
    until(lambda: instance.absent or instance._budget.restarts, "the keeper noticed")
    instance.run(vector(1))
    assert instance.absent == ""


def test_where_all_processes_use_too_much_the_one_that_grew_most_is_ended():
    class Process:
        def __init__(self, pid, loaded_bytes):
            self.pid, self.limit_bytes, self.loaded_bytes, self.killed = pid, None, loaded_bytes, []

        def kill(self, reason):
            self.killed.append(reason)

    mine = resident_bytes(os.getpid())
    grown, large = Process(os.getpid(), mine // 2), Process(os.getpid(), mine)
    watch = MemoryWatch(Watchdog(3600), 5 * mine)
    watch.watch(grown)
    watch.watch(large)
    watch.check()
    assert (grown.killed, large.killed) == ([], [])
    assert 0 < watch.limit_bytes(None) < 2 * mine
    assert watch.limit_bytes(1) == 1
    tight = MemoryWatch(Watchdog(3600), 2 * mine)
    tight.watch(large)
    tight.watch(grown)
    tight.check()
    assert "out of memory" in grown.killed[0]
    assert large.killed == []
    for each in (watch, tight):
        each.forget(grown)
        each.forget(large)


# --- inside


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> LocalArtifact:
    """y adds 1 as often as x's largest value says."""
    from bench.isolation_cost import endless

    return endless(tmp_path_factory.mktemp("endless"))


def test_onnxruntime_is_interrupted_in_the_middle_of_a_loop_and_goes_on(endless, make):
    instance = make(ServedModel("m", 1, endless, "onnxruntime"), Instances(Runtimes.discover()))
    assert isinstance(instance, LocalInstance)
    assert instance.interrupt()  # nothing runs: a later run is not hit
    np.testing.assert_array_equal(instance.run({"x": np.full((1, 4), 3, np.float32)})["y"], np.full((1, 4), 6))
    thread, errors = hang(instance, {"x": np.full((1, 4), 9e15, np.float32)})
    until(lambda: instance._running is not None, "it runs")
    instance.interrupt()
    while thread.is_alive():  # an interruption before the framework has begun is one as well; others may come first
        instance.interrupt()
        thread.join(0.05)
    assert "interrupted" in str(errors[0])
    np.testing.assert_array_equal(instance.run({"x": np.full((1, 4), 3, np.float32)})["y"], np.full((1, 4), 6))
    assert instance.inline


def test_a_run_that_holds_the_event_loop_is_ended_and_never_runs_there_again(endless, make):
    """This thread plays the event loop's."""
    instance = make(ServedModel("m", 1, endless, "onnxruntime"), Instances(Runtimes.discover()))
    assert instance.inline
    with pytest.raises(BackendFailed, match="interrupted"):
        instance.run({"x": np.full((1, 4), 9e15, np.float32)})
    assert not instance.inline
    with pytest.raises(BackendFailed, match="held the event loop"):  # its batch mates, at once
        instance.run({"x": np.full((1, 4), 3, np.float32)})
    answers = []
    thread = threading.Thread(target=lambda: answers.append(instance.run({"x": np.full((1, 4), 3, np.float32)})))
    thread.start()
    thread.join(20)
    np.testing.assert_array_equal(answers[0]["y"], np.full((1, 4), 6))


class Slow:
    """A predictor whose interruptions are counted."""

    def __init__(self) -> None:
        self.signature, self.settings = VECTOR, {}
        self.interruptions = 0
        self.during = lambda: None

    def predict(self, inputs):
        self.during()
        return inputs

    def interrupt(self):
        self.interruptions += 1
        return True

    def close(self): ...


def test_only_one_run_that_lasts_through_all_ticks_on_the_loop_counts_as_holding_it():
    slow = Slow()
    mine = threading.get_ident()
    instance = LocalInstance("m", slow, Containment.INTERRUPTIBLE, Watchdog(3600), mine)
    slow.during = instance.check
    for _ in range(3 * HELD_TICKS):  # many short runs, each met by a tick
        instance.run(vector(1))
    slow.during = lambda: [instance.check() for _ in range(HELD_TICKS - 1)]
    instance.run(vector(1))
    assert slow.interruptions == 0
    elsewhere = LocalInstance("m", slow, Containment.INTERRUPTIBLE, Watchdog(3600), mine + 1)
    slow.during = lambda: [elsewhere.check() for _ in range(3 * HELD_TICKS)]
    elsewhere.run(vector(1))
    assert slow.interruptions == 0
    assert elsewhere.inline
    slow.during = lambda: [instance.check() for _ in range(3 * HELD_TICKS)]
    instance.run(vector(1))
    assert slow.interruptions == 1
    assert not instance.inline


# --- the budget


@given(st.lists(st.floats(0, 100), max_size=60))
def test_no_window_sees_more_restarts_than_the_budget(gaps):
    budget = RestartBudget(restarts=5, window_s=600)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        delay = budget.take(now)
        if delay is None:
            assert budget.renewed_in_s(now) > 0
        else:
            taken.append(now)
    for start in taken:
        assert sum(start <= t < start + 600 for t in taken) <= 5


def test_the_first_restart_is_at_once_and_later_ones_wait_longer():
    budget = RestartBudget()
    assert [budget.take(0.0) for _ in range(6)] == [0.0, 0.5, 1.0, 2.0, 4.0, None]
    assert budget.renewed_in_s(10.0) == 590.0
    assert budget.take(600.0) == 0.0


def test_a_watchdog_that_nothing_needs_has_no_thread_and_one_broken_check_does_not_end_the_others():
    watchdog = Watchdog(0.001)
    seen = threading.Event()

    def broken() -> None:
        raise ModelyardError("broken")

    watchdog.watch(broken)
    watchdog.watch(seen.set)
    assert seen.wait(20)
    watchdog.forget(broken)
    watchdog.forget(seen.set)
    until(lambda: not any(t.name == "watchdog" and t is watchdog._thread for t in threading.enumerate()), "it ended")
