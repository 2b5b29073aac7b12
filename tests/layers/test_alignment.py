"""The alignment loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.alignment import TEMPERATURE, alignment_loss


def pair_by_hand(left: np.ndarray, right: np.ndarray) -> float:
    """Over videos that all show both."""
    left, right = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (left, right))
    powers = np.exp(left @ right.T / TEMPERATURE)
    own = np.diag(powers)
    return float(-0.5 * (np.log(own / powers.sum(axis=1)) + np.log(own / powers.sum(axis=0))).mean())


@pytest.fixture
def values() -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32))


def outputs(values, *present) -> list[tuple[tf.Tensor, tf.Tensor]]:
    return [
        (tf.constant(value), tf.constant(shown, tf.float32, [len(value), 1]))
        for value, shown in zip(values, present, strict=True)
    ]


def test_all_pairs_of_what_is_shown(values):
    shown = [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]
    text, video, audio = values
    both = [pair_by_hand(text[[0, 1, 3, 4]], video[[0, 1, 3, 4]]), pair_by_hand(text[1:4], audio[1:4])]
    both.append(pair_by_hand(video[[1, 3]], audio[[1, 3]]))
    assert float(alignment_loss(outputs(values, *shown))) == pytest.approx(np.mean(both), rel=1e-5)


def test_pairs_that_one_video_shows_do_not_count(values):
    shown = [1] * 6, [1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]
    expected = pair_by_hand(values[0][:3], values[1][:3])
    assert float(alignment_loss(outputs(values, *shown))) == pytest.approx(expected, rel=1e-5)


def test_nothing_to_align(values):
    assert float(alignment_loss(outputs(values[:1], [1] * 6))) == 0
    assert float(alignment_loss(outputs(values[:2], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]))) == 0


def test_what_is_missing_gets_no_gradient(values):
    text, video = (tf.constant(value) for value in values[:2])
    shown = tf.constant([[1.0], [1], [1], [0], [0], [1]])
    with tf.GradientTape() as tape:
        tape.watch([text, video])
        loss = alignment_loss([(text, tf.ones([6, 1])), (video, shown)])
    for gradient in tape.gradient(loss, [text, video]):
        np.testing.assert_array_equal(np.abs(gradient).max(axis=1) > 0, shown[:, 0] > 0)
