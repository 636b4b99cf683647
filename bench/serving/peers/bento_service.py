"""BentoML: one service, one worker; adaptive batching as its documentation has it (`batchable=True`), or off."""

from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from ort_model import MAX_BATCH, OrtModel

FLOATS = Annotated[np.ndarray, DType("float32")]
TOKENS = Annotated[np.ndarray, DType("int64")]

if "ids" in OrtModel().inputs:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Bench:
        def __init__(self) -> None:
            self.model = OrtModel()

        @bentoml.api
        def predict(self, ids: TOKENS, mask: TOKENS) -> np.ndarray:
            return self.model({"ids": ids, "mask": mask})

else:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Bench:
        def __init__(self) -> None:
            self.model = OrtModel()

        @bentoml.api(batchable=MAX_BATCH > 1, max_batch_size=max(MAX_BATCH, 2), max_latency_ms=60000)
        def predict(self, x: FLOATS) -> np.ndarray:
            return self.model({"x": x})
