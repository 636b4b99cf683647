"""TF Serving's protobuf messages, built here in a pool of our own.

Names and field numbers are the protocol; the packages that ship these messages pull in TensorFlow. The pool is private,
so that a process that also imports TensorFlow, whose messages register in the default pool, does not clash.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

_SCALARS: Final = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM, _OPTIONAL, _REPEATED = 11, 14, 1, 3
_TF, _TFS = "tensorflow", "tensorflow.serving"

# One line per message: `field=number:type`, `*` before the type: repeated, `{type}`: a map from strings,
# `field@choice`: a member of a oneof.
_MESSAGES: Final = {
    _TF: {
        "TensorShapeProto.Dim": "size=1:int64 name=2:string",
        "TensorShapeProto": "dim=2:*tensorflow.TensorShapeProto.Dim unknown_rank=3:bool",
        "TensorProto": (
            "dtype=1:tensorflow.DataType tensor_shape=2:tensorflow.TensorShapeProto version_number=3:int32"
            " tensor_content=4:bytes half_val=13:*int32 float_val=5:*float double_val=6:*double int_val=7:*int32"
            " string_val=8:*bytes int64_val=10:*int64 bool_val=11:*bool uint32_val=16:*uint32 uint64_val=17:*uint64"
        ),
        "BytesList": "value=1:*bytes",
        "FloatList": "value=1:*float",
        "Int64List": "value=1:*int64",
        "Feature": (
            "bytes_list@kind=1:tensorflow.BytesList float_list@kind=2:tensorflow.FloatList"
            " int64_list@kind=3:tensorflow.Int64List"
        ),
        "Features": "feature=1:{tensorflow.Feature}",
        "Example": "features=1:tensorflow.Features",
        "TensorInfo": ("name@encoding=1:string dtype=2:tensorflow.DataType tensor_shape=3:tensorflow.TensorShapeProto"),
        "SignatureDef": ("inputs=1:{tensorflow.TensorInfo} outputs=2:{tensorflow.TensorInfo} method_name=3:string"),
    },
    _TFS: {
        "ModelSpec": (
            "name=1:string version@version_choice=2:google.protobuf.Int64Value version_label@version_choice=4:string"
            " signature_name=3:string"
        ),
        "PredictRequest": (
            "model_spec=1:tensorflow.serving.ModelSpec inputs=2:{tensorflow.TensorProto} output_filter=3:*string"
        ),
        "PredictResponse": "model_spec=2:tensorflow.serving.ModelSpec outputs=1:{tensorflow.TensorProto}",
        "ExampleList": "examples=1:*tensorflow.Example",
        "ExampleListWithContext": "examples=1:*tensorflow.Example context=2:tensorflow.Example",
        "Input": (
            "example_list@kind=1:tensorflow.serving.ExampleList"
            " example_list_with_context@kind=2:tensorflow.serving.ExampleListWithContext"
        ),
        "Class": "label=1:string score=2:float",
        "Classifications": "classes=1:*tensorflow.serving.Class",
        "ClassificationResult": "classifications=1:*tensorflow.serving.Classifications",
        "ClassificationRequest": "model_spec=1:tensorflow.serving.ModelSpec input=2:tensorflow.serving.Input",
        "ClassificationResponse": (
            "model_spec=2:tensorflow.serving.ModelSpec result=1:tensorflow.serving.ClassificationResult"
        ),
        "Regression": "value=1:float",
        "RegressionResult": "regressions=1:*tensorflow.serving.Regression",
        "RegressionRequest": "model_spec=1:tensorflow.serving.ModelSpec input=2:tensorflow.serving.Input",
        "RegressionResponse": "model_spec=2:tensorflow.serving.ModelSpec result=1:tensorflow.serving.RegressionResult",
        "InferenceTask": "model_spec=1:tensorflow.serving.ModelSpec method_name=2:string",
        "InferenceResult": (
            "model_spec=1:tensorflow.serving.ModelSpec"
            " classification_result@result=2:tensorflow.serving.ClassificationResult"
            " regression_result@result=3:tensorflow.serving.RegressionResult"
        ),
        "MultiInferenceRequest": "tasks=1:*tensorflow.serving.InferenceTask input=2:tensorflow.serving.Input",
        "MultiInferenceResponse": "results=1:*tensorflow.serving.InferenceResult",
        "SignatureDefMap": "signature_def=1:{tensorflow.SignatureDef}",
        "GetModelMetadataRequest": "model_spec=1:tensorflow.serving.ModelSpec metadata_field=2:*string",
        "GetModelMetadataResponse": "model_spec=1:tensorflow.serving.ModelSpec metadata=2:{google.protobuf.Any}",
        "StatusProto": "error_code=1:tensorflow.error.Code error_message=2:string",
        "GetModelStatusRequest": "model_spec=1:tensorflow.serving.ModelSpec",
        "ModelVersionStatus": (
            "version=1:int64 state=2:tensorflow.serving.ModelVersionStatus.State"
            " status=3:tensorflow.serving.StatusProto"
        ),
        "GetModelStatusResponse": "model_version_status=1:*tensorflow.serving.ModelVersionStatus",
        "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest": "num_versions=1:uint32",
        "FileSystemStoragePathSourceConfig.ServableVersionPolicy.All": "",
        "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific": "versions=1:*int64",
        "FileSystemStoragePathSourceConfig.ServableVersionPolicy": (
            "latest@policy_choice=100:tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest"
            " all@policy_choice=101:tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.All"
            " specific@policy_choice=102:"
            "tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific"
        ),
        "FileSystemStoragePathSourceConfig": "",
        "ModelConfig": (
            "name=1:string base_path=2:string model_type=3:int32 model_platform=4:string"
            " model_version_policy=7:tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy"
            " version_labels=8:{int64}"
        ),
        "ModelConfigList": "config=1:*tensorflow.serving.ModelConfig",
        "ModelServerConfig": (
            "model_config_list@config=1:tensorflow.serving.ModelConfigList"
            " custom_model_config@config=2:google.protobuf.Any"
        ),
        "ReloadConfigRequest": "config=1:tensorflow.serving.ModelServerConfig",
        "ReloadConfigResponse": "status=1:tensorflow.serving.StatusProto",
    },
}
_ENUMS: Final = {
    "tensorflow.DataType": {
        "DT_INVALID": 0, "DT_FLOAT": 1, "DT_DOUBLE": 2, "DT_INT32": 3, "DT_UINT8": 4, "DT_INT16": 5, "DT_INT8": 6,
        "DT_STRING": 7, "DT_COMPLEX64": 8, "DT_INT64": 9, "DT_BOOL": 10, "DT_QINT8": 11, "DT_QUINT8": 12,
        "DT_QINT32": 13, "DT_BFLOAT16": 14, "DT_QINT16": 15, "DT_QUINT16": 16, "DT_UINT16": 17, "DT_COMPLEX128": 18,
        "DT_HALF": 19, "DT_RESOURCE": 20, "DT_VARIANT": 21, "DT_UINT32": 22, "DT_UINT64": 23,
    },
    "tensorflow.error.Code": {
        "OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
        "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10,
        "OUT_OF_RANGE": 11, "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15,
        "UNAUTHENTICATED": 16,
    },
    "tensorflow.serving.ModelVersionStatus.State": {
        "UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50,
    },
}  # fmt: skip


def _add_field(message: Any, text: str, enums: frozenset[str]) -> None:
    """Add the field that a word of the table describes."""
    left, _, kind = text.partition(":")
    name, _, number = left.partition("=")
    name, _, choice = name.partition("@")
    field = message.field.add(name=name, number=int(number), label=_REPEATED if kind[0] in "*{" else _OPTIONAL)
    if choice:
        known = [oneof.name for oneof in message.oneof_decl]
        if choice not in known:
            message.oneof_decl.add(name=choice)
            known.append(choice)
        field.oneof_index = known.index(choice)
    if kind.startswith("{"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_SCALARS["string"], label=_OPTIONAL)
        _set_type(entry.field.add(name="value", number=2, label=_OPTIONAL), kind.strip("{}"), enums)
        field.type, field.type_name = _MESSAGE, f".{message.name}.{entry.name}"
    else:
        _set_type(field, kind.lstrip("*"), enums)


def _set_type(field: Any, kind: str, enums: frozenset[str]) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = (_ENUM if kind in enums else _MESSAGE), f".{kind}"


def _build() -> Any:
    """The pool with all messages."""
    pool = descriptor_pool.DescriptorPool()
    for module in (wrappers_pb2, any_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    codes = descriptor_pb2.FileDescriptorProto(
        name="modelyard/tf_error.proto", package="tensorflow.error", syntax="proto3"
    )
    _add_enum(codes, "Code", _ENUMS["tensorflow.error.Code"])
    pool.Add(codes)
    before = ["google/protobuf/wrappers.proto", "google/protobuf/any.proto", codes.name]
    for package, messages in _MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"modelyard/{package}.proto", package=package, syntax="proto3", dependency=before
        )
        made: dict[str, Any] = {}
        for full in sorted(messages, key=lambda name: name.count(".")):
            outer, _, name = full.rpartition(".")
            made[full] = (made[outer].nested_type if outer else file.message_type).add(name=name)
        for full, fields in messages.items():
            for text in fields.split():
                _add_field(made[full], text, frozenset(_ENUMS))
            _qualify(made[full], f".{package}.{full}")
        for full, values in _ENUMS.items():
            owner, _, name = full.removeprefix(f"{package}.").rpartition(".")
            if full.startswith(f"{package}.") and (owner in made or not owner):
                _add_enum(made[owner] if owner else file, name, values)
        pool.Add(file)
        before = [*before, file.name]
    return pool


def _qualify(message: Any, full: str) -> None:
    """Map entries are nested in their message: give them its full name."""
    for field in message.field:
        if field.type_name.startswith(f".{message.name}."):
            field.type_name = full + field.type_name.removeprefix(f".{message.name}")


def _add_enum(owner: Any, name: str, values: dict[str, int]) -> None:
    enum = owner.enum_type.add(name=name)
    for value, number in values.items():
        enum.value.add(name=value, number=number)


_pool: Final = _build()


def _of(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


DATA_TYPES: Final = _ENUMS["tensorflow.DataType"]
ERROR_CODES: Final = _ENUMS["tensorflow.error.Code"]
STATES: Final = _ENUMS["tensorflow.serving.ModelVersionStatus.State"]

TensorProto: Final = _of("tensorflow.TensorProto")
Example: Final = _of("tensorflow.Example")
SignatureDef: Final = _of("tensorflow.SignatureDef")
ModelSpec: Final = _of("tensorflow.serving.ModelSpec")
PredictRequest: Final = _of("tensorflow.serving.PredictRequest")
PredictResponse: Final = _of("tensorflow.serving.PredictResponse")
Input: Final = _of("tensorflow.serving.Input")
ClassificationRequest: Final = _of("tensorflow.serving.ClassificationRequest")
ClassificationResponse: Final = _of("tensorflow.serving.ClassificationResponse")
ClassificationResult: Final = _of("tensorflow.serving.ClassificationResult")
RegressionRequest: Final = _of("tensorflow.serving.RegressionRequest")
RegressionResponse: Final = _of("tensorflow.serving.RegressionResponse")
RegressionResult: Final = _of("tensorflow.serving.RegressionResult")
MultiInferenceRequest: Final = _of("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse: Final = _of("tensorflow.serving.MultiInferenceResponse")
SignatureDefMap: Final = _of("tensorflow.serving.SignatureDefMap")
GetModelMetadataRequest: Final = _of("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse: Final = _of("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest: Final = _of("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse: Final = _of("tensorflow.serving.GetModelStatusResponse")
ReloadConfigRequest: Final = _of("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse: Final = _of("tensorflow.serving.ReloadConfigResponse")
