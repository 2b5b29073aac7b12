"""Exact search: the whole catalogue is scored for every query.

The reference that the other indexes are measured against, and the fastest choice for small catalogues.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import tensorflow as tf
from numpy.typing import ArrayLike

from tfrec.index.base import Index, SearchResult, checked_embeddings, pad_to

MAX_SCORES = 1 << 25
"""Scores held at once (128 MiB), unless the catalogue alone is larger."""


class FlatIndex(Index):
    """Looks at all videos for every query.

    Large batches are cut into blocks of queries, so that the scores in memory stay bounded.

    Args:
        embeddings: float `[N, D]`, one row per video.

    Raises:
        TfrecError: If there is no video or an embedding is not finite.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        matrix = checked_embeddings(embeddings)
        super().__init__(*matrix.shape)
        self.embeddings = tf.Variable(matrix, trainable=False, name="embeddings")

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        block = max(1, MAX_SCORES // self.num_videos)
        num_queries = tf.shape(queries)[0]
        num_blocks = (num_queries + block - 1) // block
        found = tf.minimum(k, self.num_videos)
        scores = tf.TensorArray(tf.float32, num_blocks, infer_shape=False, element_shape=[None, None])
        rows = tf.TensorArray(tf.int32, num_blocks, infer_shape=False, element_shape=[None, None])
        for number in tf.range(num_blocks):
            part = self._top(queries[number * block : (number + 1) * block], found)
            scores, rows = scores.write(number, part.scores), rows.write(number, part.rows)
        shape = [num_queries, found]
        return pad_to(SearchResult(tf.reshape(scores.concat(), shape), tf.reshape(rows.concat(), shape)), k)

    @abc.abstractmethod
    def _top(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        """The `k` best videos, at most as many as there are, for a block of queries."""


class ExactIndex(FlatIndex):
    """Scores all videos in float32."""

    name: ClassVar[str] = "exact"

    def _top(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        return SearchResult(*tf.math.top_k(tf.matmul(queries, self.embeddings, transpose_b=True), k))
