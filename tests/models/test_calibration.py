"""Platt scaling of logits whose distortion is known, and curves that are no sigmoid."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.models.calibration import MonotoneCurve, platt_scaling

SIGMOIDS = 1 / (1 + np.exp([1.0, 0.0, -1.0]))
"""Of -1, 0 and 1."""


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn by them."""
    draw = np.random.default_rng(0)
    logits = draw.normal(-1, 1.5, size=50_000).astype(np.float32)
    return logits, (draw.random(50_000) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def test_recovers_scale_and_shift(truth):
    logits, labels = truth
    distorted = (logits - 0.7) / 0.4
    assert platt_scaling(distorted, labels) == pytest.approx((0.4, 0.7), abs=0.03)


def test_leaves_calibrated_logits_alone(truth):
    assert platt_scaling(*truth) == pytest.approx((1.0, 0.0), abs=0.04)


def test_no_fit_to_one_class(truth):
    logits, _ = truth
    assert platt_scaling(logits, np.ones_like(logits)) == (1.0, 0.0)
    assert platt_scaling(logits[:0], logits[:0]) == (1.0, 0.0)


def test_never_turns_the_order_around(truth):
    logits, labels = truth
    scale, shift = platt_scaling(-logits, labels)
    assert scale == 1.0
    np.testing.assert_allclose(np.mean(1 / (1 + np.exp(logits - shift))), labels.mean(), rtol=1e-6)


def test_monotone_curve_follows_what_no_sigmoid_can(truth):
    """Probabilities 0.1 below 0 and 0.6 above: two steps."""
    logits = truth[0]
    draw = np.random.default_rng(1)
    labels = (draw.random(len(logits)) < np.where(logits > 0, 0.6, 0.1)).astype(np.float32)
    curve = MonotoneCurve()
    curve.fit(logits, labels)
    told = curve(tf.constant([-3.0, -1.0, 1.0, 2.0])).numpy()
    sigmoid = 1 / (1 + np.exp(-np.array([-3.0, -1.0, 1.0, 2.0])))
    np.testing.assert_allclose(told, 0.95 * np.array([0.1, 0.1, 0.6, 0.6]) + 0.05 * sigmoid, atol=0.03)
    grid = curve(tf.linspace(-8.0, 6.0, 500)[:, None]).numpy()
    assert grid.shape == (500, 1)
    assert (np.diff(grid[:, 0]) > 0).all()  # flat steps keep the order of the logits


def test_monotone_curve_between_two_examples():
    curve = MonotoneCurve()
    curve.fit(np.array([-1.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose(
        curve(tf.constant([-1.0, 0.0, 1.0])), 0.95 * np.array([0, 0.5, 1]) + 0.05 * SIGMOIDS, atol=1e-6
    )


def test_monotone_curve_without_a_fit_is_the_sigmoid():
    curve = MonotoneCurve()
    curve.fit(np.zeros(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(curve(tf.constant([-1.0, 0.0, 1.0])), SIGMOIDS, atol=0.01)
