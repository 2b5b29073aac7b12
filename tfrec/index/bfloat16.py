"""Exact search made for GPUs: all videos are scored in bfloat16, and the best of them again in float32.

A GPU reads the vectors once per batch and multiplies bfloat16 on its tensor cores, so the time is that of reading half the bytes
of float32; no tree saves anything there below some tens of millions of videos. Every op has a GPU kernel. bfloat16 keeps 8 bits
of a number, so the order near the k-th place is uncertain: more than k are scored again.
"""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf
from numpy.typing import ArrayLike

from tfrec.index.base import SearchResult
from tfrec.index.exact import FlatIndex

SPARE = 64
"""Videos scored again beyond twice the `k` wanted."""


class BFloat16Index(FlatIndex):
    """Scores all videos in bfloat16, then the nearest in float32.

    Args:
        embeddings: float `[N, D]`, one row per video; kept in both types.
    """

    name: ClassVar[str] = "bfloat16"

    def __init__(self, embeddings: ArrayLike) -> None:
        super().__init__(embeddings)
        self.rounded = tf.Variable(tf.cast(self.embeddings, tf.bfloat16), trainable=False, name="rounded")

    def _top(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        rough = tf.matmul(tf.cast(queries, tf.bfloat16), self.rounded, transpose_b=True)
        nearest = tf.math.top_k(tf.cast(rough, tf.float32), tf.minimum(2 * k + SPARE, self.num_videos)).indices
        vectors = tf.gather(tf.convert_to_tensor(self.embeddings), nearest)  # see docs/index.md on gathering
        scores = tf.squeeze(tf.matmul(vectors, queries[:, :, tf.newaxis]), 2)
        best = tf.math.top_k(scores, k)
        return SearchResult(best.values, tf.gather(nearest, best.indices, batch_dims=1))
