"""JSON requests -> arrays and `tf.Example`s, with the checks and error texts of TensorFlow Serving.

Well-formed columns are converted whole. Anything else is walked value by value, which finds the first thing that does not
fit and says so in the original's words.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import input_pb2

from serving.embedded import rapid_json
from serving.embedded.errors import Code, ServingError, invalid
from serving.embedded.tensor_codec import MAX_DIMENSIONS, dtype_name, numpy_type

_INTEGERS = {
    types_pb2.DT_INT8: (-(2**31), 2**31),  # 8 and 16 bits: any 32-bit number is taken, and cut
    types_pb2.DT_UINT8: (-(2**31), 2**31),
    types_pb2.DT_INT16: (-(2**31), 2**31),
    types_pb2.DT_INT32: (-(2**31), 2**31),
    types_pb2.DT_INT64: (-(2**63), 2**63),
    types_pb2.DT_UINT32: (0, 2**32),
    types_pb2.DT_UINT64: (0, 2**64),
}
_FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
_FLOAT_MAX = float(np.finfo(np.float32).max)
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)")
_NO_BASE64_SPACE = str.maketrans("", "", " \t\r\n\f\v")
Inputs = Mapping[str, int]  # alias of an input -> its DataType


@dataclass(frozen=True)
class PredictBody:
    """A JSON predict request: signature name ("" where none is given), arrays by alias, and whether it was in row form."""

    signature_name: str
    inputs: dict[str, np.ndarray]
    is_row_form: bool


def parse_predict(body: bytes, inputs_of: Callable[[str], Inputs]) -> PredictBody:
    """Reads the body of `:predict`.

    Args:
        body: The document.
        inputs_of: Gives the inputs of a signature by its name; called once the document is known to be JSON.

    Raises:
        ServingError: If the document does not fit.
    """
    document, signature_name = _document(body)
    inputs = inputs_of(signature_name)
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        text = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        raise _format_error(document, text)
    if "instances" in document:
        return PredictBody(signature_name, _row_form(document, inputs), is_row_form=True)
    if "inputs" in document:
        return PredictBody(signature_name, _columnar_form(document["inputs"], inputs), is_row_form=False)
    raise invalid("Missing 'inputs' or 'instances' key")


def parse_examples(body: bytes) -> tuple[str, input_pb2.Input]:
    """Reads the body of `:classify` or `:regress`: signature name and examples."""
    document, signature_name = _document(body)
    result = input_pb2.Input()
    target = result.example_list
    if "context" in document:
        result.example_list_with_context.context.CopyFrom(_example(document["context"]))
        target = result.example_list_with_context
    if "examples" not in document:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(document["examples"], list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise _format_error(document, "'examples' value is an empty array")
    target.examples.extend(map(_example, document["examples"]))
    return valid_text(signature_name), result


def _document(body: bytes) -> tuple[dict[str, Any], str]:
    document = rapid_json.loads(body)
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise _format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return document, signature_name


def _format_error(value: Any, text: str) -> ServingError:
    return invalid(f"JSON Value: {rapid_json.dumps(value)} {text}")


# ---------------------------------------------------------------- row form


def _row_form(document: dict[str, Any], inputs: Inputs) -> dict[str, np.ndarray]:
    instances = document["instances"]
    if not isinstance(instances, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise _format_error(document, "No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns = _columns(instances, inputs)
    if columns is None:
        return _row_by_row(instances, inputs)
    arrays = {alias: _whole_array(column, inputs[alias]) for alias, column in columns.items()}
    if any(array is None for array in arrays.values()):
        return _row_by_row(instances, inputs)
    return arrays  # type: ignore[return-value]


def _columns(instances: list[Any], inputs: Inputs) -> dict[str, list[Any]] | None:
    """The values of each input, or None where the instances are not all of one form."""
    if not any(map(_is_named, instances)):
        return {next(iter(inputs)): instances}
    if all(_is_named(instance) and instance.keys() == inputs.keys() for instance in instances):
        return {alias: [instance[alias] for instance in instances] for alias in inputs}
    return None


def _is_named(value: Any) -> bool:
    """Whether an instance is an object of named inputs, rather than one value."""
    return isinstance(value, dict) and not _is_base64(value)


def _row_by_row(instances: list[Any], inputs: Inputs) -> dict[str, np.ndarray]:
    rows = _Rows(inputs)
    are_named = _is_named(instances[0])
    for number, instance in enumerate(instances):
        if _is_named(instance) != are_named:
            wanted, found = ("object", "list") if are_named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {found} at item {number} of input list")
        if are_named:
            rows.add_named(number, instance)
        else:
            rows.add(number, next(iter(inputs)), instance, key=None)
    return rows.arrays(len(instances))


class _Rows:
    """Instances taken one after the other, each of the shape of the first."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._shapes: dict[str, list[int]] = {}
        self._leaves: dict[str, list[Any]] = {}

    def add_named(self, number: int, instance: dict[str, Any]) -> None:
        for alias, item in instance.items():
            self.add(number, alias, item, key=alias)
        if instance.keys() != self._inputs.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {rapid_json.dumps(instance)} "
                f"keys must be equal to: {','.join(sorted(self._inputs))}"
            )

    def add(self, number: int, alias: str, item: Any, key: str | None) -> None:
        try:
            self._add(alias, item)
        except ServingError as error:
            where = f"{number}" if key is None else f"{number} key: {key}"
            raise invalid(f"Failed to process element: {where} of 'instances' list. Error: {error}") from error

    def _add(self, alias: str, item: Any) -> None:
        if alias not in self._inputs:
            raise invalid(f"JSON object: does not have named input: {alias}")
        shape, leaves = _shape_of(item), []
        _collect(item, 0, shape, self._inputs[alias], leaves)
        first_shape = self._shapes.setdefault(alias, shape)
        first_size = int(np.prod(first_shape))
        if first_size != len(leaves):
            raise invalid(f"Expecting tensor size: {first_size} but got: {len(leaves)}")
        if first_shape != shape:
            raise invalid(f"Expecting shape {_shape_text(first_shape)} but got: {_shape_text(shape)}")
        self._leaves.setdefault(alias, []).extend(leaves)

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        return {
            alias: _array(leaves, [count, *self._shapes[alias]], self._inputs[alias], alias)
            for alias, leaves in self._leaves.items()
        }


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# ----------------------------------------------------------- columnar form


