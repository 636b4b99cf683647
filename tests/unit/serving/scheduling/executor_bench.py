"""An executor over a function of one array, to be driven on a real loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, make_plan
from modelyard.serving.scheduling.executor import Allotment, Executor
from modelyard.serving.scheduling.work import Runnable, Work

BATCHED = Signature(
    (TensorSpec("x", Datatype.FP32, ("batch", "width")),), (TensorSpec("y", Datatype.FP32, ("batch", "width")),)
)
FIXED = Signature((TensorSpec("x", Datatype.FP32, (2, 3)),), (TensorSpec("y", Datatype.FP32, (2, 3)),))


class Answer(Work):
    __slots__ = ("future",)

    def reply(self, outputs, start, stop):
        self.future.set_result([o[start:stop] if self.plan.interface.signature.batched else o for o in outputs])
        return perf_counter()

    def fail(self, error):
        self.future.set_exception(error)


class Bench:
    """An executor and what its model was called with: `runs` keeps the shapes, `threads` the threads' names.

    With `instances`, these run instead of the function; `renew` makes another. A `dear` model is known to take that
    many seconds, so that it runs on its own thread.
    """

    def __init__(
        self,
        function=None,
        signature=BATCHED,
        batching=None,
        queue=None,
        pre=None,
        post=None,
        instances=(),
        renew=None,
        allotment=None,
        turns=None,
        dear=0.0,
    ):
        self.runs: list[tuple[int, ...]] = []
        self.threads: list[str] = []
        self.pool = ThreadPoolExecutor(2)
        self.interface = Interface("m", 1, signature)

        def predict(inputs):
            self.runs.append(inputs["x"].shape)
            self.threads.append(threading.current_thread().name)
            return {"y": function(inputs["x"])}

        model = Runnable(signature, predict, lambda: None, pre, post, tuple(instances), renew)
        self.executor = Executor(
            self.interface,
            model,
            batching or Batching(8),
            queue or QueuePolicy(),
            self.pool,
            allotment or Allotment(),
            turns,
        )
        for _ in range(50 if dear else 0):
            self.executor.cost.observe(1, dear)

    def work(self, array, timeout_us=None, priority=0):
        parameters = {"timeout": timeout_us} if timeout_us else {}
        if priority:
            parameters["priority"] = priority
        head = InferHead([InputHead("x", "FP32", list(array.shape))], parameters=parameters)
        work = Answer(make_plan(self.interface, head), (array,), asyncio.get_running_loop().time())
        work.future = asyncio.get_running_loop().create_future()
        return work

    def submit(self, array, timeout_us=None, priority=0):
        work = self.work(array, timeout_us, priority)
        self.executor.submit(work)
        return work.future

    def close(self):
        self.executor.close()
        self.pool.shutdown()


def drive(scenario):
    """Run an async scenario with a deadline."""
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def until(condition):
    """Let the loop turn until something holds; the scenario's deadline bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


def rows(n, width=4, value=1.0):
    return np.full((n, width), value, np.float32)
