"""Training batches of whole sequences: every event of a window is a target.

The *window* of a user is a run of up to `history_length` consecutive events. A user with more of them than fit has several,
at equal distances: the fewest that cover all that can be history of a training event.
As everywhere (see `input_pipeline`), a batch is a pure function of the step number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import HistoryLog, first_watches, shuffled, uniform_negatives
from tfrec.data.schema import Interactions, Part
from tfrec.data.shares import WHOLE, Shares
from tfrec.errors import TfrecError


@dataclass(frozen=True)
class SequenceBatches:
    """Windows of users, with the video that follows each of their events.

    Args:
        interactions: the log; it must have times.
        history_length: events in a window.
        batch_size: windows per batch; the last batch of an epoch is filled up from its start.
        num_uniform_negatives: negatives per batch, drawn from the warm videos; all of these where it is not smaller.
        seed: of the permutations and draws.
    """

    interactions: Interactions
    history_length: int
    batch_size: int
    num_uniform_negatives: int
    seed: int

    def __post_init__(self) -> None:
        if not self.interactions.has_time:
            raise TfrecError(
                "The log has no times, so its histories are sets and no sequences. Use `--retrieval.training events`."
            )

    @cached_property
    def _events_per_user(self) -> NDArray[np.int64]:
        rows = self.interactions.rows(Part.TRAIN)
        return np.bincount(self.interactions.user[rows], minlength=self.interactions.num_users)

    @cached_property
    def _windows_per_user(self) -> NDArray[np.int64]:
        """The last event is nobody's history; a user with that one alone has an empty window."""
        windows = -(-np.maximum(self._events_per_user - 1, 1) // self.history_length)
        return np.where(self._events_per_user > 0, windows, 0)

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return int(self._windows_per_user.sum())

    @property
    def num_examples(self) -> int:
        """Events to learn from per epoch, those in two windows once."""
        return len(first_watches(self.interactions, self.interactions.rows(Part.TRAIN)))

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-self.num_windows // self.batch_size)

    def epoch(self, epoch: int, shares: Shares = WHOLE) -> tf.data.Dataset:
        """Batches of one epoch, counted from 0, or shares of them. B windows, T = `history_length`.

        Returns:
            Dicts of `query` (Query `[B, T]`; its time is that of the last target), `targets` int32 `[B, 1 + T]`: the first
            event of the user, then the event after each of the history, -1 where there is none or the user had watched the
            video before; `timestamps` int64 `[B, 1 + T]` of the targets; `negatives` int32 `[U]`.
        """
        make = partial(self._batch_function, shares)
        return shares.batches(epoch * self.steps_per_epoch, self.steps_per_epoch, make)

    @cached_property
    def _batch_function(self) -> Any:
        log = HistoryLog.of(self.interactions, (Part.TRAIN,), self.history_length)
        is_first = np.zeros(len(log.rows), bool)
        is_first[first_watches(self.interactions, log.rows)] = True
        is_target, warm = tf.constant(is_first), tf.constant(self.interactions.warm_videos)
        ends = tf.constant(np.cumsum(self._windows_per_user))
        windows = tf.constant(self._windows_per_user)
        first_window = ends - windows
        num_windows, steps_per_epoch, length = self.num_windows, self.steps_per_epoch, self.history_length

        def batch(shares: Shares, step: tf.Tensor, share: tf.Tensor) -> dict[str, Any]:
            epoch = step // steps_per_epoch
            window = (
                (step % steps_per_epoch) * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
            ) % num_windows
            window = shuffled(window, tf.stack([self.seed + tf.zeros_like(epoch), 2 * epoch]), num_windows)
            window = shares.of(window, share)
            user = tf.searchsorted(ends, window, side="right", out_type=tf.int64)
            number = window - tf.gather(first_window, user)
            first, end = tf.gather(log.offsets, user), tf.gather(log.offsets, user + 1)
            start = first + self._window_start(number, tf.gather(windows, user), end - first - 1)
            last = tf.minimum(start + length, end - 1)
            targets, timestamps = self._targets(log, is_target, start, first, last)
            draw = tf.stack([tf.constant(self.seed, tf.int64), step])
            return {
                "query": log.before(tf.cast(user, tf.int32), last, tf.gather(log.timestamp, last)),
                "targets": targets,
                "timestamps": timestamps,
                "negatives": uniform_negatives(warm, self.num_uniform_negatives, draw),
            }

        return tf.function(batch, autograph=False)  # traced once, and not for every epoch

    def _window_start(self, number: tf.Tensor, windows: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
        """int64 `[B]`: where windows begin among the events of their users.

        Args:
            number: of the window among those of its user.
            windows: of the user.
            past: events of the user that can be history.
        """
        return number * tf.maximum(past - self.history_length, 0) // tf.maximum(windows - 1, 1)

    def _targets(
        self, log: HistoryLog, is_target: tf.Tensor, start: tf.Tensor, first: tf.Tensor, last: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Videos and times of the events at and after `start`; all positions in the log, int64 `[B]`."""
        position = start[:, None] + tf.range(self.history_length + 1, dtype=tf.int64)
        present = position <= last[:, None]
        position = tf.where(present, position, 0)
        # What a window begins with follows on what the window does not show, unless it is the user's first event.
        present &= (position > start[:, None]) | (start == first)[:, None]
        present &= tf.gather(is_target, position)
        return tf.where(present, tf.gather(log.video, position), -1), tf.gather(log.timestamp, position)
