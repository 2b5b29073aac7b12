from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.embedded import tensor_codec
from serving.embedded.errors import ServingError

_TYPES = [tf.as_dtype(number) for number in tensor_codec._KINDS]


def _sample(dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        return np.array([[b"", b"a\xff"], [b"c", b"d"]], object)
    return np.array([[0, 1], [2, 5]]).astype(dtype.as_numpy_dtype)


@pytest.mark.parametrize("dtype", _TYPES, ids=lambda dtype: dtype.name)
def test_round_trip_agrees_with_tensorflow(dtype: tf.DType) -> None:
    array = _sample(dtype)
    encoded = tensor_codec.encode(array)
    assert encoded.dtype == dtype.as_datatype_enum
    assert not encoded.tensor_content
    np.testing.assert_array_equal(tf.make_ndarray(encoded), array)
    for proto in (encoded, tf.make_tensor_proto(array, dtype)):
        decoded = tensor_codec.decode(proto, "x")
        assert decoded.dtype == array.dtype
        np.testing.assert_array_equal(decoded, array)


def _proto(shape: list[int], dtype: int = types_pb2.DT_FLOAT, **fields: object) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def test_missing_values_repeat_the_last() -> None:
    assert tensor_codec.decode(_proto([4], float_val=[1, 2]), "x").tolist() == [1, 2, 2, 2]
    assert tensor_codec.decode(_proto([2], float_val=[1, 2, 3]), "x").tolist() == [1, 2]
    assert tensor_codec.decode(_proto([2]), "x").tolist() == [0, 0]
    assert tensor_codec.decode(_proto([2], types_pb2.DT_STRING), "x").tolist() == [b"", b""]
    assert tensor_codec.decode(_proto([1], types_pb2.DT_INT8, int_val=[300]), "x").tolist() == [44]


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(),
        _proto([-1], float_val=[1]),
        _proto([2**40], float_val=[1]),
        _proto([2**40, 2**40], types_pb2.DT_STRING),
        _proto([0, 2**62, 2**62]),
        _proto([1] * 300, float_val=[1]),
        _proto([2], tensor_content=b"\x00" * 7),
        _proto([1], types_pb2.DT_RESOURCE),
        _proto([1], types_pb2.DT_FLOAT_REF, float_val=[1]),
        _proto([1], 999),
    ],
)
def test_hostile_tensors_are_refused(proto: tensor_pb2.TensorProto) -> None:
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        tensor_codec.decode(proto, "x")
