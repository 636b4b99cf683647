"""FastAPI as most tutorials write it: pydantic in, a plain `def` endpoint (FastAPI's thread pool), a dict out."""

import numpy as np
import uvicorn
from fastapi import FastAPI
from ort_model import NAME, PORT, OrtModel
from pydantic import BaseModel

model = OrtModel()
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[int]


class Request(BaseModel):
    inputs: list[Tensor]


@app.post(f"/v2/models/{NAME}/infer")
def infer(request: Request):
    feed = {t.name: np.asarray(t.data, model.inputs[t.name][1]).reshape(t.shape) for t in request.inputs}
    y = model(feed)
    output = {"name": "y", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
    return {"model_name": NAME, "model_version": "1", "outputs": [output]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
