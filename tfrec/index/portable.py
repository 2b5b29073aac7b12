"""The ScaNN tree as stock TensorFlow ops: any unmodified server runs it.

The vectors lie sorted by leaf, so that a leaf is one contiguous run. A query is compared with all centroids, and the runs of
its best leaves are sliced out, scored and ranked together. The number of leaves searched is fixed when the graph is made, which
unrolls the loop over leaves; `benchmarks/index.py --formulations` shows this form beside those that lost to it.

A slice along the first axis is a view in TensorFlow, so that no vector is copied. Two things would turn each search into a copy
of the whole catalogue: `tf.gather` on the variable `vectors` (TensorFlow then copies it at every later read; gather from the
tensor that is read from it instead), and assigning to it while a search runs.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfrec.config import Storage
from tfrec.errors import TfrecError
from tfrec.index.base import NO_ROW, Index, SearchResult, checked_embeddings
from tfrec.index.partition import Partition

INT8_MAX = 127
PARALLEL_QUERIES = 32
"""Queries of a batch under way at once; TensorFlow's 10 let a second core wait."""


class PortableIndex(Index):
    """Searches the best leaves of a tree with stock ops.

    Args:
        embeddings: float `[N, D]`, one row per video.
        partition: the leaves of these videos.
        leaves_to_search: leaves searched per query, at most all.
        storage: type the vectors are kept in. `float16` takes half the memory, `int8` a quarter; scores are then those of the
            rounded vectors.

    Raises:
        TfrecError: If there is no video, an embedding is not finite or the partition is of other videos.
    """

    name: ClassVar[str] = "portable"

    def __init__(
        self, embeddings: ArrayLike, partition: Partition, leaves_to_search: int, storage: Storage = "float32"
    ) -> None:
        matrix = checked_embeddings(embeddings)
        if len(partition.leaf) != len(matrix):
            raise TfrecError(
                f"`partition` must be of the {len(matrix)} videos. Received: {len(partition.leaf)} videos."
            )
        super().__init__(*matrix.shape)
        self.rounds_scores = storage != "float32"
        self.num_leaves = len(partition.centroids)
        self.leaves_to_search = min(leaves_to_search, self.num_leaves)
        order = np.argsort(partition.leaf, kind="stable").astype(np.int32)
        ends = np.cumsum(partition.sizes)
        runs = np.stack([ends - partition.sizes, partition.sizes], axis=1).astype(np.int32)
        step = _int8_step(matrix) if storage == "int8" else np.ones(self.dim, np.float32)
        self.centroids = tf.Variable(partition.centroids, trainable=False, name="centroids")
        self.runs = tf.Variable(runs, trainable=False, name="runs")
        self.vectors = tf.Variable(_stored(matrix, order, step, storage), trainable=False, name="vectors")
        self.step = tf.Variable(step, trainable=False, name="step")
        # The last entry is the row of a slot that no video fills.
        self.rows = tf.Variable(np.append(order, np.int32(NO_ROW)), trainable=False, name="rows")

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        affinity = tf.matmul(queries, self.centroids, transpose_b=True)
        # Best first: the heap of the last top-k then holds high scores early, and hardly changes afterwards.
        leaves = tf.math.top_k(affinity, self.leaves_to_search).indices
        starts, sizes = tf.unstack(tf.gather(self.runs, leaves), axis=-1)
        scores, places = self._best_places(queries * self.step, starts, sizes, k)
        # Places count along the runs of the query; beyond their end lies the run of empty slots.
        ends = tf.cumsum(sizes, axis=1)
        offsets = tf.concat([starts - ends + sizes, tf.fill([tf.shape(queries)[0], 1], self.num_videos)], axis=1)
        run = tf.searchsorted(ends, places, side="right")
        positions = tf.minimum(places + tf.gather(offsets, run, batch_dims=1), self.num_videos)
        return SearchResult(scores, tf.gather(self.rows, positions))

    def _best_places(
        self, queries: tf.Tensor, starts: tf.Tensor, sizes: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `k` scores of each query `[B, k]`, and their places along its runs; then empty slots."""
        vectors = tf.convert_to_tensor(self.vectors)
        nothing = tf.fill([k, 1], -np.inf)
        # Where each slice begins and how large it is, in one tensor: each tensor more costs the loop microseconds.
        boxes = tf.stack([starts, tf.zeros_like(starts), sizes, tf.fill(tf.shape(sizes), self.dim)], axis=-1)
        boxes = tf.reshape(boxes, [-1, 2 * self.leaves_to_search, 2])

        def search_one(inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, corners_and_sizes = inputs[0], tf.unstack(inputs[1])
            blocks = map(partial(tf.slice, vectors), corners_and_sizes[::2], corners_and_sizes[1::2])
            scores = [tf.matmul(tf.cast(block, tf.float32), query[:, tf.newaxis]) for block in blocks]
            best = tf.math.top_k(tf.reshape(tf.concat([*scores, nothing], axis=0), [-1]), k)
            return best.values, best.indices

        outputs = (tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32))
        return tf.map_fn(
            search_one, (queries, boxes), fn_output_signature=outputs, parallel_iterations=PARALLEL_QUERIES
        )


def _int8_step(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 `[D]`: what one unit of int8 is worth in each dimension."""
    largest = np.maximum(matrix.max(axis=0), -matrix.min(axis=0))
    return np.where(largest > 0, largest / INT8_MAX, 1).astype(np.float32)


def _stored(
    matrix: NDArray[np.float32], order: NDArray[np.int32], step: NDArray[np.float32], storage: Storage
) -> NDArray[np.generic]:
    if storage == "float32":
        return matrix[order]
    vectors = np.empty(matrix.shape, storage)
    for block in np.array_split(np.arange(len(order)), len(order) // 65_536 + 1):
        scaled = matrix[order[block]] / step
        vectors[block] = np.rint(scaled) if storage == "int8" else scaled
    return vectors
