"""Negatives besides the batch's own targets and uniform ones, and how often a video is anybody's target.

All of them join the candidates of a batch as a set, so nothing is in it twice, and each raises the probability of being in it,
which the softmax is corrected for. Whatever a user has watched is masked, wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.layers.sampled_softmax import positives_mask

POOL_PER_HARD_NEGATIVE = 8
"""Uniform draws among which a hard negative is sought."""

STREAMING_RATE = 0.01
"""Step of the moving average of a `StreamingFrequency`."""


class CandidateQueue(tf.Module):
    """The targets of the last batches with their embeddings as they were then: more in-batch negatives at no cost of a tower.

    References:
        Wang et al., Cross-batch memory for embedding learning, CVPR 2020; for two towers Wang et al., Cross-batch negative
        sampling for training two-tower recommenders, SIGIR 2021.

    Args:
        size: targets held.
        embedding_dim: width of their embeddings.
        num_videos: size of the catalogue.
    """

    def __init__(self, size: int, embedding_dim: int, num_videos: int) -> None:
        super().__init__()
        self.size, self.num_videos = size, num_videos
        self.videos = tf.Variable(tf.fill([size], -1), trainable=False)
        self.embeddings = tf.Variable(tf.zeros([size, embedding_dim]), trainable=False)
        self.pushed = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def filled(self) -> tf.Tensor:
        """float32: how many of its places hold a target."""
        return tf.cast(tf.minimum(self.pushed, self.size), tf.float32)

    def beside(self, candidates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What it holds that is not among the candidates, of each video the latest.

        Args:
            candidates: int32 `[C]`, distinct.

        Returns:
            int32 `[Q]` distinct row numbers and float32 `[Q, D]` embeddings, without gradient.
        """
        # The age of each place: 0 is the one that was written last.
        age = (self.pushed - 1 - tf.range(self.size, dtype=tf.int64)) % self.size
        freshness = tf.cast(self.size - age, tf.int32)
        rows = tf.maximum(self.videos, 0)[:, None]
        held = tf.where(self.videos >= 0, freshness, 0)
        latest = tf.tensor_scatter_nd_max(tf.zeros([self.num_videos], tf.int32), rows, held)
        latest = tf.tensor_scatter_nd_update(latest, candidates[:, None], tf.zeros_like(candidates))
        chosen = tf.where((held > 0) & (tf.gather(latest, rows[:, 0]) == held))[:, 0]
        return tf.gather(self.videos, chosen), tf.stop_gradient(tf.gather(self.embeddings, chosen))

    def push(self, videos: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Writes the targets of a batch over the oldest ones.

        Args:
            videos: int32 `[B]` row numbers; of more than fit, the last are kept.
            embeddings: float32 `[B, D]`.
        """
        videos, embeddings = videos[-self.size :], embeddings[-self.size :]
        count = tf.size(videos, out_type=tf.int64)
        places = ((self.pushed + tf.range(count)) % self.size)[:, None]
        self.videos.scatter_nd_update(places, videos)
        self.embeddings.scatter_nd_update(places, tf.stop_gradient(embeddings))
        self.pushed.assign_add(count)


class StreamingFrequency(tf.Module):
    """How often a video is a target, estimated while batches go by: the mean distance between the batches that it is in.

    For logs too long to count, or whose frequencies drift. It starts at the counts of the log.

    References:
        Yi et al., Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys 2019, algorithm 2.

    Args:
        frequency: float `[num_videos]`, share of the examples on each video, where it starts.
        batch_size: targets per batch.
    """

    def __init__(self, frequency: NDArray[np.float64], batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        in_batch = -np.expm1(batch_size * np.log1p(-np.minimum(frequency, 1 - 1e-6)))
        distance = 1 / np.maximum(in_batch, 1e-9)
        self.distance = tf.Variable(distance.astype(np.float32), trainable=False)
        # As if each had been met half a distance ago.
        self.last = tf.Variable((-distance / 2).astype(np.float32), trainable=False)
        self.step = tf.Variable(0.0, trainable=False)

    @property
    def in_batch(self) -> tf.Tensor:
        """float32 `[num_videos]`: the chance of each video to be a target of a batch."""
        return tf.minimum(1.0 / self.distance, 1.0)

    def update(self, videos: tf.Tensor) -> None:
        """Learns from the targets of one batch, int32 `[B]`."""
        videos = tf.unique(videos)[0]
        self.step.assign_add(1.0)
        waited = self.step - tf.gather(self.last, videos)
        mean = tf.gather(self.distance, videos)
        self.distance.scatter_nd_update(videos[:, None], mean + STREAMING_RATE * (waited - mean))
        self.last.scatter_nd_update(videos[:, None], tf.fill(tf.shape(videos), self.step))


def hard_negatives(
    queries: tf.Tensor,
    pool: tf.Tensor,
    score: Callable[[tf.Tensor], tf.Tensor],
    candidates: tf.Tensor,
    positives: tf.RaggedTensor,
    count: int,
    num_videos: int,
) -> tf.Tensor:
    """Those of a pool that take most of the batch's softmax, and so teach most: found with the model as it is.

    References:
        Zhang et al., Optimizing top-n collaborative filtering via dynamic negative item sampling, SIGIR 2013, for one query.

    Args:
        queries: float32 `[B, D]`.
        pool: int32 `[P]` row numbers, drawn uniformly, of which some may be equal.
        score: logits float32 `[B, P']` of the queries with int32 `[P']` videos.
        candidates: int32 `[C]`, distinct: those that are there already.
        positives: ragged int32 `[B, None]`, what each user watched; it does not count for them.
        count: how many are wanted.
        num_videos: size of the catalogue.

    Returns:
        int32 `[count]` distinct row numbers that are no candidates; fewer, if the pool has no more.
    """
    present = tf.tensor_scatter_nd_update(tf.fill([num_videos], False), candidates[:, None], candidates >= 0)
    pool = tf.unique(pool)[0]
    pool = tf.boolean_mask(pool, ~tf.gather(present, pool))
    logits = score(pool) + positives_mask(pool, positives, None, num_videos)
    logits = tf.ensure_shape(logits, [None, None])  # the mask does not tell in a graph, and content towers ask
    shares = tf.reduce_sum(tf.nn.softmax(logits), axis=0)
    best = tf.math.top_k(shares, tf.minimum(count, tf.size(pool))).indices
    return tf.stop_gradient(tf.gather(pool, best))
