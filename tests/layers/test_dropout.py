"""Dropout: shares, scale, and draws that a checkpoint continues."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.dropout import Dropout, RandomMask


@pytest.fixture(autouse=True)
def seed():
    tf.keras.utils.set_random_seed(3)


def test_off_outside_training():
    values = tf.random.normal([50, 4])
    np.testing.assert_array_equal(Dropout(0.5)(values), values)
    np.testing.assert_array_equal(RandomMask(0.5)([50, 1]), np.ones((50, 1)))


def test_rate_zero_keeps_all_in_training():
    values = tf.random.normal([50, 4])
    np.testing.assert_array_equal(Dropout(0.0)(values, training=True), values)
    np.testing.assert_array_equal(RandomMask(0.0)([50, 1], training=True), np.ones((50, 1)))


def test_zeroes_the_share_and_scales_the_rest():
    dropped = Dropout(0.2)(tf.ones([100, 100]), training=True).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1.25)}
    assert (dropped == 0).mean() == pytest.approx(0.2, abs=0.02)


def test_mask_is_zero_or_one():
    mask = RandomMask(0.2)([10_000, 1], training=True).numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert (mask == 0).mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", [Dropout, RandomMask])
def test_restored_layer_continues_with_the_same_draws(kind, tmp_path):
    def draw(layer):
        inputs = tf.ones([40, 5]) if kind is Dropout else [40, 5]
        return layer(inputs, training=True).numpy()

    layer, other = kind(0.5), kind(0.5)
    first = draw(layer)
    path = tf.train.Checkpoint(layer=layer).save(str(tmp_path / "checkpoint"))
    second, third = draw(layer), draw(layer)
    tf.train.Checkpoint(layer=other).restore(path).assert_consumed()
    np.testing.assert_array_equal(draw(other), second)
    np.testing.assert_array_equal(draw(other), third)
    assert (first != second).any()
    assert (second != third).any()


def test_layers_draw_on_their_own():
    first, second = (RandomMask(0.5)([40, 5], training=True).numpy() for _ in range(2))
    assert (first != second).any()
