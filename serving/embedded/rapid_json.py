r"""JSON as TensorFlow Serving's parser (RapidJSON, with NaN and infinity allowed) reads and prints it.

Well-formed documents go through Python's own scanner. What that refuses, or reads differently, goes through `_Reader`, which
knows RapidJSON's error texts and byte offsets. Bytes that are no UTF-8 become lone surrogates (`surrogateescape`), so that a
string encodes back to the bytes that came in.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from decimal import Decimal
from typing import Any

import numpy as np

from serving.embedded.errors import ServingError, invalid

UINT64_LIMIT, INT64_MIN = 2**64, -(2**63)
_MAX_DEPTH = 400  # the reader and the printer recurse
_MAX_PRINTED = 1 << 20
_FLOAT_MAX = float(np.finfo(np.float32).max)
_WHITESPACE = b" \t\r\n"
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPES = {b'"': '"', b"\\": "\\", b"/": "/", b"b": "\b", b"f": "\f", b"n": "\n", b"r": "\r", b"t": "\t"}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
# What Python's scanner takes and RapidJSON does not, or reads otherwise: exponents and digits that overflow, lone surrogates.
# Apart, each is many times as fast as both in one expression.
_SUSPECT_NUMBERS = (re.compile(rb"[eE](?<=[0-9.][eE])\+?[0-9]{3}"), re.compile(rb"[0-9]{300}"))
_SUSPECT_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


def loads(body: bytes) -> Any:
    """Parses a document.

    Raises:
        ServingError: With RapidJSON's words and byte offset.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    is_suspect = any(suspect.search(body) for suspect in _SUSPECT_NUMBERS)
    if not is_suspect and not (b"\\u" in body and _SUSPECT_ESCAPE.search(body)):
        try:
            return json.loads(body.decode("utf-8"), object_pairs_hook=_members)
        except RecursionError:
            raise invalid(f"JSON Parse error: Nested deeper than {_MAX_DEPTH} levels") from None
        except ValueError:
            pass
    return _Reader(body).document()


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a name given twice the first value counts, which is the one that RapidJSON finds."""
    members = dict(pairs)
    if len(members) < len(pairs):
        members.update(reversed(pairs))  # keeps the order of the names
    return members


class _Reader:
    """Recursive descent over the bytes; a NUL byte ends the document like its end does."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 3 if data.startswith(b"\xef\xbb\xbf") else 0

    def document(self) -> Any:
        self._skip_whitespace()
        if not self._peek():
            raise self._error("The document is empty.")
        value = self._value(0)
        self._skip_whitespace()
        if self._peek():
            raise self._error("The document root must not be followed by other values.")
        return value

    def _error(self, text: str, at: int | None = None) -> ServingError:
        return invalid(f"JSON Parse error: {text} at offset: {self._at if at is None else at}")

    def _peek(self) -> bytes:
        """The next byte, empty at the end."""
        return self._data[self._at : self._at + 1].replace(b"\x00", b"")

    def _take(self, expected: bytes) -> bool:
        if self._peek() != expected:
            return False
        self._at += 1
        return True

    def _skip_whitespace(self) -> None:
        while self._at < len(self._data) and self._data[self._at] in _WHITESPACE:
            self._at += 1

    def _value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error(f"Nested deeper than {_MAX_DEPTH} levels")
        first = self._peek()
        if first == b"{":
            return self._object(depth)
        if first == b"[":
            return self._array(depth)
        if first == b'"':
            return self._string()
        literals = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
        return self._literal(*literals[first]) if first in literals else self._number()

    def _literal(self, word: bytes, value: bool | None) -> bool | None:
        for position in range(len(word)):
            if not self._take(word[position : position + 1]):
                raise self._error("Invalid value.")
        return value

    def _object(self, depth: int) -> dict[str, Any]:
        self._at += 1
        members: dict[str, Any] = {}
        self._skip_whitespace()
        if self._take(b"}"):
            return members
        while True:
            if self._peek() != b'"':
                raise self._error("Missing a name for object member.")
            name = self._string()
            self._skip_whitespace()
            if not self._take(b":"):
                raise self._error("Missing a colon after a name of object member.")
            self._skip_whitespace()
            members.setdefault(name, self._value(depth + 1))
            self._skip_whitespace()
            if self._take(b"}"):
                return members
            if not self._take(b","):
                raise self._error("Missing a comma or '}' after an object member.")
            self._skip_whitespace()

    def _array(self, depth: int) -> list[Any]:
        self._at += 1
        values: list[Any] = []
        self._skip_whitespace()
        if self._take(b"]"):
            return values
        while True:
            values.append(self._value(depth + 1))
            self._skip_whitespace()
            if self._take(b"]"):
                return values
            if not self._take(b","):
                raise self._error("Missing a comma or ']' after an array element.")
            self._skip_whitespace()

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        while True:
            plain = _PLAIN.match(self._data, self._at)
            assert plain is not None  # it matches nothing, too
            parts.append(plain.group().decode("utf-8", "surrogateescape"))
            self._at = plain.end()
            if self._take(b'"'):
                return "".join(parts)
            if self._peek() == b"\\":
                parts.append(self._escape())
            elif not self._peek():
                raise self._error("Missing a closing quotation mark in string.")
            else:
                raise self._error("Invalid escape character in string.")

    def _escape(self) -> str:
        start = self._at
        self._at += 1
        letter = self._peek()
        self._at += 1
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter != b"u":
            raise self._error("Invalid escape character in string.", start)
        point = self._hex4(start)
        if 0xD800 <= point <= 0xDBFF:
            low = self._hex4(start) if self._take(b"\\") and self._take(b"u") else 0
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.", start)
            point = ((point - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
        # A lone low surrogate is written as the three bytes that UTF-8 would have for it.
        return chr(point).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")

    def _hex4(self, start: int) -> int:
        digits = _HEX4.match(self._data, self._at)
        if digits is None:
            raise self._error("Incorrect hex digit after \\u escape in string.", start)
        self._at = digits.end()
        return int(digits.group(), 16)

    def _number(self) -> int | float:
        start = self._at
        match = _NUMBER.match(self._data, start)
        if match is None:
            return self._not_finite()
        self._at = match.end()
        _, fraction, exponent = match.groups()
        if fraction is None and exponent is None and self._take(b"."):
            raise self._error("Miss fraction part in number.")
        if exponent is None and self._peek() in (b"e", b"E"):
            self._at += 1
            if self._peek() in (b"+", b"-"):
                self._at += 1
            raise self._error("Miss exponent in number.")
        return self._finite(match.group(), start, is_integer=fraction is None and exponent is None)

    def _finite(self, text: bytes, start: int, is_integer: bool) -> int | float:
        if is_integer and len(text) <= 20:
            number = int(text)
            if INT64_MIN <= number < UINT64_LIMIT:
                return number
        value = float(text)
        if math.isinf(value):
            raise self._error("Number too big to be stored in double.", start)
        return value

    def _not_finite(self) -> float:
        negative = self._take(b"-")
        if self._peek() == b"N":
            self._literal(b"NaN", None)
            return math.nan
        if self._peek() != b"I":
            raise self._error("Invalid value.")
        self._literal(b"Inf", None)
        if self._peek() == b"i":
            self._literal(b"inity", None)
        return -math.inf if negative else math.inf


class _StopPrintingError(Exception):
    """Printing ends here: at a NaN inside a container, as in the original, or where the text gets too long."""


def dumps(value: Any) -> str:
    """The text of a value in error messages: four spaces of indent, and cut at the first NaN inside a container."""
    if _is_double(value):
        return float_text(float(value))
    out: list[str] = []
    with contextlib.suppress(_StopPrintingError):
        _print(value, 0, out)
    return "".join(out)


def _is_double(value: Any) -> bool:
    is_wide = type(value) is int and not INT64_MIN <= value < UINT64_LIMIT
    return is_wide or type(value) is float


def float_text(value: float) -> str:
    """A number that stands alone: six digits if they are exact, else as many as its width needs."""
    narrow = np.float32(value) if abs(value) <= _FLOAT_MAX else None
    text = f"{value:.6g}"
    if narrow is not None and np.float32(text) != narrow:
        text = f"{float(narrow):.9g}"
    elif narrow is None and float(text) != value:
        text = f"{value:.17g}"
    return number_text(text)


def number_text(text: str) -> str:
    """Adds `.0` to whole numbers; spells out NaN and infinity."""
    if text[-1] in "nf":
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
    return text if "." in text or "e" in text else text + ".0"


def _print(value: Any, depth: int, out: list[str]) -> None:
    if len(out) > _MAX_PRINTED:
        raise _StopPrintingError
    if isinstance(value, dict):
        _print_items([(quote(name) + ": ", item) for name, item in value.items()], "{}", depth, out)
    elif isinstance(value, list):
        _print_items([("", item) for item in value], "[]", depth, out)
    elif isinstance(value, str):
        out.append(quote(value))
    elif _is_double(value):
        if not math.isfinite(value):
            raise _StopPrintingError
        out.append(_shortest(float(value)))
    else:
        out.append(json.dumps(value))


def _print_items(items: list[tuple[str, Any]], brackets: str, depth: int, out: list[str]) -> None:
    out.append(brackets[0])
    for number, (name, item) in enumerate(items):
        out.append((",\n" if number else "\n") + "    " * (depth + 1) + name)
        _print(item, depth + 1, out)
    out.append(("\n" + "    " * depth if items else "") + brackets[1])


def _shortest(value: float) -> str:
    """The fewest digits that read back as `value`, laid out as RapidJSON does."""
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, prefix = "".join(map(str, digit_tuple)), "-" if sign else ""
    assert isinstance(exponent, int)
    point = len(digits) + exponent
    if digits == "0":
        return prefix + "0.0"
    if exponent >= 0 and point <= 21:
        return prefix + digits + "0" * exponent + ".0"
    if 0 < point <= 21:
        return f"{prefix}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{prefix}0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{prefix}{mantissa}e{point - 1}"


_QUOTED = {code: f"\\u{code:04X}" for code in range(32)}
_QUOTED |= {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", ord('"'): '\\"', ord("\\"): "\\\\"}


def quote(text: str) -> str:
    """A JSON string: control characters, quotes and backslashes escaped, the rest as it is."""
    return f'"{text.translate(_QUOTED)}"'
