from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2

from serving.embedded import json_input, json_output
from serving.embedded.errors import ServingError

FLOAT, STRING, INT64, INT8 = types_pb2.DT_FLOAT, types_pb2.DT_STRING, types_pb2.DT_INT64, types_pb2.DT_INT8


def parse(document: object, **inputs: int) -> dict[str, np.ndarray]:
    return json_input.parse_predict(json.dumps(document).encode(), lambda _: inputs).inputs


def refused(document: object, **inputs: int) -> str:
    with pytest.raises(ServingError) as caught:
        parse(document, **inputs)
    return caught.value.message


def test_row_form_stacks_the_rows() -> None:
    arrays = parse({"instances": [{"a": [1, 2], "b": "x"}, {"b": {"b64": "/w=="}, "a": [3, 4.5]}]}, a=FLOAT, b=STRING)
    np.testing.assert_array_equal(arrays["a"], np.array([[1, 2], [3, 4.5]], np.float32))
    assert arrays["a"].dtype == np.float32
    assert arrays["b"].tolist() == [b"x", b"\xff"]


def test_columnar_form_takes_values_as_they_are() -> None:
    arrays = parse({"inputs": {"a": 3, "b": [[], []], "more": "ignored"}}, a=INT64, b=FLOAT)
    assert arrays["a"].shape == ()
    assert arrays["a"] == 3
    assert arrays["b"].shape == (2, 0)


def test_small_integers_are_cut_like_the_original_does() -> None:
    assert parse({"instances": [300, 128, -129]}, x=INT8)["x"].tolist() == [44, -128, 127]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"instances": [1, [2]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
        ),
        (
            {"instances": [[1, 2], [3]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1",
        ),
        (
            {"instances": [{"x": 1, "y": 2}]},
            "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: y",
        ),
        ({"instances": [1, {"x": 1}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": 1}, 1]}, "Expecting object but got list at item 1 of input list"),
        ({"inputs": [[1, 2], [3]]}, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"inputs": [1, [2]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": [True]}, "JSON Value: true Type: True is not of expected type: float"),
        ({"inputs": 1e39}, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        ({}, "Missing 'inputs' or 'instances' key"),
    ],
)
def test_what_does_not_fit_is_named(document: object, message: str) -> None:
    assert refused(document, x=FLOAT) == message


@pytest.mark.parametrize("text", ["YQ=", "-_-_", "a!b@", "aGVsb", "YQ==="])
def test_bad_base64(text: str) -> None:
    assert refused({"inputs": [{"b64": text}]}, x=STRING) == "Unable to base64 decode"


_LEAVES = st.integers(-5, 2**40) | st.floats(width=32) | st.booleans() | st.text(max_size=2) | st.none()
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(st.lists(_VALUES, min_size=1, max_size=4), st.sampled_from([FLOAT, INT64, STRING, types_pb2.DT_BOOL]))
def test_whole_columns_and_single_rows_give_the_same(instances: list[Any], dtype: int) -> None:
    """The fast path may only differ in speed."""
    slow = _outcome(lambda: json_input._row_by_row(instances, {"x": dtype}))
    fast = _outcome(lambda: parse({"instances": instances}, x=dtype))
    assert slow == fast


def _outcome(read: Callable[[], dict[str, np.ndarray]]) -> object:
    try:
        array = read()["x"]
    except ServingError as error:
        return error.message
    return array.dtype, array.shape, array.tolist()


def test_examples_with_context() -> None:
    document = {"context": {"y": 1.5}, "examples": [{"x": [1, 2], "t": "a", "b": {"b64": "/w=="}, "f": True}]}
    _, examples = json_input.parse_examples(json.dumps(document).encode())
    parsed = examples.example_list_with_context
    features = parsed.examples[0].features.feature
    assert parsed.context.features.feature["y"].float_list.value == [1.5]
    assert features["x"].int64_list.value == [1, 2]
    assert [features[name].bytes_list.value[0] for name in "tb"] == [b"a", b"\xff"]
    assert features["f"].int64_list.value == [1]


def test_rows_out() -> None:
    body = json_output.row_body({"score": np.array([[0.1, 1 / 3]], np.float32), "id": np.array([b"a\n"], object)})
    assert body.decode() == (
        '{\n    "predictions": [\n        {\n            "score": [0.1, 0.333333343],\n            "id": "a\\n"\n'
        "        }\n    ]\n}"
    )
    assert json_output.row_body({"y": np.array([2.5, 3], np.float32)}) == b'{\n    "predictions": [2.5, 3.0\n    ]\n}'


def test_columns_out() -> None:
    body = json_output.columnar_body({"image_bytes": np.array([b"\xff"], object)})
    assert body == b'{\n    "outputs": [\n        {\n            "b64": "/w=="\n        }\n    ]\n}'
    assert (
        json_output.columnar_body({"y": np.zeros([2, 0])}) == b'{\n    "outputs": [\n        [],\n        []\n    ]\n}'
    )


def test_types_without_a_json_form() -> None:
    with pytest.raises(ServingError, match="Failed to write JSON value for tensor type: half"):
        json_output.row_body({"y": np.zeros(2, np.float16)})
    with pytest.raises(ServingError, match="has inconsistent batch size: 3 expecting: 2"):
        json_output.row_body({"a": np.zeros(2), "b": np.zeros(3)})


@given(st.lists(st.floats(width=32, allow_subnormal=False)))
def test_floats_read_back_as_they_were(values: list[float]) -> None:
    array = np.array(values, np.float32)
    texts = json_output.float_texts(array)
    np.testing.assert_array_equal(np.array([float(text) for text in texts], np.float32), array)
    assert all("." in text or "e" in text or text.endswith(("NaN", "Infinity")) for text in texts)


def test_names_that_are_no_utf8_do_not_break() -> None:
    body = b'{"signature_name": "\xff", "examples": [{"\xfe": 1}]}'
    signature_name, examples = json_input.parse_examples(body)
    assert signature_name == "\ufffd"
    assert list(examples.example_list.examples[0].features.feature) == ["\ufffd"]