def _columnar_form(value: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    if _is_named(value):
        return {alias: _column(value, alias, dtype) for alias, dtype in inputs.items()}
    if len(inputs) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
        )
    alias, dtype = next(iter(inputs.items()))
    return {alias: _tensor(value, dtype, alias)}


def _column(columns: dict[str, Any], alias: str, dtype: int) -> np.ndarray:
    if alias not in columns:
        raise invalid(f"Missing named input: {alias} in 'inputs' object.")
    return _tensor(columns[alias], dtype, alias)


def _tensor(value: Any, dtype: int, alias: str) -> np.ndarray:
    whole = _whole_array(value, dtype) if isinstance(value, list) else None
    if whole is not None:
        return whole
    shape: list[int] = _shape_of(value)
    leaves: list[Any] = []
    _collect(value, 0, shape, dtype, leaves)
    return _array(leaves, shape, dtype, alias)


# --------------------------------------------------------- all values at once


def _whole_array(values: list[Any], dtype: int) -> np.ndarray | None:
    """Converts a rectangular nested list of fitting values; None where it is none."""
    shape, level = [len(values)], values
    while level and set(map(type, level)) == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == MAX_DIMENSIONS:
            return None
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
    flat = _whole_leaves(level, dtype)
    return None if flat is None else flat.reshape(shape)


def _whole_leaves(leaves: list[Any], dtype: int) -> np.ndarray | None:
    kinds = set(map(type, leaves))
    if not leaves:
        return np.empty(0, numpy_type(dtype)) if numpy_type(dtype) is not None else None
    if dtype == types_pb2.DT_STRING and kinds == {str}:
        return _object_array([_encode(leaf) for leaf in leaves])
    if dtype == types_pb2.DT_BOOL and kinds == {bool}:
        return np.array(leaves, np.bool_)
    if dtype in _FLOATS and kinds <= {int, float}:
        values = np.array(leaves, np.float64)
        fits = dtype == types_pb2.DT_DOUBLE or not np.any(np.isfinite(values) & (np.abs(values) > _FLOAT_MAX))
        return values.astype(numpy_type(dtype)) if fits else None
    if dtype in _INTEGERS and kinds == {int}:
        low, high = _INTEGERS[dtype]
        return _integers(leaves, dtype) if low <= min(leaves) and max(leaves) < high else None
    return None


