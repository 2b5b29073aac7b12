"""Strings to numbers, times and labels, a column at once.

Every function takes a string array with nulls for missing values and says which values it cannot read, so that the caller
decides what becomes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LABELS = {"0": 0, "false": 0, "0.0": 0, "1": 1, "true": 1, "1.0": 1}
_LATEST_SECONDS = 10**11  # the year 5138; a larger number counts milliseconds or finer
_LATEST_NUMBER = 9e18  # what int64 holds
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")


class Parsed(NamedTuple):
    """A column as numbers.

    Args:
        values: float64 `[rows]`, NaN where missing or bad.
        bad: bool `[rows]`: there is a value, but it cannot be read.
    """

    values: NDArray[np.float64]
    bad: NDArray[np.bool_]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Bool `[rows]`: there is no value."""
        return np.isnan(self.values) & ~self.bad


def parse_numbers(strings: pa.Array) -> Parsed:
    """Reads finite decimal numbers; NaN and infinity are bad."""
    try:
        numbers = strings.cast(pa.float64())
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(strings)
        numbers = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, None).cast(pa.float64())
    values = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    values = np.where(np.isfinite(values), values, np.nan)
    return Parsed(values, np.isnan(values) & _present(strings))


def parse_times(strings: pa.Array) -> Parsed:
    """Reads numbers and ISO 8601; a time without a zone is in UTC, a time before 1970 is bad.

    Returns:
        Whole Unix seconds, or the numbers as they stand, for `to_seconds`.
    """
    values, bad = parse_numbers(strings)
    words = np.flatnonzero(bad)
    if len(words):
        texts = strings.take(pa.array(words)).to_pandas()
        times = pd.DatetimeIndex(pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")).as_unit("s")
        values[words] = np.where(times.isna(), np.nan, times.asi8)
    values = np.where((values >= 0) & (values < _LATEST_NUMBER), np.floor(values), np.nan)
    return Parsed(values, np.isnan(values) & _present(strings))


def to_seconds(times: NDArray[np.int64]) -> tuple[NDArray[np.int64], str]:
    """Scales milli-, micro- and nanoseconds, known by their size, down to seconds; also returns the unit they were in."""
    unit = 0
    while (times > _LATEST_SECONDS).any():
        times = np.where(times > _LATEST_SECONDS, times // 1000, times)
        unit += 1
    return times, _UNITS[unit]


def parse_labels(strings: pa.Array) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Reads 0, 1, true and false.

    Returns:
        int8 `[rows]` labels, -1 where missing or bad, and bool `[rows]` bad.
    """
    labels = look_up(strings, _LABELS)
    return labels, (labels < 0) & _present(strings)


def look_up(strings: pa.Array, values: Mapping[str, int]) -> NDArray[np.int8]:
    """int8 `[rows]`: the value of each word, whatever its case, -1 where it has none."""
    words = pc.utf8_lower(pc.utf8_trim_whitespace(strings))
    found = pc.index_in(words, value_set=pa.array(list(values))).fill_null(len(values)).to_numpy(zero_copy_only=False)
    labels: NDArray[np.int8] = np.array([*values.values(), -1], np.int8)[found]
    return labels


def _present(strings: pa.Array) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = strings.is_valid().to_numpy(zero_copy_only=False)
    return present
