from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.embedded import rapid_json
from serving.embedded.errors import ServingError


@pytest.mark.parametrize(
    ("document", "text", "offset"),
    [
        (b"  \n ", "The document is empty.", 4),
        (b"}", "Invalid value.", 0),
        (b"[1, 2", "Missing a comma or ']' after an array element.", 5),
        (b'{"a": 1', "Missing a comma or '}' after an object member.", 7),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b"{1: 2}", "Missing a name for object member.", 1),
        (b'["abc', "Missing a closing quotation mark in string.", 5),
        (b'["a\tb"]', "Invalid escape character in string.", 3),
        (b'["\\x41"]', "Invalid escape character in string.", 2),
        (b'["\\u12"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b"[1e400]", "Number too big to be stored in double.", 1),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b"[01]", "Missing a comma or ']' after an array element.", 2),
        (b"[-]", "Invalid value.", 2),
        (b"[nul]", "Invalid value.", 4),
        (b"[Infi]", "Invalid value.", 5),
        (b"1 2", "The document root must not be followed by other values.", 2),
    ],
)
def test_errors_name_the_fault_and_the_byte(document: bytes, text: str, offset: int) -> None:
    with pytest.raises(ServingError) as caught:
        rapid_json.loads(document)
    assert caught.value.message == f"JSON Parse error: {text} at offset: {offset}"


def test_takes_what_json_does_not_allow() -> None:
    assert rapid_json.loads(b"[Inf, -Infinity, 1]\x00ignored") == [math.inf, -math.inf, 1]
    assert math.isnan(rapid_json.loads(b"-NaN"))
    assert rapid_json.loads(b"\xef\xbb\xbf[1]") == [1]
    assert rapid_json.loads(b'"\xff\xfe"').encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert rapid_json.loads(b'"\\udc00"').encode("utf-8", "surrogateescape") == b"\xed\xb0\x80"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, width=64) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_JSON, st.booleans())
def test_both_readers_agree(value: object, escape: bool) -> None:
    """The careful reader gives what the fast one gives, to the type."""
    document = json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    assert repr(rapid_json._Reader(document).document()) == repr(rapid_json.loads(document))


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_refused(document: bytes) -> None:
    try:
        text = repr(rapid_json.loads(document))
    except ServingError as error:
        text = error.message
    assert text.startswith("JSON Parse error: ") or document.strip()


@pytest.mark.parametrize("end", ["", "\\ud800\\udc00\\udc00"])  # the second is for the reader of our own
def test_of_a_name_given_twice_the_first_value_counts(end: str) -> None:
    text = '{"x": 1, "y": {"a": 2, "a": 3}, "x": 4, "z": 5, "s": "END"}'.replace("END", end)
    document = rapid_json.loads(text.encode())
    del document["s"]
    assert list(document.items()) == [("x", 1), ("y", {"a": 2}), ("z", 5)]


def test_deep_nesting_is_refused_without_harm() -> None:
    for depth in (2_000, 200_000):
        with pytest.raises(ServingError, match="Nested deeper"):
            rapid_json.loads(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0**64, "1.84467441e+19"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        ([1, 2.5, 1e21, 1e-7], "[\n    1,\n    2.5,\n    1e21,\n    1e-7\n]"),
        ({"a": {}, "b": '\x01"é'}, '{\n    "a": {},\n    "b": "\\u0001\\"é"\n}'),
        ({"a": math.nan}, '{\n    "a": '),
        (math.nan, "NaN"),
    ],
)
def test_values_in_messages(value: object, text: str) -> None:
    assert rapid_json.dumps(value) == text
