"""TensorProto <-> NumPy, with the meaning that TensorFlow's own reader gives to the fields."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.embedded.errors import ServingError, invalid

MAX_DIMENSIONS = 32  # NumPy's limit; TensorFlow's own is 254
_MAX_FILLED_BYTES = 256 << 20  # a short message may ask for a huge tensor that repeats one value

# DataType -> (NumPy type, field with the values, NumPy type of the values in that field)
_KINDS: dict[int, tuple[Any, str, Any]] = {
    types_pb2.DT_FLOAT: (np.float32, "float_val", np.float32),
    types_pb2.DT_DOUBLE: (np.float64, "double_val", np.float64),
    types_pb2.DT_INT32: (np.int32, "int_val", np.int32),
    types_pb2.DT_UINT8: (np.uint8, "int_val", np.int32),
    types_pb2.DT_INT16: (np.int16, "int_val", np.int32),
    types_pb2.DT_INT8: (np.int8, "int_val", np.int32),
    types_pb2.DT_UINT16: (np.uint16, "int_val", np.int32),
    types_pb2.DT_STRING: (np.object_, "string_val", np.object_),
    types_pb2.DT_COMPLEX64: (np.complex64, "scomplex_val", np.float32),
    types_pb2.DT_COMPLEX128: (np.complex128, "dcomplex_val", np.float64),
    types_pb2.DT_INT64: (np.int64, "int64_val", np.int64),
    types_pb2.DT_BOOL: (np.bool_, "bool_val", np.bool_),
    types_pb2.DT_HALF: (np.float16, "half_val", np.uint16),
    types_pb2.DT_BFLOAT16: (ml_dtypes.bfloat16, "half_val", np.uint16),
    types_pb2.DT_UINT32: (np.uint32, "uint32_val", np.uint32),
    types_pb2.DT_UINT64: (np.uint64, "uint64_val", np.uint64),
}
_NUMBERS = {np.dtype(kind): number for number, (kind, _, _) in _KINDS.items()}
# The names that TensorFlow prints for types in messages, where they are not the enum's in lower case.
_NAMES = {types_pb2.DT_HALF: "half"}


def numpy_type(dtype: int) -> Any:
    """The NumPy type of a DataType, or None for one that no request can carry."""
    return np.dtype(_KINDS[dtype][0]) if dtype in _KINDS else None


def dtype_number(array: np.ndarray) -> int:
    """The DataType of an array."""
    return _NUMBERS[array.dtype]


def dtype_name(dtype: int) -> str:
    """The name that TensorFlow prints, for instance `float` or `int64`."""
    return _NAMES.get(dtype) or types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def decode(proto: tensor_pb2.TensorProto, alias: str) -> np.ndarray:
    """Reads a tensor.

    Args:
        proto: The message; values that are missing at the end repeat the last one, surplus values are dropped.
        alias: The name for the error text.

    Raises:
        ServingError: If the message holds no tensor that a request may carry.
    """
    shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
    bad_shape = proto.tensor_shape.unknown_rank or len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape)
    if proto.dtype not in _KINDS or bad_shape:
        raise _unreadable(alias)
    try:
        return _values(proto, math.prod(shape)).reshape(shape)
    except ValueError as error:
        raise _unreadable(alias) from error


def _unreadable(alias: str) -> ServingError:
    return invalid(f"tensor parsing error: {alias}")


def _values(proto: tensor_pb2.TensorProto, count: int) -> np.ndarray:
    kind, field, wire_type = _KINDS[proto.dtype]
    if proto.tensor_content and kind is not np.object_:
        values = np.frombuffer(proto.tensor_content, dtype=kind)
        if values.size != count:
            raise ValueError("`tensor_content` does not fit the shape")
        return values
    given = getattr(proto, field)
    width = 2 if np.dtype(kind).kind == "c" else 1
    values = np.array(given[: count * width], dtype=wire_type)
    if wire_type is not np.object_ and values.dtype != np.dtype(kind):
        values = values.view(kind) if wire_type is np.uint16 or width == 2 else values.astype(kind)
    return values if values.size == count else _fill(values, count)


def _fill(values: np.ndarray, count: int) -> np.ndarray:
    if count * max(values.itemsize, 8) > _MAX_FILLED_BYTES:
        raise ValueError("too large for the values given")
    last = values[-1] if values.size else b"" if values.dtype == np.object_ else values.dtype.type(0)
    filled = np.full(count, last, dtype=values.dtype)
    filled[: values.size] = values
    return filled


def encode(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Writes a tensor with its values in the typed field, as the original answers."""
    dtype = dtype_number(array)
    kind, field, wire_type = _KINDS[dtype]
    proto = tensor_pb2.TensorProto(dtype=dtype)
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    flat = array.reshape(-1)
    if np.dtype(kind).kind == "c" or wire_type is np.uint16:
        flat = flat.view(wire_type)
    getattr(proto, field).extend(flat.tolist())
    return proto
