"""How the rows of a batch are shared out among replicas.

A *replica* is a device that holds the whole model. Each batch is cut into as many runs of rows of equal length, its *shares*, as
there are replicas: of 6 rows and 3 replicas, replica 1 takes rows 2 and 3. Since a batch is a pure function of its step number,
nothing is exchanged to agree on it: each worker makes its own shares, they never overlap, and together they are the batch that
one device would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Shares:
    """The shares that one worker makes.

    Args:
        count: replicas of all workers, each with one share.
        first: number of the share of this worker's first replica.
        local: replicas of this worker.
    """

    count: int = 1
    first: int = 0
    local: int = 1

    def batches(self, first_step: int, num_steps: int, make: Callable[[tf.Tensor, tf.Tensor], Any]) -> tf.data.Dataset:
        """This worker's shares of batches, step by step, within a step replica by replica.

        Args:
            first_step: number of the first batch.
            num_steps: how many batches.
            make: makes a share of a batch from the number of the step and that of the share, both int64.
        """
        pieces = tf.data.Dataset.range(first_step * self.local, (first_step + num_steps) * self.local)
        shares = pieces.map(
            lambda piece: make(piece // self.local, self.first + piece % self.local),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return shares.prefetch(tf.data.AUTOTUNE).with_options(_options())

    def of(self, values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        """The rows of one share, `[B / count, ...]` of `[B, ...]`."""
        if self.count == 1:
            return values
        size = values.shape[0] // self.count
        return tf.gather(values, share * size + tf.range(size, dtype=tf.int64))


def _options() -> tf.data.Options:
    """Without autotuning: an iterator that has it may end only when the tuner wakes, after waits that double from 10 ms on."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


WHOLE = Shares()
"""One replica, which computes every batch whole."""
