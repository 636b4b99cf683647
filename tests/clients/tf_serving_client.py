"""TF Serving's own stubs with TensorFlow's tensors against a replica: python tf_serving_client.py GRPC_ADDRESS."""

from __future__ import annotations

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def main(address: str) -> dict:
    channel = grpc.insecure_channel(address)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    found: dict = {}
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    values = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
    answer = stub.Predict(request, timeout=10)
    found["predict"] = tf.make_ndarray(answer.outputs["y"]).tolist()
    found["version"] = answer.model_spec.version.value
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "m"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(metadata, timeout=10).metadata["signature_def"].Unpack(signatures)
    found["inputs"] = list(signatures.signature_def["serving_default"].inputs)
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "m"
    states = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=10).model_version_status
    found["states"] = [get_model_status_pb2.ModelVersionStatus.State.Name(s.state) for s in states]
    request.model_spec.name = "nope"
    try:
        stub.Predict(request, timeout=10)
    except grpc.RpcError as error:
        found["unknown"] = [error.code().name, error.details()]
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
