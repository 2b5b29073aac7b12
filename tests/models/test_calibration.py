"""Platt scaling of logits whose distortion is known."""

import numpy as np
import pytest

from tfrec.models.calibration import platt_scaling


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
