"""Writes tf_serving.json: messages as TensorFlow Serving's own stubs and TensorFlow serialise them.

Run once, in an environment of its own, when a message is added (the product and its tests need none of it):

    python -m venv tf && tf/bin/pip install tensorflow-cpu && tf/bin/pip install --no-deps tensorflow-serving-api
    tf/bin/python tests/golden/tf_serving.py
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.any_pb2 import Any
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

TYPES = {
    "BOOL": tf.bool, "UINT8": tf.uint8, "UINT16": tf.uint16, "UINT32": tf.uint32, "UINT64": tf.uint64, "INT8": tf.int8,
    "INT16": tf.int16, "INT32": tf.int32, "INT64": tf.int64, "FP16": tf.half, "FP32": tf.float32, "FP64": tf.float64,
    "BF16": tf.bfloat16, "BYTES": tf.string,
}  # fmt: skip
VALUES = {"BOOL": [[True, False], [False, True]], "BYTES": [[b"a", b""], [b"\xff\x00", b"longer"]]}
FIELDS = {
    "BOOL": "bool_val", "UINT8": "int_val", "UINT16": "int_val", "UINT32": "uint32_val", "UINT64": "uint64_val",
    "INT8": "int_val", "INT16": "int_val", "INT32": "int_val", "INT64": "int64_val", "FP16": "half_val",
    "FP32": "float_val", "FP64": "double_val", "BF16": "half_val", "BYTES": "string_val",
}  # fmt: skip


def values(datatype: str) -> list:
    if datatype in VALUES:
        return VALUES[datatype]
    if TYPES[datatype].is_floating:
        return [[1.5, -2.0], [0.25, 3.0]]
    dtype = TYPES[datatype].as_numpy_dtype
    return [[int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)], [0, 7]]


def typed(datatype: str, array: np.ndarray) -> tf.core.framework.tensor_pb2.TensorProto:
    """The same tensor in its typed field, as TensorFlow Serving answers."""
    proto = tf.make_tensor_proto(array, TYPES[datatype])
    content = tf.make_ndarray(proto)
    proto.ClearField("tensor_content")
    proto.ClearField(FIELDS[datatype])
    flat = content.view(np.uint16).ravel().tolist() if datatype in ("FP16", "BF16") else content.ravel().tolist()
    getattr(proto, FIELDS[datatype]).extend(flat)
    return proto


def packed(message) -> str:
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()


def examples(request, rows):
    for row in rows:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.extend(row)
    request.model_spec.name = "m"
    return request


golden: dict[str, dict] = {"predict": {}, "tensor": {}}
for datatype, kind in TYPES.items():
    array = np.array(values(datatype), object if datatype == "BYTES" else kind.as_numpy_dtype)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = f"echo-{datatype.lower()}"
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(array, kind))
    golden["predict"][datatype] = packed(request)
    golden["tensor"][datatype] = packed(typed(datatype, array))

request = predict_pb2.PredictRequest()
request.model_spec.name = "m"
request.model_spec.version.value = 3
request.output_filter.append("y")
request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.full((2, 4), 0.5, np.float32)))
golden["predict_version"] = packed(request)
request.model_spec.version_label = "stable"
golden["predict_label"] = packed(request)
golden["predict_splat"] = packed(
    predict_pb2.PredictRequest(
        inputs={"x": tf.make_tensor_proto(np.full((2, 4), 0.5, np.float32).tolist(), tf.float32, (2, 4))}
    )
)
golden["classify"] = packed(examples(classification_pb2.ClassificationRequest(), [[1, 2, 3, 4], [5, 6, 7, 8]]))
golden["regress"] = packed(examples(regression_pb2.RegressionRequest(), [[1], [2]]))

multi = inference_pb2.MultiInferenceRequest()
for method in ("tensorflow/serving/classify", "tensorflow/serving/classify"):
    task = multi.tasks.add(method_name=method)
    task.model_spec.name = "m"
multi.input.example_list_with_context.context.features.feature["x"].float_list.value.extend([1, 2, 3, 4])
multi.input.example_list_with_context.examples.add()
golden["multi"] = packed(multi)

metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
metadata.model_spec.name = "m"
golden["metadata"] = packed(metadata)
signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
for side, name in ((signature.inputs, "x"), (signature.outputs, "y")):
    side[name].name, side[name].dtype = name, 1
    side[name].tensor_shape.dim.add(size=-1)
    side[name].tensor_shape.dim.add(size=4)
signatures = get_model_metadata_pb2.SignatureDefMap()
signatures.signature_def["serving_default"].CopyFrom(signature)
answer = get_model_metadata_pb2.GetModelMetadataResponse()
answer.model_spec.name = "m"
answer.model_spec.version.value = 1
wrapped = Any()
wrapped.Pack(signatures, deterministic=True)
answer.metadata["signature_def"].CopyFrom(wrapped)
golden["metadata_answer"] = packed(answer)

status = get_model_status_pb2.GetModelStatusRequest()
status.model_spec.name = "m"
golden["status"] = packed(status)
state = get_model_status_pb2.GetModelStatusResponse()
state.model_version_status.add(version=1, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE).status.error_code = 0
golden["status_answer"] = packed(state)

reload = model_management_pb2.ReloadConfigRequest()
config = reload.config.model_config_list.config.add(name="m", base_path="", model_platform="tensorflow")
config.model_version_policy.specific.versions.extend([1, 3])
config.version_labels["stable"] = 1
config.version_labels["next"] = 3
golden["reload"] = packed(reload)

Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