def _integers(leaves: list[int], dtype: int) -> np.ndarray:
    wide = np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64
    return np.array(leaves, wide).astype(numpy_type(dtype))


def _object_array(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def valid_text(text: str) -> str:
    """A text as protobuf takes it: bytes that are no UTF-8 become replacement characters."""
    return _encode(text).decode("utf-8", "replace")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# ------------------------------------------------------------ value by value


def _shape_of(value: Any) -> list[int]:
    """The shape that the first elements show."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _collect(value: Any, level: int, shape: list[int], dtype: int, leaves: list[Any]) -> None:
    """Appends the values below `value` to `leaves`, or says what does not fit `shape` or `dtype`."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {rapid_json.dumps(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _collect(item, level + 1, shape, dtype, leaves)


def _array(leaves: list[Any], shape: list[int], dtype: int, alias: str) -> np.ndarray:
    if len(shape) > MAX_DIMENSIONS or numpy_type(dtype) is None:
        raise invalid(f"tensor parsing error: {alias}")
    if dtype == types_pb2.DT_STRING:
        flat = _object_array(leaves)
    elif dtype in _INTEGERS:
        flat = _integers(leaves, dtype)
    else:
        flat = np.array(leaves, np.float64 if dtype in _FLOATS else None).astype(numpy_type(dtype))
    return flat.reshape(shape)


def _leaf(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        if dtype != types_pb2.DT_STRING:
            raise _type_error(value, dtype)
        return _decode_base64(value)
    if dtype == types_pb2.DT_STRING:
        _require(isinstance(value, str), value, dtype)
        return _encode(value)
    if dtype == types_pb2.DT_BOOL:
        _require(isinstance(value, bool), value, dtype)
        return value
    if dtype in _FLOATS:
        _require(type(value) in (int, float), value, dtype)
        return _float(value, dtype)
    if dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        _require(type(value) is int and low <= value < high, value, dtype)
        return value
    text = f"Conversion of JSON Value: {rapid_json.dumps(value)} to type: {dtype_name(dtype)}"
    raise ServingError(Code.UNIMPLEMENTED, text)


def _require(fits: bool, value: Any, dtype: int) -> None:
    if not fits:
        raise _type_error(value, dtype)


def _type_error(value: Any, dtype: int) -> ServingError:
    text = f"Type: {_json_type(value)} is not of expected type: {dtype_name(dtype)}"
    return _format_error(value, text)


def _json_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    return {dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")


def _float(value: float, dtype: int) -> float:
    number = float(value)
    if dtype == types_pb2.DT_FLOAT and np.isfinite(number) and abs(number) > _FLOAT_MAX:
        raise _lossy(value)
    return number


def _lossy(value: float) -> ServingError:
    return invalid(f"Cannot convert JSON value: {rapid_json.dumps(value)} to float without loss of precision.")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _decode_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    match = _BASE64.fullmatch(value["b64"].translate(_NO_BASE64_SPACE))
    data, padding = match.groups() if match else ("A", "")
    missing = -len(data) % 4
    if missing == 3 or len(padding) not in (0, missing):
        raise invalid("Unable to base64 decode")
    return base64.b64decode(data + "=" * missing)


# ---------------------------------------------------------------- tf.Example


def _example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_json_type(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = feature_pb2.Feature()
        for item in content if isinstance(content, list) else [content]:
            _add_to_feature(item, name, feature)
        example.features.feature[valid_text(name)].CopyFrom(feature)
    return example


def _add_to_feature(item: Any, name: str, feature: feature_pb2.Feature) -> None:
    kind, value = _feature_value(item, name)
    if feature.WhichOneof("kind") not in (None, kind):
        expected = feature.WhichOneof("kind").removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
    if kind == "bytes_list" and isinstance(item, dict):
        value = _decode_base64(item)
    if kind == "float_list":
        value = _float(item, types_pb2.DT_FLOAT)
    if kind == "int64_list" and value >= 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    getattr(feature, kind).value.append(value)


def _feature_value(item: Any, name: str) -> tuple[str, Any]:
    if isinstance(item, bool):
        return "int64_list", int(item)
    if isinstance(item, str):
        return "bytes_list", _encode(item)
    if _is_base64(item):
        return "bytes_list", b""
    if type(item) is float or (type(item) is int and not rapid_json.INT64_MIN <= item < rapid_json.UINT64_LIMIT):
        return "float_list", float(item)
    if type(item) is int:
        return "int64_list", item
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {_json_type(item)}")
