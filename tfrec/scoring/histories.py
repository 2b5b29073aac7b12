"""The inputs of a signature for some records: what a client would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tfrec.data.schema import Dataset, Part
from tfrec.scoring.records import Records

if TYPE_CHECKING:
    from tfrec.export.log_requests import Inputs


class Histories:
    """What users of a dataset have watched: all positive events of its log, oldest first.

    Args:
        dataset: without one, no user has a history.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._users: Mapping[str, int] = {}
        if dataset is not None:
            from tfrec.data.input_pipeline import HistoryLog  # loads TensorFlow

            log = HistoryLog.of(dataset.interactions, tuple(Part), length=0)
            self._users = {user: row for row, user in enumerate(dataset.users.ids)}
            self._video_ids = dataset.videos.ids
            self._video, self._timestamp = log.video.numpy(), log.timestamp.numpy()
            self._offsets = log.offsets.numpy()

    def of(self, user_id: str) -> tuple[Sequence[str], Sequence[int]]:
        """Ids of the videos and Unix seconds of the events of a user; empty where the user is unknown."""
        row = self._users.get(user_id)
        if row is None:
            return (), ()
        events = slice(self._offsets[row], self._offsets[row + 1])
        return self._video_ids[self._video[events]], self._timestamp[events]


def query_inputs(records: Records, histories: Histories, k: int) -> Inputs:
    """The inputs of `QUERY_SPECS`, padded to the longest history and exclusion among the records.

    Args:
        records: with `user_id`; a history that they give goes before one of the log.
        histories: of the log.
        k: slots wanted.
    """
    columns, count = records.columns, len(records)
    none = np.full(count, None, object)
    pairs = [
        histories.of(user) if events is None else (events, times or ())
        for user, events, times in zip(
            columns["user_id"], columns.get("history", none), columns.get("history_timestamp", none), strict=True
        )
    ]
    width = max((len(events) for events, _ in pairs), default=0)
    exclude = [excluded or () for excluded in columns.get("exclude", none)]
    return {
        "user_id": columns["user_id"],
        "history": _padded([events for events, _ in pairs], width, "", object),
        "history_timestamp": _padded([times for _, times in pairs], width, 0, np.int64),
        "timestamp": columns.get("timestamp", np.zeros(count, np.int64)),
        "exclude": _padded(exclude, max(map(len, exclude), default=0), "", object),
        "k": np.full(count, k, np.int32),
    }


def _padded(lists: Sequence[Sequence[Any]], width: int, filling: Any, kind: Any) -> NDArray[Any]:
    """`[len(lists), width]`, at least one wide, filled up at the end."""
    values = np.full((len(lists), max(width, 1)), filling, kind)
    for row, items in enumerate(lists):
        values[row, : len(items)] = items
    return values
