"""From columnar interactions to `tf.data` batches.

A batch is a pure function of the step number: which events it holds (a pseudo-random permutation per epoch, computed, not
stored), their histories (gathered from the log by position) and the negatives (drawn by a counter-based generator). So a
stream is deterministic by seed, starts again at any step, needs no memory beyond the log itself and runs without Python.

The *history* of an event is what its user watched before it, oldest first. A log without times has no before: there the
history is the rest of what the user watched (leave one out).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.schema import Interactions, Part
from tfrec.errors import TfrecError

SECONDS_PER_DAY = 86_400.0


class Query(NamedTuple):
    """What the query tower sees of a request, `B` requests at once.

    Args:
        user: int32 `[B]` row numbers, -1 unknown.
        history: int32 `[B, T]` row numbers of watched videos, oldest first, -1 padding at the end.
        history_kind: int32 `[B, T]` bits of `LABELS`, 0 for padding.
        history_age: float32 `[B, T]` days from the event to the request, 0 where times are unknown.
    """

    user: tf.Tensor
    history: tf.Tensor
    history_kind: tf.Tensor
    history_age: tf.Tensor


@dataclass(frozen=True)
class HistoryLog:
    """The positive events that may serve as history, laid out for gathering.

    Args:
        rows: int64 `[num_events]`, ascending numbers of these events among all interactions.
        video: int32 `[num_events]`, sorted by user, then time.
        timestamp: int64 `[num_events]`.
        kind: int32 `[num_events]`.
        offsets: int64 `[num_users + 1]`: the events of user u are `offsets[u]` to `offsets[u + 1]`.
        has_time: whether the events of a user have an order.
        length: most recent events in a query.
    """

    rows: NDArray[np.int64]
    video: tf.Tensor
    timestamp: tf.Tensor
    kind: tf.Tensor
    offsets: tf.Tensor
    has_time: bool
    length: int

    @classmethod
    def of(cls, interactions: Interactions, parts: tuple[Part, ...], length: int) -> HistoryLog:
        """The positive events of `parts`; in a log without times, each pair of user and video once."""
        rows = interactions.rows(*parts)
        if not interactions.has_time:
            rows = rows[first_watches(interactions, rows)]
        counts = np.bincount(interactions.user[rows], minlength=interactions.num_users)
        return cls(
            rows=rows,
            video=tf.constant(interactions.video[rows], tf.int32),
            timestamp=tf.constant(interactions.timestamp[rows], tf.int64),
            kind=tf.constant(interactions.kinds[rows].astype(np.int32)),
            offsets=tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int64),
            has_time=interactions.has_time,
            length=length,
        )

    def before(self, user: tf.Tensor, end: tf.Tensor, now: tf.Tensor) -> Query:
        """The last `length` events of each user ahead of a position.

        Args:
            user: int32 `[B]`.
            end: int64 `[B]` position in the log that the history ends before.
            now: int64 `[B]` Unix seconds of the request.
        """
        start = tf.gather(self.offsets, user)
        first = tf.maximum(start, end - self.length)
        position = first[:, None] + tf.range(self.length, dtype=tf.int64)
        return self._gather(user, position, position < end[:, None], now)

    def around(self, user: tf.Tensor, position: tf.Tensor, shift: tf.Tensor) -> Query:
        """A window of the user's other events: leave one out of a set.

        The events of a user are taken as a ring; the window starts behind the event that is left out, moved on by a share
        of what does not fit.

        Args:
            user: int32 `[B]`.
            position: int64 `[B]` of the event left out.
            shift: float32 `[B]` in [0, 1).
        """
        start, end = tf.gather(self.offsets, user), tf.gather(self.offsets, user + 1)
        others = end - start - 1
        taken = tf.minimum(others, self.length)
        moved = tf.cast(shift * tf.cast(others - taken + 1, tf.float32), tf.int64)
        step = tf.range(self.length, dtype=tf.int64)
        ring = (position - start + 1 + moved)[:, None] + step
        present = step < taken[:, None]
        ring = start[:, None] + ring % tf.maximum(others + 1, 1)[:, None]
        return self._gather(user, ring, present, tf.zeros_like(start))

    def latest(self, user: tf.Tensor, now: tf.Tensor) -> Query:
        """All that each user has done: the query of a request made `now`."""
        return self.before(user, tf.gather(self.offsets, user + 1), now)

    def _gather(self, user: tf.Tensor, position: tf.Tensor, present: tf.Tensor, now: tf.Tensor) -> Query:
        position = tf.where(present, position, 0)
        if not len(self.video):
            history = kind = tf.zeros_like(position, tf.int32)
            age = tf.zeros_like(position, tf.float32)
        else:
            history, kind = tf.gather(self.video, position), tf.gather(self.kind, position)
            age = days_between(tf.gather(self.timestamp, position), now[:, None])
        return Query(
            user=user,
            history=tf.where(present, history, -1),
            history_kind=tf.where(present, kind, 0),
            history_age=tf.where(present, age, 0.0),
        )


def first_watches(interactions: Interactions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in `rows` (ascending numbers of events) at which a user watches a video for the first time, ascending."""
    pair = interactions.user[rows].astype(np.int64) * interactions.num_videos + interactions.video[rows]
    return np.sort(np.unique(pair, return_index=True)[1])


