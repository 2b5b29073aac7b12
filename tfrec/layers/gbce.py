"""Binary cross-entropy with many negatives, calibrated for how few of all they are."""

from __future__ import annotations

import tensorflow as tf


def generalised_bce(
    logits: tf.Tensor, targets: tf.Tensor, sampling_rate: float | tf.Tensor, calibration: float
) -> tf.Tensor:
    """Binary cross-entropy in which the probability of the target is taken to a power.

    Negatives that are a sample are fewer than those left out, so plain cross-entropy learns probabilities that are too high,
    and tells the best videos badly apart. The power takes that back.

    Args:
        logits: float `[B, C]`; one that must not count is at `MASKED`.
        targets: int32 `[B]`, places of the positives; all others are negatives.
        sampling_rate: share of all negatives that are among the logits, in (0, 1].
        calibration: from 0, plain cross-entropy, to 1, probabilities as if all negatives had been there.

    Returns:
        float `[B]`.

    References:
        Petrov and Macdonald, gSASRec, RecSys 2023.
    """
    power = sampling_rate * (calibration * (1.0 - 1.0 / sampling_rate) + 1.0 / sampling_rate)
    positive = tf.gather(logits, targets, batch_dims=1)
    negatives = tf.reduce_sum(tf.math.softplus(logits), axis=1) - tf.math.softplus(positive)
    return power * tf.math.softplus(-positive) + negatives
