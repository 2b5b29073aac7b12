"""Pooling over padded sequences."""

import numpy as np
import tensorflow as tf

from tfrec.layers.pooling import AttentionPooling, masked_mean, masked_softmax

VALUES = np.array([[[1, 10], [3, 30], [100, 100]], [[5, 6], [7, 8], [9, 10]]], np.float32)
MASK = np.array([[True, True, False], [False, False, False]])


def test_mean_over_steps_present():
    np.testing.assert_allclose(masked_mean(VALUES, MASK), [[2, 20], [0, 0]])


def test_softmax_over_steps_present():
    weights = masked_softmax(np.log(VALUES), MASK[:, :, None])
    np.testing.assert_allclose(weights[0], [[1 / 4, 1 / 4], [3 / 4, 3 / 4], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(weights[1], np.zeros((3, 2)))


def test_softmax_of_masked_giants():
    weights = masked_softmax(tf.constant([[0.0, 1e6, 0.0]]), tf.constant([[True, False, True]]))
    np.testing.assert_allclose(weights, [[0.5, 0, 0.5]])


def test_attention_pooling_weighs_by_the_score():
    layer = AttentionPooling()
    layer(VALUES, MASK)
    layer.score.set_weights([np.array([[1.0], [0.0]]), np.array([0.5])])
    share = 1 / (1 + np.exp(3 - 1))  # scores 1.5 and 3.5
    expected = share * VALUES[0, 0] + (1 - share) * VALUES[0, 1]
    np.testing.assert_allclose(layer(VALUES, MASK), [expected, [0, 0]], rtol=1e-5)
