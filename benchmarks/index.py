"""The indexes side by side, in one process and on the same clustered embeddings.

    python benchmarks/index.py [--sizes 20000 100000 1000000] [--spread 1.0] [--leaves-per-root 4]
    python benchmarks/index.py --formulations [--sizes 1000000]

The first form compares exact search, the native ScaNN op and its tree as stock ops, at equal leaves. The second compares ways
to write the search of the leaves in stock ops, on one tree, with the one that `tfrec.index.portable` uses in the first line.

Times are the lower quartile of calls that alternate between the contenders, so that other load on the machine meets all of them
alike; the ratios are what to look at: of the time on the clock, and of processor time. Embeddings: as many cluster centres as
the square root of the catalogue size, and noise of `spread` times their length around them; the queries are drawn the same way.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from index_formulations import K, Matrix, Search, formulations

from tfrec.console import console
from tfrec.index.base import Index
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex
from tfrec.index.scann import ScannIndex
from tfrec.index.tune import LEAVES_PER_ROOT, exact_neighbours, fewest_leaves

DIM = 64
NUM_QUERIES = 512
RECALL_TARGET = 0.98
SECONDS_PER_CONTENDER = 3.0


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
    # In batches, since exact scores of all queries would take 10 GiB at 5 M videos.
    batches = np.split(queries, range(32, len(queries), 32))
    found = np.concatenate([search(tf.constant(batch))[1].numpy() for batch in batches])
    return float(np.mean([np.isin(truth, rows).mean() for truth, rows in zip(nearest, found, strict=True)]))


def milliseconds(contenders: Mapping[str, Search], queries: Matrix, batch_size: int) -> dict[str, NDArray[np.float64]]:
    """Lower quartiles of the time per query on the clock and on processors; the contenders take turns."""
    batches = [tf.constant(queries[i : i + batch_size]) for i in range(0, NUM_QUERIES - batch_size + 1, batch_size)]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for search in contenders.values():
        search(batches[0])
    deadline = time.perf_counter() + SECONDS_PER_CONTENDER * len(contenders)
    draw, names, turn = np.random.default_rng(0), list(contenders), 0
    while turn < 5 or (time.perf_counter() < deadline and turn < 400):
        # In another order each turn: exact search leaves the caches empty for whoever comes next.
        for place, name in enumerate(draw.permutation(names)):
            # Other queries than the contender before has had, whose leaves are still in the cache.
            batch = batches[(turn + 37 * place) % len(batches)]
            started, used = time.perf_counter(), time.process_time()
            contenders[name](batch)
            seconds[name].append((time.perf_counter() - started, time.process_time() - used))
        turn += 1
    return {name: np.percentile(values, 25, axis=0) * 1000 / batch_size for name, values in seconds.items()}


def print_contenders(title: str, contenders: Mapping[str, Search], queries: Matrix, nearest: NDArray[np.int32]) -> None:
    """One line per contender; ratios are to the first."""
    table = Table("", "recall", "ms b1", "ratio", "CPU", "ms/q b32", "ratio", "CPU", title=title)
    one, many = (milliseconds(contenders, queries, batch_size) for batch_size in (1, 32))
    first = next(iter(contenders))
    for name, search in contenders.items():
        cells = [f"{recall(search, queries, nearest):.4f}"]
        for times in (one, many):
            ratios = times[name] / times[first]
            cells += [f"{times[name][0]:.3f}", *(f"{ratio:.2f}" for ratio in ratios)]
        table.add_row(name, *cells)
    console.print(table)


def searcher(index: Index) -> Search:
    # A function like those of the formulations, so that calls cost the same.
    return tf.function(lambda queries: tuple(index.search_graph(queries, K)), reduce_retracing=True, autograph=False)


def megabytes(index: Index) -> float:
    return sum(variable.numpy().nbytes for variable in index.variables) / 2**20


def compare_indexes(num_videos: int, spread: float, leaves_per_root: float) -> None:
    embeddings, queries = clustered(num_videos, spread)
    nearest = exact_neighbours(embeddings, queries, K)
    memory, started = memory_mib(), time.perf_counter()
    leaves = partition(embeddings, round(leaves_per_root * num_videos**0.5))
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


def compare_formulations(num_videos: int, spread: float, leaves_per_root: float) -> None:
    embeddings, queries = clustered(num_videos, spread)
    nearest = exact_neighbours(embeddings, queries, K)
    leaves = partition(embeddings, round(leaves_per_root * num_videos**0.5))
    chosen = fewest_leaves(leaves, queries, nearest, RECALL_TARGET)
    ours = {
        f"ours, {storage}": searcher(PortableIndex(embeddings, leaves, chosen, storage))
        for storage in ("float32", "float16", "int8")
    }
    contenders = {**ours, **formulations(embeddings, leaves, chosen)}
    title = f"{num_videos:,} x {DIM}, {len(leaves.centroids)} leaves, {chosen} searched; ratios to our formulation"
    print_contenders(title, contenders, queries, nearest)
    order = np.argsort(-(queries @ leaves.centroids.T), axis=1)[:, :chosen]
    distinct = np.mean([len(np.unique(order[i : i + 32])) for i in range(0, NUM_QUERIES, 32)])
    console.print(f"leaves that a batch of 32 searches: {32 * chosen}, {distinct:.0f} of them different.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000, 1_000_000], help="catalogue sizes")
    parser.add_argument("--spread", type=float, default=1.0, help="noise around the cluster centres")
    parser.add_argument("--leaves-per-root", type=float, default=LEAVES_PER_ROOT, help="of the number of videos")
    parser.add_argument("--formulations", action="store_true", help="compare stock-op formulations")
    arguments = parser.parse_args()
    compare = compare_formulations if arguments.formulations else compare_indexes
    # One process per size, so that the largest memory is that of this size.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for num_videos in arguments.sizes:
            pool.submit(compare, num_videos, arguments.spread, arguments.leaves_per_root).result()


if __name__ == "__main__":
    main()
