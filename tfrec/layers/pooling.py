"""From a padded sequence to one vector."""

from __future__ import annotations

import tensorflow as tf

MASKED = -1e9
"""Added to a logit that must not count; finite, so that a row in which all are masked stays finite."""

_SMALL = 1e-6


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean over the steps present.

    Args:
        values: float `[B, T, dim]`.
        mask: bool `[B, T]`.

    Returns:
        `[B, dim]`, zeros where no step is present.
    """
    weights = tf.cast(mask, values.dtype)
    total = tf.einsum("btd,bt->bd", values, weights)
    return total / tf.maximum(tf.reduce_sum(weights, axis=1, keepdims=True), 1.0)


def masked_deviation(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Standard deviation over the steps present: `[B, dim]` of float `[B, T, dim]` and bool `[B, T]`, zeros without any."""
    distance = tf.square(values - masked_mean(values, mask)[:, tf.newaxis])
    # The root has no slope at 0, where a single step lies.
    return tf.sqrt(masked_mean(distance, mask) + _SMALL) - _SMALL**0.5


def masked_softmax(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Softmax over axis 1 among the steps present.

    Args:
        logits: float `[B, T, ...]`.
        mask: bool, broadcast to `logits`.

    Returns:
        Same shape as `logits`, 0 where masked; a row of which nothing is present is all 0.
    """
    weights = tf.cast(mask, logits.dtype)
    return tf.nn.softmax(logits + (1.0 - weights) * MASKED, axis=1) * weights


class AttentionPooling(tf.keras.layers.Layer):
    """Mean weighted by a learned score of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.score = tf.keras.layers.Dense(1)

    def call(self, values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Pools float `[B, T, dim]` with a bool mask `[B, T]` to `[B, dim]`, zeros where no step is present."""
        weights = masked_softmax(self.score(values), mask[:, :, None])
        return tf.reduce_sum(values * weights, axis=1)
