"""The service a team writes in an afternoon: FastAPI and eager PyTorch. The baseline of the benches.

    python bench/baselines/naive_fastapi.py --port 8100 --factory net.py:build --weights weights.safetensors

It answers POST /v2/models/{name}/infer, JSON or binary, for a model with one FP32 input, so that the same load client
drives it and Modelyard with the same bytes. It is given every kindness that costs the author nothing: eval mode,
inference_mode, zero-copy input, the event loop left free (a plain `def` endpoint runs in FastAPI's thread pool).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from safetensors.torch import load_file


def load(factory: str, weights: str) -> torch.nn.Module:
    """Build the module `path.py:function` and load its state dict."""
    path, _, function = factory.rpartition(":")
    spec = importlib.util.spec_from_file_location("naive_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, function)()
    model.load_state_dict(load_file(weights))
    return model.eval()


def build_app(model: torch.nn.Module) -> FastAPI:
    """The whole service."""
    app = FastAPI()

    def predict(array: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(array)).numpy()

    @app.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(name: str, request: Request) -> dict[str, object]:
        body = await request.body()
        header = int(request.headers.get("inference-header-content-length", len(body)))
        tensor = json.loads(body[:header])["inputs"][0]
        if header < len(body):
            array = np.frombuffer(bytearray(body[header:]), np.float32).reshape(tensor["shape"])
        else:
            array = np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])
        out = await run_in_threadpool(predict, array)
        output = {"name": "output", "datatype": "FP32", "shape": list(out.shape), "data": out.ravel().tolist()}
        return {"model_name": name, "outputs": [output]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factory", required=True, help="path.py:function that builds the module")
    parser.add_argument("--weights", required=True, type=Path, help="its state dict (.safetensors)")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    app = build_app(load(args.factory, str(args.weights)))
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
