"""Splits the catalogue into leaves: ScaNN trains the tree on a sample, then every video goes to its nearest leaf.

Terms. A *leaf* is a cell of the partition, its *centroid* the mean direction that queries are compared with. Nearest means
Euclidean, as ScaNN tokenises its database: near a centroid in that sense, inner products with any query are near too.

Memory stays bounded by the sample and one block of videos, whatever the size of the catalogue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from scann.partitioning import partitioner_pb2
from scann.scann_ops.py import scann_ops_pybind

from tfrec.index.base import checked_embeddings

FloatMatrix = NDArray[np.float32]
ProgressCallback = Callable[[int, int], None]

SAMPLE_PER_LEAF = 64
"""Videos per leaf that the tree is trained on."""
MAX_AFFINITIES = 1 << 24
"""Affinities of videos and leaves held at once (64 MiB)."""
MIN_SHARE = 0.25
"""Leaves below this share of the mean size are dissolved: searched, they would cost a slot and give nearly nothing."""


@dataclass(frozen=True)
class Partition:
    """Which video lies in which leaf.

    Args:
        centroids: float32 `[num_leaves, D]`.
        leaf: int32 `[N]`, the leaf of each video.
    """

    centroids: FloatMatrix
    leaf: NDArray[np.int32]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 `[num_leaves]`: videos per leaf."""
        return np.bincount(self.leaf, minlength=len(self.centroids))


def partition(
    embeddings: ArrayLike, num_leaves: int, seed: int = 0, progress: ProgressCallback | None = None
) -> Partition:
    """Trains a tree and assigns every video.

    Args:
        embeddings: float `[N, D]`, one row per video.
        num_leaves: leaves wanted; fewer come out where videos coincide.
        seed: of the sample.
        progress: told how many videos are assigned, of how many.

    Raises:
        TfrecError: If there is no video or an embedding is not finite.
    """
    matrix = checked_embeddings(embeddings)
    centroids = _train_centroids(matrix, min(num_leaves, len(matrix)), seed)
    leaf = _nearest(matrix, centroids, progress)
    sizes = np.bincount(leaf, minlength=len(centroids))
    kept = sizes >= MIN_SHARE * len(matrix) / len(centroids)
    moved = np.flatnonzero(~kept[leaf])
    centroids, leaf = centroids[kept], (np.cumsum(kept) - 1).astype(np.int32)[leaf]
    leaf[moved] = _nearest(matrix[moved], centroids)
    return Partition(centroids, leaf)


def _train_centroids(embeddings: FloatMatrix, num_leaves: int, seed: int) -> FloatMatrix:
    if num_leaves == 1:
        return embeddings.mean(axis=0, keepdims=True)  # ScaNN trains no tree of one leaf
    size = min(len(embeddings), num_leaves * SAMPLE_PER_LEAF)
    rows = np.sort(np.random.default_rng(seed).choice(len(embeddings), size, replace=False))
    builder = scann_ops_pybind.builder(embeddings[rows], 1, "dot_product")
    tree = builder.tree(num_leaves, 1, training_sample_size=size, min_partition_size=1)
    with tempfile.TemporaryDirectory() as folder:
        tree.score_brute_force().build().serialize(folder)
        content = Path(folder, "serialized_partitioner.pb").read_bytes()
    centers = partitioner_pb2.SerializedPartitioner.FromString(content).kmeans.kmeans_tree.root.centers
    centroids = np.array([center.dimension for center in centers], np.float32)
    return centroids[np.lexsort(centroids.T)]  # ScaNN's order differs from run to run


def _nearest(
    embeddings: FloatMatrix, centroids: FloatMatrix, progress: ProgressCallback | None = None
) -> NDArray[np.int32]:
    leaf = np.empty(len(embeddings), np.int32)
    half_norms = np.square(centroids).sum(axis=1) / 2
    size = max(1, MAX_AFFINITIES // len(centroids))
    for start in range(0, len(embeddings), size):
        block = slice(start, start + size)
        # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest.
        affinity = tf.matmul(embeddings[block], centroids, transpose_b=True) - half_norms
        leaf[block] = tf.argmax(affinity, axis=1, output_type=tf.int32)
        if progress:
            progress(min(start + size, len(embeddings)), len(embeddings))
    return leaf
