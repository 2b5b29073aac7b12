"""Masks over time and over coefficients of a sequence, in training."""

from __future__ import annotations

import random

import tensorflow as tf


class SpecAugment(tf.keras.layers.Layer):
    """Hides one stretch of the steps and one of the coefficients of each sequence.

    The width of a stretch is uniform between none and a share, its place uniform. What is hidden becomes 0, which is the
    mean of standardised values. Like `Dropout`, it keeps its random state in a variable that checkpoints hold.

    Args:
        time_share: widest stretch of the steps present, in [0, 1).
        coefficient_share: widest stretch of the coefficients, in [0, 1).

    References:
        Park et al., SpecAugment: a simple data augmentation method for automatic speech recognition, Interspeech 2019.
    """

    def __init__(self, time_share: float, coefficient_share: float) -> None:
        super().__init__()
        self.time_share, self.coefficient_share = time_share, coefficient_share
        self.generator = tf.random.Generator.from_seed(random.randrange(1 << 31))

    def call(self, values: tf.Tensor, lengths: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Masks float `[B, T, dim]` of int32 `[B]` lengths."""
        if not training:
            return values
        batch, steps, dim = tf.unstack(tf.shape(values))
        draws = tf.random.stateless_uniform([4, batch], seed=self.generator.make_seeds()[:, 0])
        over_time = _stretch(steps, lengths, self.time_share, draws[:2])
        over_coefficients = _stretch(dim, tf.fill([batch], dim), self.coefficient_share, draws[2:])
        return tf.where(over_time[:, :, tf.newaxis] | over_coefficients[:, tf.newaxis], 0.0, values)


def _stretch(size: tf.Tensor, lengths: tf.Tensor, share: float, draws: tf.Tensor) -> tf.Tensor:
    """Bool `[B, size]`, True in a random stretch within each of the lengths `[B]`; draws `[2, B]` are in [0, 1)."""
    length = tf.cast(lengths, tf.float32)
    width = tf.floor(draws[0] * (tf.floor(share * length) + 1.0))
    start = tf.floor(draws[1] * (length - width + 1.0))
    place = tf.range(size, dtype=tf.float32)[tf.newaxis]
    return (place >= start[:, tf.newaxis]) & (place < (start + width)[:, tf.newaxis])
