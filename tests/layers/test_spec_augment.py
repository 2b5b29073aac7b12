"""SpecAugment: where the masks lie, how wide they are, and draws that a checkpoint continues."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.spec_augment import SpecAugment


@pytest.fixture(autouse=True)
def seed():
    tf.keras.utils.set_random_seed(3)


def hidden(layer: SpecAugment, lengths: list[int], steps: int = 10, dim: int = 8) -> np.ndarray:
    values = tf.ones([len(lengths), steps, dim])
    return layer(values, tf.constant(lengths), training=True).numpy() == 0


def test_off_outside_training():
    values = tf.random.normal([3, 10, 8])
    np.testing.assert_array_equal(SpecAugment(0.5, 0.5)(values, tf.fill([3], 10)), values)


def test_one_stretch_of_the_steps_present():
    masked = hidden(SpecAugment(0.4, 0.0), [10] * 2000 + [5] * 2000 + [0])
    steps = masked.all(axis=2)
    np.testing.assert_array_equal(masked.any(axis=2), steps)
    widths = steps.sum(axis=1)
    long, short = widths[:2000], widths[2000:-1]
    assert np.bincount(long) / 2000 == pytest.approx(np.full(5, 0.2), abs=0.03)
    assert np.bincount(short) / 2000 == pytest.approx(np.full(3, 1 / 3), abs=0.04)
    assert not steps[2000:, 5:].any()
    edges = np.abs(np.diff(steps.astype(int), prepend=0, append=0, axis=1)).sum(axis=1)
    assert set(edges) == {0, 2}
    assert steps[:2000, [0, 9]].mean() > 0.05  # both ends can be hidden


def test_one_stretch_of_the_coefficients():
    masked = hidden(SpecAugment(0.0, 0.5), [10] * 2000)
    coefficients = masked.all(axis=1)
    np.testing.assert_array_equal(masked.any(axis=1), coefficients)
    assert np.bincount(coefficients.sum(axis=1)) / 2000 == pytest.approx(np.full(5, 0.2), abs=0.03)


def test_restored_layer_continues_with_the_same_draws(tmp_path):
    layer, other = SpecAugment(0.5, 0.5), SpecAugment(0.5, 0.5)
    first = hidden(layer, [10] * 50)
    path = tf.train.Checkpoint(layer=layer).save(str(tmp_path / "checkpoint"))
    second = hidden(layer, [10] * 50)
    tf.train.Checkpoint(layer=other).restore(path).assert_consumed()
    np.testing.assert_array_equal(hidden(other, [10] * 50), second)
    assert (first != second).any()
