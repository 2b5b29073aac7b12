"""Alignment: how well different modalities of one video agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import tensorflow as tf

from tfrec.layers.fusion import Output
from tfrec.layers.pooling import MASKED

TEMPERATURE = 0.1
"""Divides the cosines; as small as in contrastive pre-training, for cosines lie close together."""


def alignment_loss(outputs: Sequence[Output]) -> tf.Tensor:
    """Contrastive loss between all pairs of modalities: a video's own counterpart against those of the other videos.

    For a pair of modalities, over the videos that show both: the cross-entropy of the own one in a softmax over cosines,
    mean of both directions (symmetric InfoNCE). The mean over the pairs of which at least two videos show both.

    Args:
        outputs: per modality, values float `[B, units]` and whether each video shows it, float `[B, 1]`.

    Returns:
        Scalar, 0 where no pair counts.

    References:
        van den Oord et al., Representation learning with contrastive predictive coding, 2018. Radford et al., Learning
        transferable visual models from natural language supervision, ICML 2021.
    """
    normal = [(tf.math.l2_normalize(values, axis=1), present[:, 0]) for values, present in outputs]
    pairs = [_pair_loss(left, right, some * other) for (left, some), (right, other) in combinations(normal, 2)]
    if not pairs:
        return tf.constant(0.0)
    losses, counts = (tf.add_n(list(parts)) for parts in zip(*pairs, strict=True))
    return tf.math.divide_no_nan(losses, counts)


def _pair_loss(left: tf.Tensor, right: tf.Tensor, both: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of one pair, and 1 if it counts, else 0 and 0."""
    logits = tf.matmul(left, right, transpose_b=True) / TEMPERATURE
    own = tf.linalg.diag_part(logits)
    hidden = (1.0 - both) * MASKED
    there = tf.reduce_logsumexp(logits + hidden[tf.newaxis], axis=1) - own
    back = tf.reduce_logsumexp(logits + hidden[:, tf.newaxis], axis=0) - own
    num_videos = tf.reduce_sum(both)
    # A row that does not count may hold numbers as large as the mask: it is left out, not multiplied by 0.
    losses = tf.where(both > 0, 0.5 * (there + back), 0.0)
    counts = tf.cast(num_videos > 1, tf.float32)
    return counts * tf.math.divide_no_nan(tf.reduce_sum(losses), num_videos), counts
