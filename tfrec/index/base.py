"""What every index is: a `tf.Module` that finds the videos whose embeddings have the largest inner product with a query.

Terms. A *row* is a row number of the catalogue. `N` videos, `D` dimensions, `B` queries, `k` neighbours wanted per query.
*Maximum inner product search* (MIPS) is what the index does; embeddings are taken as they are, never normalised.

An index is searched inside a graph: it is exported as a part of a SavedModel, and no Python runs when it serves.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfrec.errors import TfrecError

NO_ROW = -1
"""Row of a slot for which no video was found."""


class SearchResult(NamedTuple):
    """The nearest videos.

    Args:
        scores: float32 `[B, k]` inner products, descending; -inf where fewer than `k` videos were found.
        rows: int32 `[B, k]` row numbers; -1 where fewer than `k` videos were found.
    """

    scores: tf.Tensor
    rows: tf.Tensor


class Index(tf.Module, abc.ABC):
    """Finds the videos whose embeddings have the largest inner product with a query embedding.

    Args:
        num_videos: number of videos indexed.
        dim: width of the embeddings.
    """

    name: ClassVar[str]
    num_leaves: int = 0
    """Leaves of the tree, 0 where there is none."""
    leaves_to_search: int | tf.Variable = 0
    """Leaves searched per query, 0 where there is no tree."""
    rounds_scores: bool = False
    """Whether scores are those of rounded vectors."""

    def __init__(self, num_videos: int, dim: int) -> None:
        super().__init__()
        self.num_videos = num_videos
        self.dim = dim
        signature = [tf.TensorSpec([None, dim], tf.float32, "queries"), tf.TensorSpec([], tf.int32, "k")]
        self.search_graph = tf.function(self._search_batch, input_signature=signature)

    def search(self, queries: tf.Tensor, k: int | tf.Tensor) -> SearchResult:
        """The `k` videos with the largest inner product, for each query; works eagerly and inside a graph.

        Args:
            queries: float32 `[B, D]`; `B` may be 0.
            k: neighbours per query, a Python number or an int32 scalar; may exceed the number of videos.

        Returns:
            Scores and rows, `[B, k]`.

        Raises:
            TfrecError: If the queries have another width than the index, or `k` is negative.
        """
        queries = tf.convert_to_tensor(queries, tf.float32)
        if queries.shape.rank != 2 or queries.shape[1] not in (None, self.dim):
            raise TfrecError(f"`queries` must have shape [batch, {self.dim}]. Received: {queries.shape}.")
        if isinstance(k, int) and k < 0:
            raise TfrecError(f"`k` must be 0 or more. Received: {k}.")
        scores, rows = self.search_graph(queries, k)
        width = k if isinstance(k, int) else None
        return SearchResult(tf.ensure_shape(scores, [None, width]), tf.ensure_shape(rows, [None, width]))

    def _search_batch(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        num_queries = tf.shape(queries)[0]
        # A loop over no query has no shape: an empty batch is searched as one query, whose result is cut off.
        filler = tf.cast(tf.equal(num_queries, 0), tf.int32)
        scores, rows = self._search(tf.pad(queries, [[0, filler], [0, 0]]), k)
        return SearchResult(scores[:num_queries], rows[:num_queries])

    @abc.abstractmethod
    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> SearchResult:
        """The graph of `search`, for at least one query."""


def checked_embeddings(embeddings: ArrayLike) -> NDArray[np.float32]:
    """The embeddings as a contiguous float32 matrix, refused where no index could be built from them.

    Args:
        embeddings: `[N, D]`, any float type.

    Returns:
        float32 `[N, D]`; the same memory where it already is one.

    Raises:
        TfrecError: If there is no video, the array is not a matrix or a value is not finite.
    """
    matrix = np.ascontiguousarray(embeddings, np.float32)
    if matrix.ndim != 2 or matrix.size == 0:
        raise TfrecError(f"`embeddings` must have shape [videos, dim], both at least 1. Received: {matrix.shape}.")
    # The extremes show a NaN or an infinity without a second array of the catalogue's size.
    if not (np.isfinite(matrix.min()) and np.isfinite(matrix.max())):
        row = next(row for row, vector in enumerate(matrix) if not np.isfinite(vector).all())
        raise TfrecError(f"`embeddings` must be finite. Received: {matrix[row]} in row {row}. Was training stable?")
    return matrix


def pad_to(result: SearchResult, k: tf.Tensor) -> SearchResult:
    """Fills up to `k` slots with score -inf and row -1.

    Args:
        result: `[B, found]`, at most `k` neighbours per query.
        k: int32 scalar.
    """
    padding = [[0, 0], [0, k - tf.shape(result.rows)[1]]]
    return SearchResult(
        tf.pad(result.scores, padding, constant_values=-np.inf),
        tf.pad(result.rows, padding, constant_values=NO_ROW),
    )
