"""Ray Serve: one replica, `@serve.batch` with no wait, or no batching."""

import os
import signal
import tempfile
import threading
from pathlib import Path

import ray
from ort_model import MAX_BATCH, PORT, OrtModel
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Bench:
    def __init__(self) -> None:
        self.model = OrtModel()

    @serve.batch(max_batch_size=max(MAX_BATCH, 1), batch_wait_timeout_s=0)
    async def many(self, requests):
        return [{"y": row.tolist()} for row in self.model.stacked(requests)]

    async def __call__(self, request):
        fields = await request.json()
        if MAX_BATCH > 1:
            return await self.many(fields)
        return {"y": self.model(self.model.arrays(fields)).tolist()}


if __name__ == "__main__":
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    here = str(Path(__file__).resolve().parent)
    names = [name for name in os.environ if name.startswith("BENCH_")]
    ray.init(
        address="local",
        _temp_dir=tempfile.gettempdir(),
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {**{n: os.environ[n] for n in names}, "PYTHONPATH": here}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Bench.bind(), route_prefix="/predict")
    stop.wait()
    serve.shutdown()
    ray.shutdown()
