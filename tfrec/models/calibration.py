"""Calibration of a classifier's logits (Platt, 1999): probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression


def platt_scaling(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> tuple[float, float]:
    """Fits `probability = sigmoid(scale * logit + shift)`.

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
