"""A request as it arrives, strings and all, and what the models take of it. Everything here is a part of the exported graph.

A video is *known* where the catalogue has its id. An id that is not known, and the padding "", have row -1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import Query, days_between
from tfrec.export.candidates import AllowList
from tfrec.export.filters import Filters

QUERY_SPECS = (
    tf.TensorSpec([None], tf.string, "user_id"),
    tf.TensorSpec([None, None], tf.string, "history"),
    tf.TensorSpec([None, None], tf.int64, "history_timestamp"),
    tf.TensorSpec([None], tf.int64, "timestamp"),
    tf.TensorSpec([None, None], tf.string, "exclude"),
    tf.TensorSpec([None], tf.int32, "k"),
)
"""Inputs of every signature that a user asks."""

FILTER_SPECS = (
    tf.TensorSpec([None, None], tf.string, "allow"),
    tf.TensorSpec([None, None], tf.string, "block"),
    tf.TensorSpec([None], tf.float32, "min_safety"),
)
"""More inputs of the signatures that end in `_filtered`."""

CHOICE_SPECS = (
    tf.TensorSpec([None, 4], tf.float32, "weights"),
    tf.TensorSpec([None], tf.float32, "diversity"),
)
"""More inputs of `recommend_filtered`."""


class RawRequest(NamedTuple):
    """The tensors of `QUERY_SPECS`; `B` requests, `T` events and `E` exclusions at most.

    Args:
        user_id: string `[B]`.
        history: string `[B, T]` video ids, oldest first, padded with "" anywhere.
        history_timestamp: int64 `[B, T]` Unix seconds, 0 where unknown.
        timestamp: int64 `[B]` Unix seconds of the request, 0 where unknown.
        exclude: string `[B, E]` video ids, padded with "".
        k: int32 `[B]` slots wanted.
    """

    user_id: tf.Tensor
    history: tf.Tensor
    history_timestamp: tf.Tensor
    timestamp: tf.Tensor
    exclude: tf.Tensor
    k: tf.Tensor


class RawFilters(NamedTuple):
    """The tensors of `FILTER_SPECS`; `A` videos allowed and `X` blocked at most.

    Args:
        allow: string `[B, A]` the only video ids to be shown, padded with ""; nothing but "" allows everything.
        block: string `[B, X]` video ids, padded with "".
        min_safety: float32 `[B]`; the exported threshold where it is negative. Nothing is safer than 1, or than no number (NaN).
    """

    allow: tf.Tensor
    block: tf.Tensor
    min_safety: tf.Tensor


class Request(NamedTuple):
    """What is made of a `RawRequest`.

    Args:
        query: for the towers; `T` is as small as the batch allows.
        filters: what the user has watched or excludes, and the safety asked for.
        k: int32 `[B]` as it came.
        allow: lists, where the signature has them.
    """

    query: Query
    filters: Filters
    k: tf.Tensor
    allow: AllowList | None


class VideoIds:
    """The catalogue's ids as strings and as row numbers.

    Args:
        ids: object (str) `[num_videos]`.
    """

    def __init__(self, ids: NDArray[np.object_]) -> None:
        self.table = row_table(ids)
        # A variable, since constants would make the graph as large as the catalogue; "" stands in front for row -1.
        self._ids = tf.Variable(tf.constant(["", *ids]), trainable=False, name="video_ids")

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 row numbers of string ids, any shape; -1 for what is not known."""
        return self.table.lookup(ids)

    def strings(self, rows: tf.Tensor) -> tf.Tensor:
        """String ids of int32 row numbers, any shape; "" for -1."""
        return tf.gather(self._ids, rows + 1)


def row_table(ids: NDArray[np.object_]) -> tf.lookup.StaticHashTable:
    """Row numbers by id, -1 for an id that is not there."""
    rows = tf.range(len(ids), dtype=tf.int32)
    keys = tf.constant(list(ids), tf.string, [len(ids)])
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, rows), -1)


