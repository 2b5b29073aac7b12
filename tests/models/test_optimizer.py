"""Adam in one op does what Keras' Adam does."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrec.models.optimizer import Adam


def test_steps_are_those_of_keras() -> None:
    """A table with sparse gradients, some rows twice and some never, and a dense variable, over a falling rate."""
    results = []
    for make in (Adam, tf.keras.optimizers.Adam):
        optimizer = make(tf.keras.optimizers.schedules.CosineDecay(0.1, 6))
        table, weights = tf.Variable(tf.reshape(tf.range(8.0), [4, 2])), tf.Variable([1.0, -1.0])
        for step in range(5):
            with tf.GradientTape() as tape:
                rows = tf.gather(table, [0, 2, 2] if step % 2 else [1, 0])
                loss = tf.reduce_sum(tf.square(rows - 3.0) * weights)
            gradients = tape.gradient(loss, [table, weights])
            assert isinstance(gradients[0], tf.IndexedSlices)
            optimizer.apply_gradients(zip(gradients, [table, weights], strict=True))
        results.append([table, *optimizer.variables, weights])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(results[0][0][3], [6.0, 7.0])  # a row without any gradient stays
