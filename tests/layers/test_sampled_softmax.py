"""The correction of sampled candidates and the mask of other positives."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.pooling import MASKED
from tfrec.layers.sampled_softmax import inclusion_log_probability, positives_mask, softmax_cross_entropy


def log_probability(frequency: list[float], batch_size: int, num_uniform: int) -> np.ndarray:
    num_videos = len(frequency)
    return inclusion_log_probability(tf.constant(frequency), batch_size, num_uniform, num_videos).numpy()


def test_closed_forms():
    assert log_probability([0.0, 1.0], batch_size=3, num_uniform=0)[0] == -np.inf
    np.testing.assert_allclose(log_probability([0.2, 0.8], 1, 0), np.log([0.2, 0.8]), rtol=1e-5)
    np.testing.assert_allclose(log_probability([0.0, 0.0, 0.0, 1.0], 5, 1)[0], np.log(1 / 4), rtol=1e-5)
    np.testing.assert_allclose(log_probability([0.5, 0.5], 2, 1), np.log([7 / 8, 7 / 8]), rtol=1e-5)


def test_video_in_every_batch():
    assert log_probability([1.0, 0.0], batch_size=4, num_uniform=0)[0] == pytest.approx(0, abs=1e-6)


def test_agrees_with_monte_carlo():
    frequency = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    draw = np.random.default_rng(0)
    targets = draw.choice(5, p=frequency, size=(40_000, 3))
    uniform = draw.integers(5, size=(40_000, 2))
    batches = np.concatenate([targets, uniform], axis=1)
    shares = [(batches == video).any(axis=1).mean() for video in range(5)]
    probability = np.exp(log_probability(frequency.astype(np.float32).tolist(), batch_size=3, num_uniform=2))
    np.testing.assert_allclose(probability, shares, atol=0.01)


def test_masks_other_positives():
    candidates = tf.constant([7, 2, 9, 0])  # of a catalogue of ten
    positives = tf.ragged.constant([[2, 7, 5], [], [9, 9, 0]], dtype=tf.int32)
    mask = positives_mask(candidates, positives, targets=tf.constant([0, 0, 3]), num_videos=10)
    # User 0 watched 2 besides the target 7, and 5, which is no candidate; user 2 watched 9 twice besides the target 0.
    np.testing.assert_array_equal(mask, [[0, MASKED, 0, 0], [0, 0, 0, 0], [0, 0, 2 * MASKED, 0]])
    mask = positives_mask(candidates, positives, targets=None, num_videos=10)
    np.testing.assert_array_equal(mask, [[MASKED, MASKED, 0, 0], [0, 0, 0, 0], [0, 0, 2 * MASKED, MASKED]])


def test_nothing_but_targets_masks_nothing():
    positives = tf.ragged.constant([[0], [1]], dtype=tf.int32)
    mask = positives_mask(tf.constant([0, 1]), positives, targets=tf.constant([0, 1]), num_videos=2)
    np.testing.assert_array_equal(mask, tf.zeros([2, 2]))


def test_cross_entropy_and_its_gradient():
    logits, targets = tf.constant([[0.0, np.log(3.0), MASKED], [MASKED, MASKED, 7.0]], tf.float32), tf.constant([0, 2])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = softmax_cross_entropy(targets, logits)
    np.testing.assert_allclose(loss, [np.log(4), 0], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, logits), [[1 / 4 - 1, 3 / 4, 0], [0, 0, 0]], atol=1e-6)


def test_gradient_is_that_of_the_plain_form():
    generator = np.random.default_rng(0)
    logits = tf.constant(10 * generator.normal(size=(64, 33)) + MASKED * (generator.random((64, 33)) < 0.2), tf.float32)
    targets, weights = (
        tf.constant(generator.integers(33, size=64), tf.int32),
        tf.constant(generator.random(64), tf.float32),
    )

    def plain(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_logsumexp(logits, axis=1) - tf.gather(logits, targets, batch_dims=1)

    results = []
    for function in (softmax_cross_entropy, plain):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function(targets, logits)
        results.append((losses, tf.convert_to_tensor(tape.gradient(losses, logits, weights))))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_correction_recovers_the_full_softmax():
    """Logits of ten videos, learned from samples, against the log frequencies that the full softmax would reach."""
    frequency = 0.6 ** np.arange(10)
    frequency /= frequency.sum()
    draw = np.random.default_rng(0)
    batches = [(draw.choice(10, p=frequency, size=8), draw.integers(10, size=4)) for _ in range(3000)]

    def error(correction: np.ndarray) -> float:
        logits, average = np.zeros(10), np.zeros(10)
        for step, (targets, uniform) in enumerate(batches):
            candidates = np.unique(np.concatenate([targets, uniform]))
            exponentials = np.exp(logits[candidates] - correction[candidates])
            logits[candidates] -= 0.1 * exponentials / exponentials.sum()
            np.add.at(logits, targets, 0.1 / len(targets))
            average += logits * (step >= 1500) / 1500
        difference = average - np.log(frequency)
        return float(np.abs(difference - difference.mean()).max())

    log_q = log_probability(frequency.tolist(), batch_size=8, num_uniform=4).astype(np.float64)
    right, without, wrong = error(log_q), error(np.zeros(10)), error(-log_q)
    assert right < 0.35  # the rarest video is drawn as a target every 31st batch
    assert without > 2 * right
    assert wrong > without + right