def days_between(timestamp: tf.Tensor, now: tf.Tensor) -> tf.Tensor:
    """Days from `timestamp` to `now` (int64 Unix seconds), float32, never negative."""
    return tf.maximum(tf.cast(now - timestamp, tf.float32) / SECONDS_PER_DAY, 0.0)


@dataclass(frozen=True)
class RetrievalBatches:
    """Training batches of the retrieval model.

    Each example is the first time a user watched a video; each batch has its own uniform negatives from the warm videos.

    Args:
        interactions: the log.
        history_length: events in a query.
        batch_size: examples per batch; the last batch of an epoch is filled up from its start.
        num_uniform_negatives: negatives per batch; the whole of the warm catalogue where it is not larger.
        seed: of the permutations and draws.
        max_positives: other positives of the user that are masked, those nearest in time.
    """

    interactions: Interactions
    history_length: int
    batch_size: int
    num_uniform_negatives: int
    seed: int
    max_positives: int = 256

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """int64 `[num_examples]`: numbers of the events that are learned from, ascending."""
        rows = self.interactions.rows(Part.TRAIN)
        if not len(rows):
            raise TfrecError(
                "No positive training interactions: there is nothing to learn from. Check `split` and `click`."
            )
        return rows[first_watches(self.interactions, rows)]

    @cached_property
    def warm_videos(self) -> NDArray[np.int32]:
        """int32 `[num_warm]`: videos with a training event."""
        return np.flatnonzero(self.interactions.train_counts).astype(np.int32)

    @property
    def samples_catalogue(self) -> bool:
        """Whether negatives are a sample; otherwise every warm video is a candidate of every query."""
        return self.num_uniform_negatives < len(self.warm_videos)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-len(self.targets) // self.batch_size)

    def epoch(self, epoch: int) -> tf.data.Dataset:
        """Batches of one epoch, counted from 0: dicts of `query` (Query), `video` [B], `positives` [B, P], `negatives` [U]."""
        first = epoch * self.steps_per_epoch
        steps = tf.data.Dataset.range(first, first + self.steps_per_epoch)
        return steps.map(self._batch_function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(
            tf.data.AUTOTUNE
        )

    @cached_property
    def _batch_function(self) -> Any:
        log = HistoryLog.of(self.interactions, (Part.TRAIN,), self.history_length)
        user = tf.constant(self.interactions.user[self.targets], tf.int32)
        position = tf.constant(np.searchsorted(log.rows, self.targets))
        warm = tf.constant(self.warm_videos)
        num_examples, steps_per_epoch = len(self.targets), self.steps_per_epoch

        def batch(step: tf.Tensor) -> dict[str, Any]:
            epoch = tf.cast(step // steps_per_epoch, tf.uint32)
            index = (
                (step % steps_per_epoch) * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
            ) % num_examples
            permutation = tf.stack([tf.constant(self.seed, tf.uint32), epoch])
            index = tf.random.experimental.index_shuffle(index, permutation, tf.constant(num_examples - 1, tf.int64))
            users, event = tf.gather(user, index), tf.gather(position, index)
            draw = tf.stack([tf.constant(self.seed, tf.int64), step])
            if log.has_time:
                query = log.before(users, event, tf.gather(log.timestamp, event))
            else:
                query = log.around(users, event, tf.random.stateless_uniform([self.batch_size], draw))
            return {
                "query": query,
                "video": tf.gather(log.video, event),
                "positives": self._positives(log, users, event),
                "negatives": self._negatives(warm, draw),
            }

        return batch

    def _positives(self, log: HistoryLog, users: tf.Tensor, event: tf.Tensor) -> tf.Tensor:
        """int32 `[B, max_positives]`: what the user watched around the event, -1 padding."""
        start, end = tf.gather(log.offsets, users), tf.gather(log.offsets, users + 1)
        first = tf.maximum(tf.minimum(event - self.max_positives // 2, end - self.max_positives), start)
        position = first[:, None] + tf.range(self.max_positives, dtype=tf.int64)
        present = position < end[:, None]
        return tf.where(present, tf.gather(log.video, tf.where(present, position, 0)), -1)

    def _negatives(self, warm: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        if not self.samples_catalogue:
            return warm
        picks = tf.random.stateless_uniform(
            [self.num_uniform_negatives],
            draw + tf.constant([1 << 32, 0], tf.int64),
            maxval=len(self.warm_videos),
            dtype=tf.int32,
        )
        return tf.gather(warm, picks)
