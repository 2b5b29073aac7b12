"""Training batches of whole users, for logs whose histories are sets.

An example is a user: of what they watched, a part drawn anew each epoch is the *history*, and the rest are its *targets*. So one
query teaches as many targets as the user has left, where a batch of events would embed one for each.
As everywhere (see `input_pipeline`), a batch is a pure function of the step number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import HistoryLog, Query, shuffled, uniform_negatives
from tfrec.data.schema import Interactions, Part
from tfrec.data.shares import WHOLE, Shares
from tfrec.errors import TfrecError

HISTORY_SHARE = 0.5
"""Chance of a watched video to be history and no target."""


@dataclass(frozen=True)
class SetBatches:
    """Users, each with what they watched cut in two.

    Args:
        interactions: the log; it must have no times.
        history_length: videos of a user that an epoch takes at most: a run, elsewhere each epoch, in the order of the log.
        batch_size: users per batch; the last batch of an epoch is filled up from its start.
        num_uniform_negatives: negatives per batch, drawn from the warm videos; all of these where it is not smaller.
        seed: of the permutations and draws.
    """

    interactions: Interactions
    history_length: int
    batch_size: int
    num_uniform_negatives: int
    seed: int

    def __post_init__(self) -> None:
        if self.interactions.has_time:
            raise TfrecError(
                "The log has times, so its histories are no sets: what came later would tell of what came before. Use "
                "`--retrieval.training events` or `sequences`."
            )

    @cached_property
    def _log(self) -> HistoryLog:
        return HistoryLog.of(self.interactions, (Part.TRAIN,), self.history_length)

    @cached_property
    def _users(self) -> NDArray[np.int32]:
        """Users with something to learn from."""
        return np.flatnonzero(np.diff(self._log.offsets)).astype(np.int32)

    @property
    def num_examples(self) -> int:
        """Targets per epoch, on average."""
        taken = np.minimum(np.diff(self._log.offsets), self.history_length)
        return round(float(taken.sum()) * (1 - HISTORY_SHARE))

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-len(self._users) // self.batch_size)

    def epoch(self, epoch: int, shares: Shares = WHOLE) -> tf.data.Dataset:
        """Batches of one epoch, counted from 0, or shares of them. B users, T = `history_length`.

        Returns:
            Dicts of `query` (Query `[B, T]`, with padding wherever a video is a target), `targets` int32 `[B, T]`, -1 where
            there is none, `video` int32 `[B * T]`, the targets of the whole batch, and `negatives` int32 `[U]`.
        """
        make = partial(self._batch_function, shares)
        return shares.batches(epoch * self.steps_per_epoch, self.steps_per_epoch, make)

    @cached_property
    def _batch_function(self) -> Any:
        log, users, warm = self._log, tf.constant(self._users), tf.constant(self.interactions.warm_videos)
        num_users, steps_per_epoch = len(self._users), self.steps_per_epoch

        def batch(shares: Shares, step: tf.Tensor, share: tf.Tensor) -> dict[str, Any]:
            epoch = step // steps_per_epoch
            place = ((step % steps_per_epoch) * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)) % num_users
            place = shuffled(place, tf.stack([self.seed + tf.zeros_like(epoch), 2 * epoch]), num_users)
            user = tf.gather(users, place)
            draw = tf.stack([tf.constant(self.seed, tf.int64), step])
            shift = tf.random.stateless_uniform([self.batch_size], draw)
            start, end = tf.gather(log.offsets, user), tf.gather(log.offsets, user + 1)
            # Around nothing: the ring of all of a user's videos, begun at one of them.
            begin = start + tf.cast(shift * tf.cast(end - start, tf.float32), tf.int64)
            ring = begin[:, None] + tf.range(self.history_length, dtype=tf.int64) - start[:, None]
            present = ring < (begin - start + tf.minimum(end - start, self.history_length))[:, None]
            watched = tf.gather(log.video, start[:, None] + ring % (end - start)[:, None])
            chance = tf.random.stateless_uniform(tf.shape(watched), draw + tf.constant([1 << 33, 0], tf.int64))
            is_history = present & (chance < HISTORY_SHARE)
            history, targets = (tf.where(chosen, watched, -1) for chosen in (is_history, present & ~is_history))
            return {
                "query": _query(shares.of(user, share), shares.of(history, share)),
                "targets": shares.of(targets, share),
                "video": tf.reshape(targets, [-1]),
                "negatives": uniform_negatives(
                    warm, self.num_uniform_negatives, draw + tf.constant([1 << 32, 0], tf.int64)
                ),
            }

        return tf.function(batch, autograph=False)  # traced once, and not for every epoch


def _query(user: tf.Tensor, history: tf.Tensor) -> Query:
    """A request in a log without times, where everything watched was clicked."""
    return Query(
        user=user,
        timestamp=tf.zeros_like(user, tf.int64),
        history=history,
        history_kind=tf.cast(history >= 0, tf.int32),
        history_age=tf.zeros_like(history, tf.float32),
    )
