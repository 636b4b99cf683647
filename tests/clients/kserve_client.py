"""KServe's own clients against a replica: python kserve_client.py HTTP_ADDRESS GRPC_ADDRESS; results as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

VALUES = np.array([[1.5, -2.0, 3.25, 0.0], [4.0, 5.0, 6.0, 7.0]], np.float32)


def request(*, binary: bool) -> InferRequest:
    given = InferInput("x", list(VALUES.shape), "FP32")
    given.set_data_from_numpy(VALUES, binary_data=binary)
    return InferRequest(model_name="m", infer_inputs=[given], request_id="k1")


def shown(response) -> dict:
    (output,) = response.outputs
    return {
        "model": response.model_name,
        "id": response.id,
        "shape": list(output.shape),
        "data": output.as_numpy().ravel().tolist(),
    }


async def main(http: str, rpc: str) -> dict:
    found: dict = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=10))
    base = f"http://{http}"
    found["rest_live"] = await rest.is_server_live(base)
    found["rest_ready"] = await rest.is_server_ready(base)
    found["rest_model_ready"] = await rest.is_model_ready(base, "m")
    found["rest_binary"] = shown(await rest.infer(base, request(binary=True), model_name="m"))
    found["rest_json"] = shown(await rest.infer(base, request(binary=False), model_name="m"))
    try:
        await rest.infer(base, request(binary=False), model_name="nope")
    except Exception as error:  # noqa: BLE001 - whatever the client makes of it
        found["rest_unknown"] = str(error)
    client = InferenceGRPCClient(url=rpc, timeout=10)
    found["rpc_live"] = await client.is_server_live()
    found["rpc_ready"] = await client.is_server_ready()
    found["rpc_model_ready"] = await client.is_model_ready("m")
    found["rpc_infer"] = shown(await client.infer(request(binary=True)))
    several = await asyncio.gather(*(client.infer(request(binary=True)) for _ in range(20)))
    found["rpc_concurrent"] = len({json.dumps(shown(answer)) for answer in several})
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:3]))))
