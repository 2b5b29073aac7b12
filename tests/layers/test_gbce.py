"""Calibrated binary cross-entropy, worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.gbce import generalised_bce
from tfrec.layers.pooling import MASKED

LOG3 = float(np.log(3))  # its sigmoid is 3/4


def test_value_by_hand():
    """A tenth of the negatives, calibration 3/4: the power is .1 (.75 (1 - 10) + 10) = .325."""
    logits = tf.constant([[0.0, LOG3, -LOG3], [LOG3, MASKED, 0.0]])
    loss = generalised_bce(logits, tf.constant([1, 2]), 0.1, 0.75)
    expected = [-0.325 * np.log(3 / 4) - np.log(1 / 2) - np.log(3 / 4), -0.325 * np.log(1 / 2) - np.log(1 / 4)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(("rate", "calibration", "power"), [(0.1, 0.0, 1.0), (0.1, 1.0, 0.1), (1.0, 0.75, 1.0)])
def test_power(rate, calibration, power):
    lone = generalised_bce(tf.constant([[0.0]]), tf.constant([0]), rate, calibration)
    np.testing.assert_allclose(lone, [power * np.log(2)], rtol=1e-5)
