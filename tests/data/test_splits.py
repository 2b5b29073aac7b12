from __future__ import annotations

import numpy as np
import pytest

from tfrec.data.splits import split_by_time
from tfrec.errors import TfrecError


def test_the_latest_events_are_held_out() -> None:
    timestamp = np.array([10, 1, 9, 2, 8, 3, 7, 4, 6, 5])
    part = split_by_time(timestamp, np.ones(10, bool), validation_share=0.2, test_share=0.1)
    assert part.tolist() == [2, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert part.dtype == np.int8


def test_equal_times_stay_together_after_the_cut() -> None:
    timestamp = np.array([1, 2, 3, 4, 5, 5, 5, 6, 7, 8])
    part = split_by_time(timestamp, np.ones(10, bool), validation_share=0.2, test_share=0.2)
    assert part.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_shares_are_of_positive_events_and_the_others_follow_the_cuts() -> None:
    timestamp = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    positive = np.array([True, True, True, True, False, False, False, False])
    part = split_by_time(timestamp, positive, validation_share=0.25, test_share=0.25)
    assert part.tolist() == [0, 0, 1, 2, 2, 2, 2, 2]


def test_no_share_no_part() -> None:
    assert split_by_time(np.array([1, 2, 3]), np.ones(3, bool), 0.0, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("timestamp", "parts"),
    [([5] * 10, "train and validation"), ([1] * 5 + [2] * 5, "validation"), ([1], "validation and test")],
)
def test_too_few_different_times(timestamp: list[int], parts: str) -> None:
    with pytest.raises(TfrecError, match=f"no positive event for {parts}: .*`split` column"):
        split_by_time(np.array(timestamp), np.ones(len(timestamp), bool), 0.1, 0.1)
