"""The indexes side by side, in one process and on the same clustered embeddings.

    python benchmarks/index.py [--sizes 20000 100000 1000000] [--spread 1.0]
    python benchmarks/index.py --formulations [--sizes 1000000]

The first form compares exact search, the native ScaNN op and its tree as stock ops, at equal leaves. The second compares ways
to write the search of the leaves in stock ops, on one tree, with the one that `tfrec.index.portable` uses in the first line.

Times are the lower quartile of calls that alternate between the contenders, so that other load on the machine meets all of them
alike; the ratios are what to look at. Embeddings: as many cluster centres as the square root of the catalogue size, and noise of
`spread` times their length around them; the queries are drawn the same way.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from tfrec.console import console
from tfrec.index.base import Index
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import Partition, partition
from tfrec.index.portable import PortableIndex
from tfrec.index.scann import ScannIndex
from tfrec.index.tune import LEAVES_PER_ROOT, exact_neighbours, fewest_leaves

DIM = 64
K = 100
NUM_QUERIES = 512
RECALL_TARGET = 0.98
SECONDS_PER_CONTENDER = 4.0

Matrix = NDArray[np.float32]
Search = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def clustered(num_videos: int, spread: float, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Embeddings and queries around common centres of length about 1."""
    generator = np.random.default_rng(seed)
    num_centres = round(num_videos**0.5)
    centres = generator.standard_normal((num_centres, DIM), np.float32) / DIM**0.5

    def draw(number: int) -> Matrix:
        vectors = generator.standard_normal((number, DIM), np.float32)
        vectors *= spread / DIM**0.5
        vectors += centres[generator.integers(num_centres, size=number)]
        return vectors

    return draw(num_videos), draw(NUM_QUERIES)


def memory_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def recall(search: Search, queries: Matrix, nearest: NDArray[np.int32]) -> float:
    found = search(tf.constant(queries))[1].numpy()
    return float(np.mean([np.isin(truth, rows).mean() for truth, rows in zip(nearest, found, strict=True)]))


def milliseconds(contenders: Mapping[str, Search], queries: Matrix, batch_size: int) -> dict[str, float]:
    """Lower quartile of the time per query; the contenders take turns."""
    batches = [tf.constant(queries[i : i + batch_size]) for i in range(0, NUM_QUERIES - batch_size + 1, batch_size)]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for search in contenders.values():
        search(batches[0])
    deadline = time.perf_counter() + SECONDS_PER_CONTENDER * len(contenders)
    turn = 0
    while turn < 5 or (time.perf_counter() < deadline and turn < 400):
        for name, search in contenders.items():
            started = time.perf_counter()
            search(batches[turn % len(batches)])
            seconds[name].append(time.perf_counter() - started)
        turn += 1
    return {name: float(np.percentile(values, 25)) * 1000 / batch_size for name, values in seconds.items()}


def print_contenders(title: str, contenders: Mapping[str, Search], queries: Matrix, nearest: NDArray[np.int32]) -> None:
    """One line per contender; ratios are to the first."""
    table = Table("", "recall", "ms b1", "ratio", "ms/q b32", "ratio", title=title)
    one, many = (milliseconds(contenders, queries, batch_size) for batch_size in (1, 32))
    first = next(iter(contenders))
    for name, search in contenders.items():
        cells = (f"{recall(search, queries, nearest):.4f}", f"{one[name]:.3f}", f"{one[name] / one[first]:.2f}")
        table.add_row(name, *cells, f"{many[name]:.3f}", f"{many[name] / many[first]:.2f}")
    console.print(table)


def searcher(index: Index) -> Search:
    k = tf.constant(K)
    return lambda queries: index.search_graph(queries, k)


def megabytes(index: Index) -> float:
    return sum(variable.numpy().nbytes for variable in index.variables) / 2**20


def compare_indexes(num_videos: int, spread: float) -> None:
    embeddings, queries = clustered(num_videos, spread)
    nearest = exact_neighbours(embeddings, queries, K)
    memory, started = memory_mib(), time.perf_counter()
    leaves = partition(embeddings, round(LEAVES_PER_ROOT * num_videos**0.5))
    partition_seconds, partition_mib = time.perf_counter() - started, memory_mib() - memory
    num_leaves, chosen = len(leaves.centroids), fewest_leaves(leaves, queries, nearest, RECALL_TARGET)
    started = time.perf_counter()
    native = ScannIndex(embeddings, num_leaves, chosen)
    native.search(queries[:1], K)
    native_seconds = time.perf_counter() - started
    portable = {
        f"portable {storage}": PortableIndex(embeddings, leaves, chosen, storage)
        for storage in ("float32", "float16", "int8")
    }
    indexes: dict[str, Index] = {"scann (native op)": native, **portable, "exact": ExactIndex(embeddings)}
    title = f"{num_videos:,} x {DIM}, {num_leaves} leaves, {chosen} searched; ratios to native ScaNN"
    print_contenders(title, {name: searcher(index) for name, index in indexes.items()}, queries, nearest)
    console.print(
        f"build: native {native_seconds:.1f} s; portable {partition_seconds:.1f} s and {partition_mib:.0f} MiB above the "
        f"embeddings. leaf sizes: mean {leaves.sizes.mean():.0f}, largest {leaves.sizes.max()}."
    )
    vectors = embeddings.nbytes / 2**20
    shares = ", ".join(f"{name} {megabytes(index) / vectors:.2f}" for name, index in indexes.items())
    console.print(f"index over float32 vectors ({vectors:.0f} MiB): {shares}\n")


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


def ragged_gather_per_query(tables: LeafTables) -> Search:
    """Gathers (copies) the leaves of one query after the other."""

    @tf.function(reduce_retracing=True)
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

    @tf.function(reduce_retracing=True)
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

    @tf.function(reduce_retracing=True)
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

    @tf.function(reduce_retracing=True)
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


def compare_formulations(num_videos: int, spread: float) -> None:
    embeddings, queries = clustered(num_videos, spread)
    nearest = exact_neighbours(embeddings, queries, K)
    leaves = partition(embeddings, round(LEAVES_PER_ROOT * num_videos**0.5))
    chosen = fewest_leaves(leaves, queries, nearest, RECALL_TARGET)
    tables = LeafTables(embeddings, leaves, chosen)
    contenders = {
        "unrolled slices (ours)": searcher(PortableIndex(embeddings, leaves, chosen)),
        "unrolled slices, float16": searcher(PortableIndex(embeddings, leaves, chosen, "float16")),
        "unrolled slices, int8": searcher(PortableIndex(embeddings, leaves, chosen, "int8")),
        "slices in a loop": slices_in_a_loop(tables),
        "ragged gather per query": ragged_gather_per_query(tables),
        "flat ragged gather": flat_ragged_gather(tables),
        "padded blocks": padded_blocks(tables),
        "two-level tree, ragged gather": two_level_tree(tables),
        "projected first pass": projected_first_pass(tables),
    }
    title = f"{num_videos:,} x {DIM}, {len(leaves.centroids)} leaves, {chosen} searched; ratios to our formulation"
    print_contenders(title, contenders, queries, nearest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000, 1_000_000], help="catalogue sizes")
    parser.add_argument("--spread", type=float, default=1.0, help="noise around the cluster centres")
    parser.add_argument("--formulations", action="store_true", help="compare stock-op formulations")
    arguments = parser.parse_args()
    compare = compare_formulations if arguments.formulations else compare_indexes
    # One process per size, so that the largest memory is that of this size.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for num_videos in arguments.sizes:
            pool.submit(compare, num_videos, arguments.spread).result()


if __name__ == "__main__":
    main()
