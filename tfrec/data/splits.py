"""Which events train, validate and test.

A dataset that brings a `split` column is split so. Otherwise two cut times divide the whole log: the future of no user
helps to predict another's past. The labels of a part are the users' events after its cut, everything before the cut may
serve as their history. Events at the very time of a cut come after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfrec.data.schema import Part
from tfrec.errors import TfrecError

PART_NAMES = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "validation": Part.VALIDATION,
    "valid": Part.VALIDATION,
    "val": Part.VALIDATION,
    "dev": Part.VALIDATION,
    "test": Part.TEST,
}
"""Values of a `split` column."""


def split_by_time(
    timestamp: NDArray[np.int64], positive: NDArray[np.bool_], validation_share: float, test_share: float
) -> NDArray[np.int8]:
    """Splits a log by global time.

    Args:
        timestamp: int64 `[num_events]` Unix seconds.
        positive: bool `[num_events]`: the events that the shares are taken of; the others fall on their side of the cuts.
        validation_share: share of the positive events before the test part, in [0, 1).
        test_share: latest share of the positive events, in [0, 1).

    Returns:
        int8 `[num_events]` of `Part`.

    Raises:
        TfrecError: If a part that was asked for would be empty, for instance because all times are equal.
    """
    times = np.sort(timestamp[positive])
    test_cut = _cut(times, test_share)
    validation_cut = _cut(times, test_share + validation_share)
    part = np.select([timestamp >= test_cut, timestamp >= validation_cut], [Part.TEST, Part.VALIDATION], Part.TRAIN)
    shares = {
        Part.TRAIN: 1 - validation_share - test_share,
        Part.VALIDATION: validation_share,
        Part.TEST: test_share,
    }
    empty = [name.name.lower() for name, share in shares.items() if share > 0 and not (positive & (part == name)).any()]
    if empty:
        raise TfrecError(
            f"A split by time leaves no positive event for {' and '.join(empty)}: {positive.sum():,} positive events at "
            f"{len(np.unique(times)):,} different times. Check `timestamp`, change --data.validation_share and "
            f"--data.test_share, or add a `split` column (train, validation, test)."
        )
    return part.astype(np.int8)


def _cut(times: NDArray[np.int64], share: float) -> float:
    """The time from which on the latest `share` of the ascending `times` lie."""
    count = round(share * len(times))
    return float(times[len(times) - count]) if count else np.inf
