from __future__ import annotations

import numpy as np
import pyarrow as pa

from tfrec.data.parse import parse_labels, parse_numbers, parse_times, to_seconds


def test_numbers() -> None:
    numbers = parse_numbers(pa.array(["1", " 2.5 ", "-3e2", None, "x", "nan", "inf", "1_0"]))
    np.testing.assert_array_equal(numbers.values, [1, 2.5, -300, np.nan, np.nan, np.nan, np.nan, np.nan])
    assert numbers.bad.tolist() == [False] * 4 + [True] * 4
    assert numbers.missing.tolist() == [False] * 3 + [True] + [False] * 4


def test_nan_alone_is_bad_though_arrow_reads_it() -> None:
    assert parse_numbers(pa.array(["1", "nan"])).bad.tolist() == [False, True]


def test_times_of_all_spellings_meet() -> None:
    times = parse_times(
        pa.array(
            [
                "1704103200",
                "1704103200.9",
                "2024-01-01T10:00:00",
                "2024-01-01 10:00:00Z",
                "2024-01-01T12:00:00+02:00",
                "2024-01-01T10:00:00.750",
            ]
        )
    )
    assert times.values.tolist() == [1704103200] * 6
    assert not times.bad.any()


def test_bad_times() -> None:
    times = parse_times(pa.array(["2024-02-31", "yesterday", "-5", "1969-12-31", "1e300", None, "2024-01-01"]))
    assert times.bad.tolist() == [True, True, True, True, True, False, False]
    assert times.missing.tolist() == [False, False, False, False, False, True, False]
    assert times.values[-1] == 1704067200


def test_finer_units_are_known_by_their_size() -> None:
    for factor, unit in ((1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")):
        seconds, found = to_seconds(np.array([0, 1_704_103_200 * factor + factor // 2]))
        assert seconds.tolist() == [0, 1_704_103_200]
        assert found == unit


def test_labels() -> None:
    labels, bad = parse_labels(pa.array(["0", "1", "TRUE", "False", " 1.0", None, "2", "nan", "yes"]))
    assert labels.tolist() == [0, 1, 1, 0, 1, -1, -1, -1, -1]
    assert bad.tolist() == [False] * 6 + [True] * 3
