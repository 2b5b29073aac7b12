"""The pairwise loss of retrieval: a target should score above each candidate that is none."""

from __future__ import annotations

import tensorflow as tf

from tfrec.layers.pooling import MASKED


def bayesian_personalised_ranking(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean of -log sigmoid(score of the target - score of a negative) over the negatives.

    Args:
        targets: int32 `[B]`, places of the targets.
        logits: float `[B, C]`, `MASKED` where a candidate is no negative.

    Returns:
        float `[B]`, 0 where there are no negatives.

    References:
        Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009.
    """
    target = tf.gather(logits, targets, batch_dims=1)[:, None]
    is_negative = tf.cast(logits > MASKED / 2, logits.dtype) * (1 - tf.one_hot(targets, tf.shape(logits)[1]))
    losses = tf.nn.softplus(logits - target) * is_negative
    return tf.math.divide_no_nan(tf.reduce_sum(losses, axis=1), tf.reduce_sum(is_negative, axis=1))
