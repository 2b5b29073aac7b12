"""Deltas against librosa, worked examples, and padding."""

import librosa
import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.deltas import delta


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("num_windows", [9, 10, 200])
def test_agrees_with_librosa(order, num_windows):
    windows = np.random.default_rng(0).normal(scale=50, size=(num_windows, 5)).astype(np.float32)
    expected = librosa.feature.delta(windows.T, order=order).T
    result = delta(windows[np.newaxis], tf.constant([num_windows]), order)[0]
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_a_parabola_has_its_slope_and_its_curvature():
    time = np.arange(20.0)
    windows = tf.constant((3 * time**2)[np.newaxis, :, np.newaxis], tf.float32)
    np.testing.assert_allclose(delta(windows, tf.constant([20]), 1)[0, 4:16, 0], 6 * time[4:16], rtol=1e-4)
    np.testing.assert_allclose(delta(windows, tf.constant([20]), 2)[0, :, 0], np.full(20, 6.0), rtol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_a_row_is_as_if_it_were_alone(order):
    draw = np.random.default_rng(1)
    lengths = [30, 9, 8, 0, 17]
    batch = np.zeros((5, 30, 3), np.float32)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = draw.normal(size=(length, 3))
    result = delta(tf.constant(batch), tf.constant(lengths), order).numpy()
    for row, values, length in zip(result, batch, lengths, strict=True):
        np.testing.assert_array_equal(row[length:], 0)
        if length < 9:
            np.testing.assert_array_equal(row, 0)
        else:
            alone = delta(tf.constant(values[np.newaxis, :length]), tf.constant([length]), order)[0]
            np.testing.assert_allclose(row[:length], alone, atol=1e-6)
