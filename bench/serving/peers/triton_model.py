"""Triton's Python backend: one instance; Triton's dynamic batcher hands over several `requests` at once."""

import numpy as np
import triton_python_backend_utils as pb_utils
from ort_model import OrtModel


class TritonPythonModel:
    def initialize(self, args):
        self.model = OrtModel()

    def execute(self, requests):
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.model.inputs}
            for request in requests
        ]
        if len(feeds) == 1:
            parts = [self.model(feeds[0])]
        elif len({tuple(a.shape[1:] for a in feed.values()) for feed in feeds}) > 1:
            parts = [self.model(feed) for feed in feeds]
        else:
            y = self.model({name: np.concatenate([feed[name] for feed in feeds]) for name in self.model.inputs})
            ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])
            parts = np.split(y, ends[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ascontiguousarray(part))]) for part in parts]
