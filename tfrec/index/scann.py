"""The native ScaNN op: fastest on CPU, but it needs a server that has the op (`import scann` registers it in Python).

Small catalogues are scored by brute force; from `TREE_FROM` videos on, a tree chooses leaves, asymmetric hashing scores their
videos and the best are scored again exactly.

References:
    Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization, ICML 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from scann.scann_ops.py import scann_ops

from tfrec.index.base import NO_ROW, Index, SearchResult, checked_embeddings, pad_to

TREE_FROM = 10_000
"""Catalogue size from which a tree pays."""
TRAINING_SAMPLE = 100_000
"""Videos that the tree and the hashes are trained on."""
MIN_RESCORED = 200
RESCORED_PER_RESULT = 4
"""Videos scored exactly after hashing: so many per result wanted, and never fewer than `MIN_RESCORED`."""


class ScannIndex(Index):
    """Searches with the native ScaNN op.

    Args:
        embeddings: float `[N, D]`, one row per video.
        num_leaves: leaves of the tree; 0 means no tree, all videos are scored exactly.
        leaves_to_search: leaves searched per query, at most all; may be assigned to at any time.

    Raises:
        TfrecError: If there is no video or an embedding is not finite.
    """

    name: ClassVar[str] = "scann"
    leaves_to_search: tf.Variable

    def __init__(self, embeddings: ArrayLike, num_leaves: int = 0, leaves_to_search: int = 1) -> None:
        matrix = checked_embeddings(embeddings)
        super().__init__(*matrix.shape)
        self.num_leaves = num_leaves
        self.leaves_to_search = tf.Variable(
            min(leaves_to_search, num_leaves), trainable=False, dtype=tf.int32, name="leaves_to_search"
        )
        self._searcher = _build(matrix, num_leaves).serialize_to_module()

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        searcher = scann_ops.searcher_from_module(self._searcher)
        found = tf.clip_by_value(k, 1, self.num_videos)  # the op refuses 0
        rows, scores = searcher.search_batched(
            queries,
            final_num_neighbors=found,
            pre_reorder_num_neighbors=tf.maximum(RESCORED_PER_RESULT * found, MIN_RESCORED),
            leaves_to_search=self.leaves_to_search,
        )
        # Where one query finds fewer than another, the op fills up with score NaN and row 0.
        rows, scores = rows[:, :k], scores[:, :k]
        empty = tf.math.is_nan(scores)
        rows = tf.where(empty, NO_ROW, tf.cast(rows, tf.int32))
        return pad_to(SearchResult(tf.where(empty, -np.inf, scores), rows), k)


def _build(matrix: NDArray[np.float32], num_leaves: int) -> Any:
    builder = scann_ops.builder(matrix, 100, "dot_product")
    if num_leaves == 0:
        return builder.score_brute_force().build()
    sample = min(TRAINING_SAMPLE, len(matrix))
    tree = builder.tree(num_leaves, 1, training_sample_size=sample, min_partition_size=1)
    hashed = tree.score_ah(2, anisotropic_quantization_threshold=0.2, training_sample_size=sample)
    return hashed.reorder(MIN_RESCORED).build()
