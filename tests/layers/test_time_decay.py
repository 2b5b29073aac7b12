"""Exponential decay against weights worked by hand."""

import numpy as np
import tensorflow as tf

from tfrec.layers.time_decay import TimeDecay

VALUES = tf.constant([[[1.0, 0.0], [0.0, 1.0], [50.0, 50.0]]])
MASK = tf.constant([[True, True, False]])


def pooled(age: list[float], half_life_days: float = 7.0) -> np.ndarray:
    return TimeDecay(half_life_days)(VALUES, MASK, tf.constant([age], tf.float32)).numpy()[0]


def test_weights_are_powers_of_alpha():
    alpha = 0.5 ** (1 / 7)
    weights = np.array([alpha**10, alpha**3])
    np.testing.assert_allclose(pooled([10, 3, 0]), weights / weights.sum(), rtol=1e-5)


def test_one_half_life_halves():
    np.testing.assert_allclose(pooled([2, 0, 0], half_life_days=2), [1 / 3, 2 / 3], rtol=1e-5)


def test_shift_of_all_ages_changes_nothing():
    np.testing.assert_allclose(pooled([110, 103, 0]), pooled([10, 3, 0]), rtol=1e-5)


def test_user_long_away():
    np.testing.assert_allclose(pooled([100_007, 100_000, 0]), [1 / 3, 2 / 3], rtol=1e-4)


def test_event_long_before_the_latest():
    np.testing.assert_allclose(pooled([100_000, 0, 0]), [0, 1], atol=1e-6)


def test_empty_history():
    empty = TimeDecay(7.0)(VALUES, tf.zeros([1, 3], tf.bool), tf.constant([[5.0, 3.0, 1.0]]))
    np.testing.assert_array_equal(empty, [[0, 0]])


def test_rate_learns_from_a_finite_gradient():
    layer = TimeDecay(7.0)
    with tf.GradientTape() as tape:
        result = layer(VALUES, MASK, tf.constant([[10.0, 3.0, 0.0]]))[0, 0]
    # The larger the rate, the less the older event counts.
    assert -np.inf < tape.gradient(result, layer.raw_rate).numpy() < 0
