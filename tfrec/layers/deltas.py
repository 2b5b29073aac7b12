"""Deltas: how a sequence of coefficients changes, and how that changes."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

WIDTH = 9
"""Windows that one slope is fitted to."""


def delta(windows: tf.Tensor, num_windows: tf.Tensor, order: int) -> tf.Tensor:
    """The derivative of the polynomial of degree `order` fitted to the nine windows around each, in windows ** -order.

    The numbers of `librosa.feature.delta` 0.11 with its defaults: the first and last four windows have the value of the
    nearest whole neighbourhood. A sequence of fewer than nine windows has none, and gets 0.

    Args:
        windows: float32 `[B, T, dim]`, 0 past the end.
        num_windows: int32 `[B]`.
        order: 1 or 2.

    Returns:
        Same shape as `windows`, 0 past the end.

    References:
        Savitzky and Golay, Smoothing and differentiation of data by simplified least squares procedures, 1964.
    """
    half = WIDTH // 2
    powers = np.vander(np.arange(-half, half + 1.0), order + 1, increasing=True)
    weights = np.linalg.pinv(powers)[order] * math.factorial(order)
    size = tf.shape(windows)[1]
    padded = tf.pad(windows, [[0, 0], [half, half], [0, 0]])
    fitted = tf.add_n([float(weight) * padded[:, lag : lag + size] for lag, weight in enumerate(weights)])
    place = tf.range(size)[tf.newaxis]
    whole = tf.minimum(tf.maximum(place, half), tf.maximum(num_windows - 1 - half, half)[:, tf.newaxis])
    nearest = tf.gather(fitted, tf.minimum(whole, size - 1), axis=1, batch_dims=1)
    present = (place < num_windows[:, tf.newaxis]) & (num_windows >= WIDTH)[:, tf.newaxis]
    return tf.where(present[..., tf.newaxis], nearest, 0.0)