class RequestParser:
    """Strings to row numbers, timestamps to ages.

    Args:
        user_ids: object (str) `[num_users]`.
        videos: the catalogue's ids.
        history_length: most recent known events used.
        log_end: Unix seconds of the last event in the log; 0 where the log has no times: then those of requests do not count.
        min_safety: threshold where a request has none.
    """

    def __init__(
        self,
        user_ids: NDArray[np.object_],
        videos: VideoIds,
        history_length: int,
        log_end: int,
        min_safety: float = 0.0,
    ) -> None:
        self.users = row_table(user_ids)
        self._videos = videos
        self._history_length = history_length
        self._log_end = log_end
        self._min_safety = min_safety

    def parse(self, raw: RawRequest, filters: RawFilters | None = None) -> Request:
        """Reads a batch of requests, without `filters` those of the export."""
        raw = _with_as_many_rows(raw, filters)
        tf.debugging.assert_equal(
            tf.shape(raw.history),
            tf.shape(raw.history_timestamp),
            "`history_timestamp` must have the shape of `history`.",
        )
        # One column more than came, so that there is a first one.
        watched = self._videos.rows(tf.pad(raw.history, [[0, 0], [0, 1]]))
        timestamp = tf.pad(raw.history_timestamp, [[0, 0], [0, 1]])
        columns, present = _latest(watched, self._history_length)
        history = tf.where(present, tf.gather(watched, columns, batch_dims=1), -1)
        event_time = tf.where(present, tf.gather(timestamp, columns, batch_dims=1), 0)
        now = self._now(raw.timestamp, event_time)
        query = Query(
            user=self.users.lookup(raw.user_id),
            timestamp=now,
            history=history,
            history_kind=tf.cast(present, tf.int32),  # requests carry no kinds: a watched video counts as clicked
            history_age=tf.where(event_time > 0, days_between(event_time, now[:, None]), 0.0),
        )
        if filters is None:
            forbidden, allow = tf.concat([watched, self._videos.rows(raw.exclude)], axis=1), None
            min_safety = tf.fill(tf.shape(raw.k), self._min_safety)
        else:
            forbidden = tf.concat([watched, *map(self._videos.rows, (raw.exclude, filters.block))], axis=1)
            allow = self._allow_list(filters.allow)
            min_safety = self._threshold(filters.min_safety)
        return Request(query, Filters(tf.sort(forbidden, axis=1), min_safety), raw.k, allow)

    def _threshold(self, asked: tf.Tensor) -> tf.Tensor:
        # A comparison with NaN is never true, so that it would hide nothing: what is not understood shows nothing instead.
        return tf.where(asked < 0, self._min_safety, tf.where(tf.math.is_nan(asked), np.inf, asked))

    def _allow_list(self, ids: tf.Tensor) -> AllowList:
        # One column more than came, so that there is a first one; a video that stands twice counts once.
        rows = tf.sort(self._videos.rows(tf.pad(ids, [[0, 0], [0, 1]])), axis=1)
        repeated = tf.pad(rows[:, 1:] == rows[:, :-1], [[0, 0], [1, 0]])
        return AllowList(tf.where(repeated, -1, rows), tf.reduce_any(ids != "", axis=1))

    def _now(self, timestamp: tf.Tensor, event_time: tf.Tensor) -> tf.Tensor:
        """int64 `[B]`: the time of the request; where it is unknown, of the latest event, or of the end of the log."""
        if not self._log_end:
            return tf.zeros_like(timestamp)
        latest = tf.reduce_max(event_time, axis=1)
        return tf.where(timestamp > 0, timestamp, tf.where(latest > 0, latest, self._log_end))


def _with_as_many_rows(raw: RawRequest, filters: RawFilters | None) -> RawRequest:
    """`raw`, which is not read before it is certain that all inputs have its number of requests.

    Batching servers join only requests of which this is true, so the error ends no others.
    """
    inputs = raw._asdict() | (filters._asdict() if filters else {})
    rows = tf.stack([tf.shape(tensor)[0] for tensor in inputs.values()])
    expected = f"Inputs must have one row for each request: {', '.join(inputs)}."
    with tf.control_dependencies([tf.debugging.assert_equal(rows, rows[0], expected, summarize=len(inputs))]):
        return RawRequest(*map(tf.identity, raw))


def _latest(rows: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the last `length` known videos of each row stand.

    Args:
        rows: int32 `[B, T]` row numbers, -1 anywhere; `T` is at least 1.
        length: most videos taken.

    Returns:
        int32 `[B, W]` columns, ascending, and bool `[B, W]`, False for the padding at the end. `W` is at least 1.
    """
    known = rows >= 0
    remaining = tf.cumsum(tf.cast(known, tf.int32), axis=1, reverse=True)
    num_columns = tf.shape(rows)[1]
    # The largest of the falling numbers are the first columns, in order; what is not taken has 0 and comes last.
    falling = tf.range(num_columns, 0, -1)
    width = tf.clip_by_value(tf.reduce_max(remaining), 1, length)  # the maximum over an empty batch is below 1
    first = tf.math.top_k(tf.where(known & (remaining <= length), falling, 0), width)
    return first.indices, first.values > 0


def or_default(values: tf.Tensor, default: float | list[float]) -> tf.Tensor:
    """What was asked for, and the default where that is negative or no number."""
    return tf.where(values >= 0, values, default)
