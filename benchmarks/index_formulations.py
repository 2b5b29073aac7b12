"""Ways to search the leaves of one tree in stock ops, which `benchmarks/index.py --formulations` compares with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.index.partition import Partition, partition

K = 100
GROUP = 8
"""Scores in a group."""

Matrix = NDArray[np.float32]
Search = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Best = tuple[tf.Tensor, tf.Tensor]


def formulations(embeddings: Matrix, leaves: Partition, leaves_to_search: int) -> dict[str, Search]:
    """The forms that are not in use, by name."""
    tables = LeafTables(embeddings, leaves, leaves_to_search)
    fewest_scores = np.sort(leaves.sizes)[:leaves_to_search].sum()
    by_groups = {"groups' maxima, then top-k": unrolled_slices(tables, top=_top_by_groups)}
    return {
        **(by_groups if fewest_scores // GROUP >= K else {}),
        "leaves in any order": unrolled_slices(tables, best_first=False),
        "10 queries under way": unrolled_slices(tables, parallel=10),
        "k-th score, then top-k": unrolled_slices(tables, top=_top_by_nth),
        "leaves joined, one product": unrolled_slices(tables, joined=True),
        "MapDefun": unrolled_slices(tables, loop="defun"),
        "slices in a loop": slices_in_a_loop(tables),
        "ragged gather per query": ragged_gather_per_query(tables),
        "flat ragged gather": flat_ragged_gather(tables),
        "padded blocks": padded_blocks(tables),
        "two-level tree, ragged gather": two_level_tree(tables),
        "projected first pass": projected_first_pass(tables),
    }


class LeafTables:
    """What the formulations share: the tree of a partition as tensors.

    Args:
        embeddings: `[N, D]`.
        leaves: their partition.
        leaves_to_search: leaves searched.
    """

    def __init__(self, embeddings: Matrix, leaves: Partition, leaves_to_search: int) -> None:
        order = np.argsort(leaves.leaf, kind="stable")
        self.leaves_to_search = leaves_to_search
        self.centroids = tf.Variable(leaves.centroids)
        self.vectors = tf.Variable(embeddings[order])
        self.rows = tf.Variable(order.astype(np.int32))
        self.sizes = tf.Variable(leaves.sizes.astype(np.int32))
        self.starts = tf.Variable((np.cumsum(leaves.sizes) - leaves.sizes).astype(np.int32))

    def best_leaves(self, queries: tf.Tensor) -> tf.Tensor:
        """int32 `[B, leaves_to_search]`."""
        affinity = tf.matmul(queries, self.centroids, transpose_b=True)
        return tf.math.top_k(affinity, self.leaves_to_search, sorted=False).indices

    def positions(self, leaves: tf.Tensor) -> tf.RaggedTensor:
        """Positions in `vectors` of all videos of the leaves of each query."""
        starts, sizes = tf.gather(self.starts, leaves), tf.gather(self.sizes, leaves)
        runs = tf.ragged.range(tf.reshape(starts, [-1]), tf.reshape(starts + sizes, [-1]))
        ends = tf.concat([[0], tf.cumsum(tf.reduce_sum(sizes, axis=1))], axis=0)
        return tf.RaggedTensor.from_row_splits(runs.flat_values, ends, validate=False)


def unrolled_slices(
    tables: LeafTables,
    *,
    best_first: bool = True,
    parallel: int = 32,
    joined: bool = False,
    loop: Literal["map", "defun"] = "map",
    top: Callable[[tf.Tensor], Best] | None = None,
) -> Search:
    """Our form with one thing changed.

    Args:
        tables: the tree.
        best_first: whether leaves are sorted by their affinity.
        parallel: queries under way at once.
        joined: copies the leaves into one matrix for one product, instead of one product per leaf.
        loop: `tf.map_fn`, or the op MapDefun, which calls a function for each query.
        top: takes the best `K` of float32 `[n]` scores, and their places.
    """
    count = tables.leaves_to_search

    @tf.function(reduce_retracing=True, autograph=False)
    def search(queries: tf.Tensor) -> Best:
        affinity = tf.matmul(queries, tables.centroids, transpose_b=True)
        leaves = tf.math.top_k(affinity, count, sorted=best_first).indices
        starts, sizes = tf.gather(tables.starts, leaves), tf.gather(tables.sizes, leaves)
        vectors = tf.convert_to_tensor(tables.vectors)
        boxes = tf.stack([starts, tf.zeros_like(starts), sizes, tf.fill(tf.shape(sizes), vectors.shape[1])], axis=-1)
        boxes = tf.reshape(boxes, [-1, 2 * count, 2])

        def search_one(query: tf.Tensor, corners: tf.Tensor) -> Best:
            corners = tf.unstack(corners)
            blocks = list(map(lambda begin, size: tf.slice(vectors, begin, size), corners[::2], corners[1::2]))
            blocks = [tf.concat(blocks, axis=0)] if joined else blocks
            products = tf.concat([tf.matmul(block, query[:, tf.newaxis]) for block in blocks], axis=0)
            return (top or _top)(tf.reshape(products, [-1]))

        if loop == "map":
            outputs = (tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32))
            scores, places = tf.map_fn(
                lambda one: search_one(*one),
                (queries, boxes),
                fn_output_signature=outputs,
                parallel_iterations=parallel,
            )
        else:
            specs = [tf.TensorSpec([vectors.shape[1]], tf.float32), tf.TensorSpec([2 * count, 2], tf.int32)]
            body = tf.function(search_one, specs, autograph=False).get_concrete_function()
            scores, places = tf.raw_ops.MapDefun(
                arguments=[queries, boxes],
                captured_inputs=[outer for outer, _ in body.graph.captures],
                output_types=[tf.float32, tf.int32],
                output_shapes=[[K], [K]],
                f=body,
            )
        ends = tf.cumsum(sizes, axis=1)
        run = tf.searchsorted(ends, places, side="right")
        return scores, tf.gather(tables.rows, places + tf.gather(starts - ends + sizes, run, batch_dims=1))

    return search


def _top(scores: tf.Tensor) -> Best:
    best = tf.math.top_k(scores, K)
    return best.values, best.indices


def _top_by_groups(scores: tf.Tensor) -> Best:
    """Nothing below the `K`-th largest maximum of groups of scores can be among the best."""
    whole = tf.size(scores) // GROUP * GROUP
    maxima = tf.reduce_max(tf.reshape(scores[:whole], [GROUP, -1]), axis=0)
    return _top_from(scores, tf.reduce_min(tf.math.top_k(maxima, K, sorted=False).values))


def _top_by_nth(scores: tf.Tensor) -> Best:
    return _top_from(scores, tf.raw_ops.NthElement(input=scores, n=K - 1, reverse=True))


def _top_from(scores: tf.Tensor, least: tf.Tensor) -> Best:
    places = tf.cast(tf.where(scores >= least)[:, 0], tf.int32)
    best = tf.math.top_k(tf.gather(scores, places), K)
    return best.values, tf.gather(places, best.indices)


def ragged_gather_per_query(tables: LeafTables) -> Search:
    """Gathers (copies) the leaves of one query after the other."""

    @tf.function(reduce_retracing=True, autograph=False)
    def search(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = tables.positions(tables.best_leaves(queries))
        vectors = tf.convert_to_tensor(tables.vectors)

        def search_one(inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, places = inputs
            best = tf.math.top_k(tf.linalg.matvec(tf.gather(vectors, places), query), K)
            return best.values, tf.gather(tables.rows, tf.gather(places, best.indices))

        return tf.map_fn(search_one, (queries, positions), fn_output_signature=(tf.float32, tf.int32))

    return search


def flat_ragged_gather(tables: LeafTables) -> Search:
    """Gathers (copies) the leaves of the whole batch at once, without a loop."""

    @tf.function(reduce_retracing=True, autograph=False)
    def search(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = tables.positions(tables.best_leaves(queries))
        vectors = tf.gather(tf.convert_to_tensor(tables.vectors), positions.flat_values)
        products = tf.reduce_sum(vectors * tf.gather(queries, positions.value_rowids()), axis=1)
        scores = positions.with_flat_values(products).to_tensor(-np.inf)
        best = tf.math.top_k(scores, K)
        return best.values, tf.gather(tables.rows, tf.gather(positions.to_tensor(), best.indices, batch_dims=1))

    return search


def padded_blocks(tables: LeafTables) -> Search:
    """Leaves cut and padded to blocks of one size, gathered (copied) at once; each leaf is searched to its 0.9 quantile."""
    sizes, starts = tables.sizes.numpy(), tables.starts.numpy()
    width = int(np.quantile(sizes, 0.9))
    inside = np.arange(width) < sizes[:, np.newaxis]
    places = np.where(inside, starts[:, np.newaxis] + np.arange(width), 0)
    blocks = tf.Variable(np.where(inside[..., np.newaxis], tables.vectors.numpy()[places], 0))
    rows = tf.Variable(np.where(inside, tables.rows.numpy()[places], -1))

    @tf.function(reduce_retracing=True, autograph=False)
    def search(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        leaves = tables.best_leaves(queries)
        scores = tf.einsum("bswd,bd->bsw", tf.gather(blocks, leaves), queries)
        best = tf.math.top_k(tf.reshape(scores, [tf.shape(queries)[0], -1]), K)
        leaf = tf.gather(leaves, best.indices // width, batch_dims=1)
        return best.values, tf.gather_nd(rows, tf.stack([leaf, best.indices % width], axis=-1))

    return search


def slices_in_a_loop(tables: LeafTables) -> Search:
    """The views of the leaves, in a second loop instead of unrolled."""

    @tf.function(reduce_retracing=True)
    def search(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        leaves = tables.best_leaves(queries)
        starts, sizes = tf.gather(tables.starts, leaves), tf.gather(tables.sizes, leaves)
        positions = tables.positions(leaves)
        vectors = tf.convert_to_tensor(tables.vectors)

        def search_one(inputs: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            query, starts, sizes, places = inputs
            scores = tf.TensorArray(tf.float32, tables.leaves_to_search, infer_shape=False, element_shape=[None])
            for leaf in tf.range(tables.leaves_to_search):
                block = vectors[starts[leaf] : starts[leaf] + sizes[leaf]]
                scores = scores.write(leaf, tf.linalg.matvec(block, query))
            best = tf.math.top_k(scores.concat(), K)
            return best.values, tf.gather(tables.rows, tf.gather(places, best.indices))

        inputs = (queries, starts, sizes, positions)
        return tf.map_fn(search_one, inputs, fn_output_signature=(tf.float32, tf.int32))

    return search


def two_level_tree(tables: LeafTables, seed: int = 0) -> Search:
    """Compares queries with the centroids of the best quarter of the super-leaves only, then gathers per query."""
    centroids = tables.centroids.numpy()
    num_upper = round(len(centroids) ** 0.5)
    upper = partition(centroids, num_upper, seed)
    members = tf.ragged.stack(
        [np.flatnonzero(upper.leaf == number) for number in range(len(upper.centroids))]
    ).to_tensor(-1)
    upper_centroids, num_searched = tf.Variable(upper.centroids), max(1, num_upper // 4)

    class TwoLevel(LeafTables):
        def __init__(self) -> None:
            self.__dict__.update(tables.__dict__)

        def best_leaves(self, queries: tf.Tensor) -> tf.Tensor:
            affinity = tf.matmul(queries, upper_centroids, transpose_b=True)
            chosen = tf.math.top_k(affinity, num_searched, sorted=False).indices
            leaves = tf.reshape(tf.gather(tf.cast(members, tf.int32), chosen), [tf.shape(queries)[0], -1])
            compared = tf.gather(tf.convert_to_tensor(self.centroids), tf.maximum(leaves, 0))
            scores = tf.where(leaves < 0, -np.inf, tf.einsum("bld,bd->bl", compared, queries))
            best = tf.math.top_k(scores, self.leaves_to_search, sorted=False).indices
            return tf.gather(leaves, best, batch_dims=1)

    return ragged_gather_per_query(TwoLevel())


def projected_first_pass(tables: LeafTables, width: int = 16) -> Search:
    """Scores the leaves on their `width` strongest principal axes, then the best 4 K on all."""
    vectors = tables.vectors.numpy()
    axes = np.linalg.eigh(np.cov(vectors[:: max(1, len(vectors) // 50_000)].T))[1][:, -width:].astype(np.float32)
    projected = tf.Variable(vectors @ axes)

    @tf.function(reduce_retracing=True, autograph=False)
    def search(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = tables.positions(tables.best_leaves(queries))
        short, full = tf.convert_to_tensor(projected), tf.convert_to_tensor(tables.vectors)

        def search_one(inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, places = inputs
            rough = tf.linalg.matvec(tf.gather(short, places), tf.linalg.matvec(axes, query, transpose_a=True))
            places = tf.gather(places, tf.math.top_k(rough, tf.minimum(4 * K, tf.size(rough)), sorted=False).indices)
            best = tf.math.top_k(tf.linalg.matvec(tf.gather(full, places), query), K)
            return best.values, tf.gather(tables.rows, tf.gather(places, best.indices))

        return tf.map_fn(search_one, (queries, positions), fn_output_signature=(tf.float32, tf.int32))

    return search
