"""What stands for a gather does what the gather would have done, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.gathered import Gathered

TABLE = tf.constant([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
PLACES = tf.constant([[0, 2, 2], [1, 0, 0], [1, 1, 1]])
MASK = tf.constant([[True, True, True], [True, False, False], [False, False, False]])
WEIGHTS = tf.constant([[1.0, 2.0, 3.0], [0.5, 9.0, 9.0], [1.0, 1.0, 1.0]])


def test_weighted_sum_and_mean_times_root_over_the_steps_present() -> None:
    events = Gathered(TABLE, PLACES)
    np.testing.assert_allclose(events.weighted_sum(WEIGHTS, MASK), [[1 + 8 + 12, 210], [1, 10], [0, 0]])
    np.testing.assert_allclose(events.sum_by_root(MASK), [[9 / 3**0.5, 90 / 3**0.5], [2, 20], [0, 0]])
    np.testing.assert_allclose(events.map(lambda rows: 2 * rows).rows()[0], [[2, 20], [8, 80], [8, 80]])


def test_rows_that_are_gathered_already() -> None:
    events = Gathered.of(tf.gather(TABLE, PLACES))
    np.testing.assert_array_equal(events.rows(), tf.gather(TABLE, PLACES))
    np.testing.assert_allclose(events.sum_by_root(MASK), Gathered(TABLE, PLACES).sum_by_root(MASK))


def gradients(total: Callable[[], tf.Tensor], *sources: tf.Tensor) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(sources)
        loss = tf.reduce_sum(tf.square(total()))
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, sources)]


@pytest.mark.parametrize("mask", [MASK, tf.zeros_like(MASK)])
def test_gradient_of_the_mean_times_root(mask: tf.Tensor) -> None:
    for _ in range(20):  # nothing that was in memory before shows
        (ours,) = gradients(lambda: Gathered(TABLE, PLACES).sum_by_root(mask), TABLE)
        (expected,) = gradients(lambda: Gathered.of(tf.gather(TABLE, PLACES)).sum_by_root(mask), TABLE)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        del ours
        tf.fill([3, 2], 1e30)


def test_gradients_are_those_of_the_gather() -> None:
    sparse = gradients(lambda: Gathered(TABLE, PLACES).weighted_sum(WEIGHTS, MASK), TABLE, WEIGHTS)
    present = tf.cast(MASK, tf.float32)
    dense = gradients(lambda: tf.einsum("btd,bt->bd", tf.gather(TABLE, PLACES), WEIGHTS * present), TABLE, WEIGHTS)
    for ours, expected in zip(sparse, dense, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
