"""A request as it arrives, strings and all, and what the models take of it. Everything here is a part of the exported graph.

A video is *known* where the catalogue has its id. An id that is not known, and the padding "", have row -1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import Query, days_between

QUERY_SPECS = (
    tf.TensorSpec([None], tf.string, "user_id"),
    tf.TensorSpec([None, None], tf.string, "history"),
    tf.TensorSpec([None, None], tf.int64, "history_timestamp"),
    tf.TensorSpec([None], tf.int64, "timestamp"),
    tf.TensorSpec([None, None], tf.string, "exclude"),
    tf.TensorSpec([None], tf.int32, "k"),
)
"""Inputs of every signature that a user asks."""


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


class Forbidden(NamedTuple):
    """Videos that may not be shown.

    Args:
        rows: int32 `[B, F]` row numbers, ascending; -1 is always among them.
        count: int32 scalar, the most of them that are known in one request.
    """

    rows: tf.Tensor
    count: tf.Tensor

    def has(self, videos: tf.Tensor) -> tf.Tensor:
        """Bool `[B, C]` for int32 `[B, C]` row numbers: forbidden, or no video at all."""
        # A value is in a sorted row if the places before and behind it differ; this never builds [B, C, F].
        before = tf.raw_ops.LowerBound(sorted_inputs=self.rows, values=videos)
        return before < tf.raw_ops.UpperBound(sorted_inputs=self.rows, values=videos)


class Request(NamedTuple):
    """What is made of a `RawRequest`.

    Args:
        query: for the towers; `T` is as small as the batch allows.
        forbidden: what the user has watched or excludes.
        k: int32 `[B]` as it came.
    """

    query: Query
    forbidden: Forbidden
    k: tf.Tensor


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
    """

    def __init__(self, user_ids: NDArray[np.object_], videos: VideoIds, history_length: int, log_end: int) -> None:
        self.users = row_table(user_ids)
        self._videos = videos
        self._history_length = history_length
        self._log_end = log_end

    def parse(self, raw: RawRequest) -> Request:
        """Reads a batch of requests."""
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
        return Request(query, _forbidden(tf.concat([watched, self._videos.rows(raw.exclude)], axis=1)), raw.k)

    def _now(self, timestamp: tf.Tensor, event_time: tf.Tensor) -> tf.Tensor:
        """int64 `[B]`: the time of the request; where it is unknown, of the latest event, or of the end of the log."""
        if not self._log_end:
            return tf.zeros_like(timestamp)
        latest = tf.reduce_max(event_time, axis=1)
        return tf.where(timestamp > 0, timestamp, tf.where(latest > 0, latest, self._log_end))


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


def _forbidden(rows: tf.Tensor) -> Forbidden:
    count = tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1)
    return Forbidden(tf.sort(rows, axis=1), tf.maximum(tf.reduce_max(count), 0))
