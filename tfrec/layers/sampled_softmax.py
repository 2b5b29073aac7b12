"""The loss of retrieval: a softmax over sampled candidates, corrected and masked.

The candidates of a batch are a *set*: a video that is both somebody's target and somebody's negative stands in it once, so
there are no accidental hits, and every query's label is the place of its target.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec.layers.pooling import MASKED


def inclusion_log_probability(
    frequency: tf.Tensor,
    batch_size: float | tf.Tensor,
    num_uniform_negatives: float | tf.Tensor,
    num_videos: int,
    missed_otherwise: float | tf.Tensor = 0.0,
) -> tf.Tensor:
    """Log of the probability that a video is among the candidates of a batch.

    Args:
        frequency: float `[C]`, share of the training examples that are on each video.
        batch_size: targets per batch, drawn by frequency.
        num_uniform_negatives: further candidates, drawn uniformly; a number, or `[C]` of them.
        num_videos: how many these are drawn from.
        missed_otherwise: float `[C]`, log of the probability that nothing else brings it in.

    Returns:
        float `[C]`, at most 0.

    References:
        Yi et al., Sampling-bias-corrected neural modeling, RecSys 2019; here for targets and uniform negatives together.
    """
    missed = missed_otherwise + batch_size * tf.math.log1p(-tf.minimum(frequency, 1 - 1e-6))
    missed += num_uniform_negatives * tf.math.log1p(-1.0 / max(num_videos, 2))
    return tf.math.log(-tf.math.expm1(missed))


@tf.custom_gradient
def softmax_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> Any:
    """float32 `[B]`: minus the log-probability of each target, int32 `[B]` places among float32 `[B, C]` logits.

    It makes few passes over the logits: backwards the exponentials are scaled once, and targets subtracted in place.
    `tf.nn.sparse_softmax_cross_entropy_with_logits` has no vector instructions on a CPU.
    """
    top = tf.reduce_max(logits, axis=1, keepdims=True)
    exponentials = tf.exp(logits - top)
    total = tf.reduce_sum(exponentials, axis=1, keepdims=True)
    losses = tf.squeeze(top + tf.math.log(total), 1) - tf.gather(logits, targets, batch_dims=1)

    def gradient(of_losses: tf.Tensor) -> tuple[None, tf.Tensor]:
        shares = exponentials * (of_losses[:, None] / total)
        return None, tf.tensor_scatter_nd_sub(shares, _cells(targets), of_losses)

    return losses, gradient


def positives_mask(
    candidates: tf.Tensor, positives: tf.RaggedTensor, targets: tf.Tensor | None, num_videos: int
) -> tf.Tensor:
    """Takes the user's other positives out of the softmax, when added to the logits: they are no negatives.

    Args:
        candidates: int32 `[C]`, distinct row numbers.
        positives: int32 `[B, None]`, row numbers of what each user watched.
        targets: int32 `[B]`, places in `candidates` that stay as they are; None where all positives are taken out.
        num_videos: size of the catalogue.

    Returns:
        float32 `[B, C]`: at most `MASKED` at the other positives, 0 elsewhere.
    """
    num_candidates = tf.size(candidates)
    place = tf.fill([num_videos], num_candidates)  # which the op below leaves out
    place = tf.tensor_scatter_nd_update(place, candidates[:, None], tf.range(num_candidates))
    columns = tf.gather_nd(place, positives.flat_values[:, None])  # `tf.gather` calls a copy of memory for each number
    mask = tf.raw_ops.RaggedBincount(
        splits=positives.row_splits, values=columns, size=num_candidates, weights=tf.fill(tf.shape(columns), MASKED)
    )
    return mask if targets is None else tf.tensor_scatter_nd_update(mask, _cells(targets), tf.zeros(tf.shape(targets)))


def _cells(places: tf.Tensor) -> tf.Tensor:
    """int32 `[B, 2]`: the rows of int32 `[B]` columns, and these."""
    return tf.stack([tf.range(tf.size(places)), places], axis=1)
