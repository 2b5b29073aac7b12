"""Builds the index that the configuration asks for, with as few leaves searched as reach the recall target.

The recall of an index is the share of the exact `RECALL_AT` nearest videos that it finds, over real query embeddings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfrec.config import IndexConfig
from tfrec.errors import TfrecError
from tfrec.index.base import Index, checked_embeddings
from tfrec.index.bfloat16 import BFloat16Index
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import Partition, ProgressCallback, partition
from tfrec.index.portable import PortableIndex

if TYPE_CHECKING:
    from tfrec.index.scann import ScannIndex

FloatMatrix = NDArray[np.float32]
RowMatrix = NDArray[np.int32]

RECALL_AT = 100
MAX_QUERIES = 1000
"""Queries that recall is measured on."""
LEAVES_PER_ROOT = 2
"""Leaves per square root of the number of videos: twice as many are searched twice as often, for the same videos scored."""
MAX_SEARCHED_SHARE = 0.25
"""Share of the leaves from which `auto` prefers exact search: the tree would hardly save anything."""
BLOCK = 65_536
"""Videos scored at once when the exact neighbours are found."""
TIMED_BATCHES = 20


@dataclass(frozen=True)
class IndexReport:
    """What was built and how good it is.

    Args:
        kind: `exact`, `bfloat16`, `scann` or `portable`.
        num_leaves: leaves of the tree; 0 without a tree.
        leaves_to_search: leaves searched per query; 0 without a tree.
        recall: share of the exact 100 nearest videos found, over `num_queries` queries.
        num_queries: queries that recall was measured on.
        build_seconds: time to build and tune.
        batch_1_ms: median milliseconds per query in this process, one query a call.
        batch_32_ms: the same for 32 queries a call, per query.
    """

    kind: str
    num_leaves: int
    leaves_to_search: int
    recall: float
    num_queries: int
    build_seconds: float
    batch_1_ms: float
    batch_32_ms: float


def build_index(
    embeddings: ArrayLike,
    config: IndexConfig,
    *,
    queries: ArrayLike,
    num_results: int = RECALL_AT,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> tuple[Index, IndexReport]:
    """Builds, tunes and measures an index.

    Args:
        embeddings: float `[N, D]`, one row per video.
        config: kind, leaves and recall target; what is 0 is chosen here.
        queries: float `[Q, D]` real query embeddings; at most `MAX_QUERIES` of them are drawn.
        num_results: results that a search of the portable tree finds for any query, however small its leaves.
        seed: of the sample of queries, and of the videos that the tree is trained on.
        progress: told how many videos are assigned to leaves, of how many.

    Returns:
        The index and what was measured on it.

    Raises:
        TfrecError: If embeddings or queries are empty, not finite or of different widths.
    """
    matrix = checked_embeddings(embeddings)
    sample = _sample(checked_embeddings(queries), matrix.shape[1], seed)
    nearest = exact_neighbours(matrix, sample, RECALL_AT)
    started = time.perf_counter()
    index = _build(matrix, config, sample, nearest, num_results, seed, progress)
    seconds = time.perf_counter() - started
    report = IndexReport(
        kind=index.name,
        num_leaves=index.num_leaves,
        leaves_to_search=int(index.leaves_to_search),
        recall=recall(index, sample, nearest),
        num_queries=len(sample),
        build_seconds=seconds,
        batch_1_ms=milliseconds_per_query(index, sample, 1),
        batch_32_ms=milliseconds_per_query(index, sample, 32),
    )
    return index, report


def exact_neighbours(embeddings: FloatMatrix, queries: FloatMatrix, k: int) -> RowMatrix:
    """The exact nearest rows, block by block, so that nothing of the catalogue's size is held.

    Args:
        embeddings: `[N, D]`.
        queries: `[Q, D]`.
        k: neighbours per query, at most `N` are found.

    Returns:
        int32 `[Q, min(k, N)]`.
    """
    scores, rows = tf.zeros([len(queries), 0]), tf.zeros([len(queries), 0], tf.int32)
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK]
        best = tf.math.top_k(tf.matmul(queries, block, transpose_b=True), min(k, len(block)))
        scores = tf.concat([scores, best.values], axis=1)
        rows = tf.concat([rows, best.indices + start], axis=1)
        scores, places = tf.math.top_k(scores, min(k, scores.shape[1]))
        rows = tf.gather(rows, places, batch_dims=1)
    return rows.numpy()


def recall(index: Index, queries: FloatMatrix, nearest: RowMatrix) -> float:
    """Share of the exact nearest videos that an index finds.

    Args:
        index: the index.
        queries: `[Q, D]`.
        nearest: int32 `[Q, k]`, the exact nearest rows.
    """
    found = index.search(queries, nearest.shape[1]).rows.numpy()
    return float(np.mean([np.isin(truth, rows).mean() for truth, rows in zip(nearest, found, strict=True)]))


def milliseconds_per_query(index: Index, queries: FloatMatrix, batch_size: int) -> float:
    """Median time per query in this process.

    Args:
        index: the index.
        queries: `[Q, D]`, taken in turn and again.
        batch_size: queries per call.
    """
    draws = np.arange((TIMED_BATCHES + 1) * batch_size) % len(queries)
    batches = tf.split(tf.gather(queries, draws), TIMED_BATCHES + 1)
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        index.search(batch, RECALL_AT)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:])) * 1000 / batch_size


def _sample(queries: FloatMatrix, dim: int, seed: int) -> FloatMatrix:
    if queries.shape[1] != dim:
        raise TfrecError(f"`queries` must be as wide as the embeddings, {dim}. Received: {queries.shape[1]}.")
    size = min(MAX_QUERIES, len(queries))
    return queries[np.random.default_rng(seed).choice(len(queries), size, replace=False)]


def _build(
    matrix: FloatMatrix,
    config: IndexConfig,
    queries: FloatMatrix,
    nearest: RowMatrix,
    num_results: int,
    seed: int,
    progress: ProgressCallback | None,
) -> Index:
    num_videos = len(matrix)
    if config.kind == "exact" or (config.kind == "auto" and num_videos <= config.exact_below):
        return ExactIndex(matrix)
    if config.kind == "bfloat16":
        return BFloat16Index(matrix)
    num_leaves = min(config.num_leaves or round(LEAVES_PER_ROOT * num_videos**0.5), num_videos)
    if config.kind == "scann":
        return _build_scann(matrix, num_leaves, config, queries, nearest)
    leaves = partition(matrix, num_leaves, seed, progress)
    chosen = config.leaves_to_search or max(
        fewest_leaves(leaves, queries, nearest, config.recall_target), leaves_that_hold(leaves, num_results)
    )
    if config.kind == "auto" and chosen > MAX_SEARCHED_SHARE * len(leaves.centroids):
        return ExactIndex(matrix)
    return PortableIndex(matrix, leaves, chosen, config.storage)


def fewest_leaves(leaves: Partition, queries: FloatMatrix, nearest: RowMatrix, recall_target: float) -> int:
    """How many of a query's best leaves hold the wanted share of its neighbours.

    Args:
        leaves: the partition of the videos.
        queries: `[Q, D]`.
        nearest: int32 `[Q, k]`, their exact nearest rows.
        recall_target: share wanted, in (0, 1].
    """
    affinity = queries @ leaves.centroids.T
    rank = np.argsort(np.argsort(-affinity, axis=1), axis=1)
    rank_of_nearest = np.take_along_axis(rank, leaves.leaf[nearest], axis=1)
    return int(np.quantile(rank_of_nearest, recall_target, method="inverted_cdf")) + 1


def leaves_that_hold(leaves: Partition, num_results: int) -> int:
    """How many leaves hold `num_results` videos, even where they are the smallest ones; at most all."""
    held = np.cumsum(np.sort(leaves.sizes))
    return min(int(np.searchsorted(held, num_results)) + 1, len(held))


def _build_scann(
    matrix: FloatMatrix, num_leaves: int, config: IndexConfig, queries: FloatMatrix, nearest: RowMatrix
) -> Index:
    # Imported here, since only this kind of index needs the native op in the graph.
    from tfrec.index.scann import TREE_FROM, ScannIndex

    if len(matrix) < TREE_FROM:
        return ScannIndex(matrix)
    index = ScannIndex(matrix, num_leaves, config.leaves_to_search or num_leaves)
    if not config.leaves_to_search:
        _search_fewer_leaves(index, queries, nearest, config.recall_target)
    return index


def _search_fewer_leaves(index: ScannIndex, queries: FloatMatrix, nearest: RowMatrix, recall_target: float) -> None:
    """Measures, since the recall of hashed vectors does not follow from the leaves alone."""
    fewest, enough = 1, index.num_leaves
    while fewest < enough:
        middle = (fewest + enough) // 2
        index.leaves_to_search.assign(middle)
        if recall(index, queries, nearest) >= recall_target:
            enough = middle
        else:
            fewest = middle + 1
    index.leaves_to_search.assign(enough)
