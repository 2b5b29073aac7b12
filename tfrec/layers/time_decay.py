"""Exponential decay of past events."""

from __future__ import annotations

import math

import tensorflow as tf

from tfrec.layers.gathered import Gathered


class TimeDecay(tf.keras.layers.Layer):
    """Mean of past events, each weighted by `alpha ** age` with a learned `alpha` in (0, 1).

    Args:
        half_life_days: age at which the weight is one half, before training.
    """

    def __init__(self, half_life_days: float) -> None:
        super().__init__()
        # softplus keeps the decay rate positive, so alpha = exp(-rate) stays below 1.
        rate = math.log(2) / half_life_days
        self.raw_rate = self.add_weight("raw_rate", (), initializer=tf.constant_initializer(math.log(math.expm1(rate))))

    def call(self, values: tf.Tensor | Gathered, mask: tf.Tensor, age: tf.Tensor) -> tf.Tensor:
        """Pools the history.

        Args:
            values: float `[B, T, dim]`, perhaps not gathered yet.
            mask: bool `[B, T]`.
            age: float `[B, T]`, days.

        Returns:
            `[B, dim]`, zeros for an empty history.
        """
        # Ages count from the latest event: a common factor cancels, and a user long away does not underflow to 0.
        latest = tf.reduce_min(tf.where(mask, age, age.dtype.max), axis=1, keepdims=True)
        weights = tf.exp(-tf.nn.softplus(self.raw_rate) * tf.where(mask, age - latest, 0.0)) * tf.cast(mask, tf.float32)
        total = Gathered.of(values).weighted_sum(weights, mask)
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))
