"""Convolution over padded sequences against sums worked by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.temporal_convolution import TemporalConvolution


def gelu(value: float) -> float:
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


def ones(units: int, **options: int) -> TemporalConvolution:
    layer = TemporalConvolution(units, **options)
    layer(tf.zeros([1, 1, 1]), tf.constant([1]))
    layer.convolution.kernel.assign(tf.ones_like(layer.convolution.kernel))
    return layer


def test_sums_neighbours_of_every_second_step():
    values = tf.constant([[[1.0], [2.0], [4.0], [8.0], [16.0]]])
    output, lengths = ones(1)(values, tf.constant([5]))
    expected = [gelu(1 + 2), gelu(2 + 4 + 8), gelu(8 + 16)]
    np.testing.assert_allclose(output[0, :, 0], expected, rtol=1e-6)
    assert lengths.numpy().tolist() == [3]


def test_even_kernel_and_stride_one():
    values = tf.constant([[[1.0], [2.0], [4.0]]])
    output, lengths = ones(1, kernel_size=2, stride=1)(values, tf.constant([3]))
    np.testing.assert_allclose(output[0, :, 0], [gelu(3), gelu(6), gelu(4)], rtol=1e-6)
    assert lengths.numpy().tolist() == [3]


@pytest.mark.parametrize("num_padding", [1, 2, 3])
def test_padding_changes_nothing(num_padding):
    draw = np.random.default_rng(0)
    layer = TemporalConvolution(4)
    values = draw.normal(size=(2, 5, 3)).astype(np.float32)
    padded = np.concatenate([values, draw.normal(size=(2, num_padding, 3)).astype(np.float32)], axis=1)
    expected, lengths = layer(values, tf.constant([5, 5]))
    output, padded_lengths = layer(padded, tf.constant([5, 5]))
    np.testing.assert_allclose(output[:, :3], expected, atol=1e-6)
    np.testing.assert_array_equal(padded_lengths, lengths)


def test_lengths_round_up():
    _, lengths = TemporalConvolution(2)(tf.ones([5, 8, 1]), tf.constant([0, 1, 2, 7, 8]))
    assert lengths.numpy().tolist() == [0, 1, 1, 4, 4]
