"""The messages of TensorFlow Serving's gRPC interface that the client uses, so that it need not import TensorFlow.

Names and numbers of fields are those of `tensorflow_serving/apis` and `tensorflow/core/framework`; enumerations are read as
integers, which is the same on the wire.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import message_factory
from numpy.typing import NDArray

from serving.protobuf import INT64_VALUE, Field, field, make_pool, map_entry, message, message_field

_PACKAGE = "serving.remote"
_INT32, _INT64, _TEXT, _BYTES = Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_STRING, Field.TYPE_BYTES


def _type(name: str) -> str:
    return f".{_PACKAGE}.{name}"


_TENSORS = map_entry("TensorsEntry", message_field("value", 2, _type("Tensor")))
_POOL = make_pool(
    "serving/remote/wire.proto",
    _PACKAGE,
    [
        message("Dimension", [field("size", 1, _INT64)]),
        message("Shape", [message_field("dim", 2, _type("Dimension"), repeated=True)]),
        message(
            "Tensor",
            [
                field("dtype", 1, _INT32),
                message_field("tensor_shape", 2, _type("Shape")),
                field("tensor_content", 4, _BYTES),
                field("float_val", 5, Field.TYPE_FLOAT, repeated=True),
                field("int_val", 7, _INT32, repeated=True),
                field("string_val", 8, _BYTES, repeated=True),
                field("int64_val", 10, _INT64, repeated=True),
                field("bool_val", 11, Field.TYPE_BOOL, repeated=True),
            ],
        ),
        message(
            "ModelSpec",
            [
                field("name", 1, _TEXT),
                message_field("version", 2, INT64_VALUE),
                field("signature_name", 3, _TEXT),
                field("version_label", 4, _TEXT),
            ],
        ),
        message(
            "PredictRequest",
            [
                message_field("model_spec", 1, _type("ModelSpec")),
                message_field("tensors", 2, _type("PredictRequest.TensorsEntry"), repeated=True),
            ],
            [_TENSORS],
        ),
        message(
            "PredictResponse",
            [message_field("tensors", 1, _type("PredictResponse.TensorsEntry"), repeated=True)],
            [_TENSORS],
        ),
        message("StatusRequest", [message_field("model_spec", 1, _type("ModelSpec"))]),
        message("Status", [field("error_code", 1, _INT32), field("error_message", 2, _TEXT)]),
        message(
            "VersionStatus",
            [field("version", 1, _INT64), field("state", 2, _INT32), message_field("status", 3, _type("Status"))],
        ),
        message("StatusResponse", [message_field("versions", 1, _type("VersionStatus"), repeated=True)]),
    ],
)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


PredictRequest, PredictResponse = _class("PredictRequest"), _class("PredictResponse")
StatusRequest, StatusResponse = _class("StatusRequest"), _class("StatusResponse")

STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

# NumPy type -> (DataType, field with the values)
_KINDS = {
    np.dtype(np.float32): (1, "float_val"),
    np.dtype(np.int32): (3, "int_val"),
    np.dtype(np.object_): (7, "string_val"),
    np.dtype(np.int64): (9, "int64_val"),
    np.dtype(np.bool_): (10, "bool_val"),
}
_BY_NUMBER = {number: (kind, name) for kind, (number, name) in _KINDS.items()}


def write_tensor(target: Any, array: NDArray[Any]) -> None:
    """Fills a `Tensor` message; an object array holds str or bytes."""
    target.dtype, name = _KINDS[array.dtype]
    target.tensor_shape.SetInParent()
    for size in array.shape:
        target.tensor_shape.dim.add(size=size)
    values = array.ravel().tolist()
    if array.dtype == object:
        values = [value.encode() if isinstance(value, str) else value for value in values]
    getattr(target, name).extend(values)


def read_tensor(source: Any) -> NDArray[Any]:
    """The array of a `Tensor` message; strings come as an object array of bytes.

    Raises:
        ValueError: If the message is no tensor, or one of a type that no signature of ours answers.
    """
    if source.dtype not in _BY_NUMBER:
        raise ValueError(f"a tensor of type number {source.dtype}, which this client does not read")
    kind, name = _BY_NUMBER[source.dtype]
    given = getattr(source, name)
    values = np.frombuffer(source.tensor_content, kind) if source.tensor_content else np.array(list(given), kind)
    return values.reshape([dimension.size for dimension in source.tensor_shape.dim])
