"""Arrays -> JSON answers, byte for byte as TensorFlow Serving lays them out.

Texts are built in Latin-1, one character a byte, because a string output may hold any bytes and is written as it is.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.embedded.errors import invalid
from serving.embedded.rapid_json import number_text, quote
from serving.embedded.tensor_codec import dtype_name, dtype_number

_INDENT = "    "
_INTEGERS = ("int8", "uint8", "int16", "int32", "int64", "uint32", "uint64")
_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}


def error_body(message: str) -> bytes:
    """`{"error": message}`."""
    return f'{{\n{_INDENT}"error": {quote(message)}\n}}'.encode("utf-8", "surrogateescape")


def row_body(outputs: Mapping[str, np.ndarray]) -> bytes:
    """`{"predictions": [...]}`: one value a row where there is one output, else one object a row.

    Raises:
        ServingError: If the outputs have no common number of rows, or a type that JSON has no form for.
    """
    count = _common_rows(outputs)
    depth = 2 if len(outputs) == 1 else 3
    columns = {name: _cells(name, array, depth) for name, array in outputs.items()}
    if count == 0:
        rows = ""
    elif len(columns) == 1:
        rows = ", ".join(next(iter(columns.values()))) + f"\n{_INDENT}"
    else:
        rows = "\n" + ",\n".join(_row(columns, row) for row in range(count)) + f"\n{_INDENT}"
    return f'{{\n{_INDENT}"predictions": [{rows}]\n}}'.encode("latin-1")


def _common_rows(outputs: Mapping[str, np.ndarray]) -> int:
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    count = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count not in (-1, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}")
        count = len(array)
    return count


def _row(columns: dict[str, list[str]], row: int) -> str:
    fields = ",\n".join(f"{_INDENT * 3}{_name(name)}: {cells[row]}" for name, cells in columns.items())
    return f"{_INDENT * 2}{{\n{fields}\n{_INDENT * 2}}}"


def _cells(name: str, array: np.ndarray, depth: int) -> list[str]:
    """The text of every row, lists on one line."""
    texts = _texts(name, array, depth + array.ndim - 1)
    for axis in range(array.ndim - 1, 0, -1):
        groups = _groups(texts, array.shape, axis)
        texts = ["[" + ", ".join(group) + "]" for group in groups]
    return texts


def _groups(texts: list[str], shape: tuple[int, ...], axis: int) -> list[list[str]]:
    size = shape[axis]
    return [texts[start * size : (start + 1) * size] for start in range(math.prod(shape[:axis]))]


def columnar_body(outputs: Mapping[str, np.ndarray]) -> bytes:
    """`{"outputs": ...}`: a value where there is one output, else an object; lists with one value a line."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if len(outputs) == 1:
        text = _pretty(*next(iter(outputs.items())), depth=1)
    else:
        fields = ",\n".join(f"{_INDENT * 2}{_name(name)}: {_pretty(name, a, depth=2)}" for name, a in outputs.items())
        text = f"{{\n{fields}\n{_INDENT}}}"
    return f'{{\n{_INDENT}"outputs": {text}\n}}'.encode("latin-1")


def _pretty(name: str, array: np.ndarray, depth: int) -> str:
    texts = _texts(name, array, depth + array.ndim)
    for axis in range(array.ndim - 1, -1, -1):
        inner, outer = "\n" + _INDENT * (depth + axis + 1), "\n" + _INDENT * (depth + axis)
        groups = _groups(texts, array.shape, axis)
        texts = ["[" + inner + ("," + inner).join(group) + outer + "]" if group else "[]" for group in groups]
    return texts[0]


def _name(name: str) -> str:
    return quote(name.encode("utf-8", "surrogateescape").decode("latin-1"))


def _texts(name: str, array: np.ndarray, depth: int) -> list[str]:
    """The values of an array in order; `depth` is how many brackets are open around each."""
    flat = array.reshape(-1)
    dtype = dtype_number(array)
    if dtype == types_pb2.DT_STRING:
        return [_base64(value, depth) if name.endswith("_bytes") else _string(value) for value in flat]
    if dtype == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in flat.tolist()]
    if array.dtype in _DIGITS:
        return float_texts(flat)
    if array.dtype.name in _INTEGERS or not flat.size:
        return list(map(str, flat.tolist()))
    raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")


def _string(value: bytes) -> str:
    return quote(value.decode("latin-1"))


def _base64(value: bytes, depth: int) -> str:
    text = base64.b64encode(value).decode("ascii")
    return f'{{\n{_INDENT * (depth + 1)}"b64": "{text}"\n{_INDENT * depth}}}'


def float_texts(values: np.ndarray) -> list[str]:
    """Numbers with six digits where these are exact, else with all that their width needs."""
    numbers = values.tolist()
    texts = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):
        exact = np.array(list(map(float, texts)), np.float64).astype(values.dtype) == values
    for position in np.flatnonzero(~exact):
        texts[position] = f"{numbers[position]:.{_DIGITS[values.dtype]}g}"
    return list(map(number_text, texts))


def classify_body(result: classification_pb2.ClassificationResult) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`."""
    rows = ", ".join(map(_classes, result.classifications))
    return f'{{\n{_INDENT}"results": [{rows}\n{_INDENT}]\n}}'.encode("latin-1")


def _classes(classifications: classification_pb2.Classifications) -> str:
    scores = float_texts(np.array([item.score for item in classifications.classes], np.float32))
    pairs = zip(classifications.classes, scores, strict=True)
    return "[" + ", ".join(f"[{_name(item.label)}, {score}]" for item, score in pairs) + "]"


def regress_body(result: regression_pb2.RegressionResult) -> bytes:
    """`{"results": [value, ...]}`."""
    values = float_texts(np.array([item.value for item in result.regressions], np.float32))
    return f'{{\n{_INDENT}"results": [{", ".join(values)}]\n}}'.encode("latin-1")
