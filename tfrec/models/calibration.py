"""Calibration of a classifier's logits: probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

NUM_KNOTS = 32
"""Of a monotone curve."""

PLATT_SHARE = 0.05
"""Of a monotone curve that stays the sigmoid: where the fitted steps are flat, logits keep their order."""


def platt_scaling(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> tuple[float, float]:
    """Fits `probability = sigmoid(scale * logit + shift)` (Platt, 1999).

    Args:
        logits: float `[num_examples]`, of a part that was not trained on.
        labels: 0 or 1, `[num_examples]`.

    Returns:
        `scale` and `shift`. Logits that order the labels backwards keep their scale and are shifted to the right mean; labels
        of one class only leave nothing to fit: 1 and 0.
    """
    if len(np.unique(labels)) < 2:
        return 1.0, 0.0
    fitted = LogisticRegression(C=1e6).fit(logits[:, None].astype(np.float64), labels)
    scale, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (scale, shift) if scale > 0 else (1.0, _shift_to_mean(logits, float(labels.mean())))


def _shift_to_mean(logits: NDArray[np.float32], rate: float) -> float:
    """What to add to the logits, so that the probabilities are `rate` (above 0, below 1) on average."""
    widest = float(np.abs(logits).max()) + abs(float(logit(rate)))
    return float(brentq(lambda shift: expit(logits + shift).mean() - rate, -widest, widest))


class MonotoneCurve(tf.Module):
    """From logits to probabilities along a line through knots, rising everywhere: isotonic regression that can be exported.

    Before it is fitted it is the sigmoid, to within 0.01.

    References:
        Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    def __init__(self) -> None:
        super().__init__()
        start = np.linspace(-8, 8, NUM_KNOTS, dtype=np.float32)
        self.knots = tf.Variable(start, trainable=False)
        self.values = tf.Variable(expit(start), trainable=False)

    def fit(self, logits: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Fits a part that was not trained on; labels of one class only leave nothing to fit.

        Args:
            logits: float `[num_examples]`.
            labels: 0 or 1, `[num_examples]`.
        """
        if len(np.unique(labels)) < 2:
            return
        order = np.argsort(logits, kind="stable")
        steps = IsotonicRegression(y_min=0, y_max=1).fit_transform(logits, labels)[order]
        blocks = np.array_split(np.arange(len(logits)), min(NUM_KNOTS, len(logits)))
        knots = np.array([logits[order][block].mean() for block in blocks])
        values = np.array([steps[block].mean() for block in blocks])
        spare = (0, NUM_KNOTS - len(blocks))
        self.knots.assign(np.pad(knots, spare, "edge"))
        self.values.assign(np.pad(values, spare, "edge"))

    def __call__(self, logits: tf.Tensor) -> tf.Tensor:
        """float32 probabilities of the shape of `logits`; constant beyond the knots but for the sigmoid's share."""
        widths = self.knots[1:] - self.knots[:-1]
        slopes = tf.math.divide_no_nan(self.values[1:] - self.values[:-1], widths)
        passed = tf.clip_by_value(logits[..., None] - self.knots[:-1], 0.0, widths)
        line = self.values[0] + tf.reduce_sum(passed * slopes, axis=-1)
        return (1 - PLATT_SHARE) * line + PLATT_SHARE * tf.sigmoid(logits)
