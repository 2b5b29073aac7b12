"""The ScaNN tree as stock TensorFlow ops: any unmodified server runs it.

The vectors lie sorted by leaf, so that a leaf is one contiguous run of rows. A query is compared with all centroids, and the
runs of its best leaves are sliced out, scored and ranked together. A slice along the first axis is a view in TensorFlow: no
vector is copied, and the index takes hardly more memory than the vectors. The number of leaves searched is fixed when the
graph is made, which unrolls the loop over leaves.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfrec.index.base import Index, SearchResult, checked_embeddings, pad_to
from tfrec.index.partition import Partition


class PortableIndex(Index):
    """Searches the best leaves of a tree with stock ops.

    Args:
        embeddings: float `[N, D]`, one row per video.
        partition: the leaves of these videos.
        leaves_to_search: leaves searched per query, at most all.

    Raises:
        TfrecError: If there is no video or an embedding is not finite.
    """

    name: ClassVar[str] = "portable"

    def __init__(self, embeddings: ArrayLike, partition: Partition, leaves_to_search: int) -> None:
        matrix = checked_embeddings(embeddings)
        super().__init__(*matrix.shape)
        self.num_leaves = len(partition.centroids)
        self.leaves_to_search = min(leaves_to_search, self.num_leaves)
        order = np.argsort(partition.leaf, kind="stable").astype(np.int32)
        sizes = partition.sizes.astype(np.int32)
        self.centroids = tf.Variable(partition.centroids, trainable=False, name="centroids")
        self.vectors = tf.Variable(matrix[order], trainable=False, name="vectors")
        self.rows = tf.Variable(order, trainable=False, name="rows")
        self.sizes = tf.Variable(sizes, trainable=False, name="sizes")
        self.starts = tf.Variable(np.cumsum(sizes, dtype=np.int32) - sizes, trainable=False, name="starts")

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        affinity = tf.matmul(queries, self.centroids, transpose_b=True)
        leaves = tf.math.top_k(affinity, self.leaves_to_search, sorted=False).indices
        starts, sizes = tf.gather(self.starts, leaves), tf.gather(self.sizes, leaves)
        vectors, rows = tf.convert_to_tensor(self.vectors), tf.convert_to_tensor(self.rows)

        def search_one(inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> SearchResult:
            query, starts, sizes = inputs
            scores = self._score_leaves(query, vectors, starts, sizes)
            best, places = tf.math.top_k(scores, tf.minimum(k, tf.size(scores)))
            found = SearchResult(best[tf.newaxis], tf.gather(rows, _positions(places, starts, sizes))[tf.newaxis])
            return SearchResult(*(part[0] for part in pad_to(found, k)))

        outputs = SearchResult(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32))
        result = tf.map_fn(search_one, (queries, starts, sizes), fn_output_signature=outputs)
        shape = [tf.shape(queries)[0], k]
        return SearchResult(*(tf.reshape(part, shape) for part in result))

    def _score_leaves(self, query: tf.Tensor, vectors: tf.Tensor, starts: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        column = query[:, tf.newaxis]
        runs = zip(tf.unstack(starts, self.leaves_to_search), tf.unstack(sizes, self.leaves_to_search), strict=True)
        scores = [tf.matmul(tf.slice(vectors, [start, 0], [size, self.dim]), column) for start, size in runs]
        return tf.reshape(tf.concat(scores, axis=0), [-1])


def _positions(places: tf.Tensor, starts: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Where in the sorted vectors a place among the concatenated runs lies."""
    ends = tf.cumsum(sizes)
    run = tf.searchsorted(ends, places, side="right")
    return places + tf.gather(starts - ends + sizes, run)
