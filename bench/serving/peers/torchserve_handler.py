"""TorchServe: a custom handler; it gets a list of requests, one or a batch."""

import os
import sys

sys.path.insert(0, os.environ["BENCH_PEERS"])
from ort_model import OrtModel


class Bench:
    def initialize(self, context):
        self.model = OrtModel()
        self.initialized = True

    def handle(self, data, context):
        bodies = [row.get("body") or row.get("data") for row in data]
        if len({str([len(v[0]) for v in body.values()]) for body in bodies}) > 1:
            return [{"y": self.model(self.model.arrays(body)).tolist()} for body in bodies]
        return [{"y": [row]} for row in self.model.stacked(bodies).tolist()]
