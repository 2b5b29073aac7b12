"""Where the processor time of retrieval training goes, and what its ops cost in the forms that were compared.

    python benchmarks/train_step.py [--data ../shared/data/ml-100k]

Processor time is counted, that of all threads; forms take turns, and the least of several rounds counts. "Forwards" is the value
alone, "with gradient" the value and the gradient by what is learned.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from train_throughput import (
    BATCH,
    CONFIG,
    DIM,
    HISTORY,
    MEASURE,
    SAME_LOSS,
    batches_of,
    print_table,
    validation_queries,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from tfrec.config import DataConfig, RetrievalConfig
from tfrec.console import console
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import Dataset, Part
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, make_task
from tfrec.evaluation.ranking import InnerProducts
from tfrec.features.content import ContentFeatures
from tfrec.layers.gathered import Gathered
from tfrec.layers.sampled_softmax import softmax_cross_entropy
from tfrec.models.optimizer import Adam
from tfrec.models.retrieval import RetrievalModel

ROUNDS = 3


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """Processor time of some work, the mean of several times."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return 1000 * (time.process_time() - start) / repeats


def least(*works: Callable[[], Any], repeats: int = 1) -> list[float]:
    """Least milliseconds of each work in several rounds, in which they take turns; each has been done once before."""
    for work in works:
        work()
    rounds = [[milliseconds(work, repeats) for work in works] for _ in range(ROUNDS)]
    return np.min(rounds, axis=0).tolist()


def epoch_parts(name: str, config: RetrievalConfig, dataset: Dataset, task: EvaluationTask) -> list[str]:
    """Milliseconds of the parts of an epoch."""
    batches = batches_of(dataset, config)
    model = RetrievalModel(config, dataset, ContentFeatures({}, {}), batches)
    model.compile(optimizer=Adam(1e-3), steps_per_execution=config.steps_per_execution)
    steps, query = batches.steps_per_epoch, validation_queries(dataset, task)
    one_batch = tf.data.Dataset.from_tensors(next(iter(batches.epoch(0)))).cache().repeat(steps)

    def validate() -> None:
        videos = model.embed_catalogue()
        queries = np.asarray(model.embed_queries(query, tf.constant(videos)))
        evaluate(InnerProducts(queries, model.publish(videos, 0)), task, MEASURE)

    start, whole, learning, validation = least(
        lambda: next(iter(batches.epoch(1))),
        lambda: sum(1 for _ in batches.epoch(1)),
        lambda: model.fit(one_batch, epochs=1, verbose=0),
        validate,
    )
    values = [f"{(whole - start) / steps:.1f}", f"{learning / steps:.1f}", f"{start:.0f}", f"{validation:.0f}"]
    return [name, *values, f"{(whole + learning + validation) / 1000:.2f}"]


def forms(inputs: tf.Tensor, functions: dict[str, Callable[[tf.Tensor], tf.Tensor]]) -> Iterator[list[str]]:
    """Milliseconds of each function, which takes `inputs`; the inputs are what is learned."""

    def with_gradient(function: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(tf.square(function(values)))
        return tape.gradient(loss, values)

    graphs = [tf.function(function, autograph=False) for function in functions.values()]
    backwards = [tf.function(lambda x, f=f: with_gradient(f, x), autograph=False) for f in functions.values()]
    times = least(*(lambda graph=graph: graph(inputs) for graph in [*graphs, *backwards]), repeats=5)
    for place, name in enumerate(functions):
        yield [name, f"{times[place]:.1f}", f"{times[place + len(functions)]:.1f}"]


def pooling_forms(num_videos: int = 1500) -> list[list[str]]:
    """The weighted sum of histories, of a batch that names so many videos."""
    generator = np.random.default_rng(0)
    places = tf.constant(generator.integers(0, num_videos, (BATCH, HISTORY)), tf.int32)
    mask = tf.constant(generator.random((BATCH, HISTORY)) < 0.9)
    weights = tf.cast(mask, tf.float32)
    table = tf.constant(generator.normal(size=(num_videos, DIM)), tf.float32)
    functions = {
        "history: gather, then a sum": lambda x: tf.einsum("btd,bt->bd", tf.gather(x, places), weights),
        "history: sparse matrix times table": lambda x: Gathered(x, places).weighted_sum(weights, mask),
        "history: sum by the root of the number": lambda x: Gathered(x, places).sum_by_root(mask),
    }
    return list(forms(table, functions))


def lookup_forms(num_lookups: int = 200_000) -> list[list[str]]:
    """Numbers taken from a table one by one, as histories and positives are from the log."""
    generator = np.random.default_rng(0)
    table = tf.constant(generator.integers(0, 1000, 80_000), tf.int32)
    places = tf.constant(generator.integers(0, 80_000, num_lookups), tf.int64)
    functions = {
        "tf.gather": lambda: tf.gather(table, places),
        "tf.gather_nd": lambda: tf.gather_nd(table, places[:, None]),
    }
    times = least(*(tf.function(function, autograph=False) for function in functions.values()), repeats=20)
    return [
        [f"{num_lookups:,} numbers: {name}", f"{time:.1f}", "–"] for name, time in zip(functions, times, strict=True)
    ]


def softmax_forms(num_candidates: int) -> list[list[str]]:
    """Cross-entropy of a batch among so many candidates."""
    generator = np.random.default_rng(0)
    targets = tf.constant(generator.integers(0, num_candidates, BATCH), tf.int32)
    logits = tf.constant(generator.normal(size=(BATCH, num_candidates)), tf.float32)
    functions = {
        f"softmax of {num_candidates}: the op of TensorFlow": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(
            targets, x
        ),
        f"softmax of {num_candidates}: logsumexp": lambda x: softmax_cross_entropy(targets, x),
    }
    return list(forms(logits, functions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-100k"))
    folder = parser.parse_args().data
    dataset = load_dataset(DataConfig(folder=folder))
    task = make_task(dataset.interactions, Part.VALIDATION)
    console.print(f"{folder.name}: {batches_of(dataset, CONFIG).steps_per_epoch} steps of {BATCH} examples an epoch")
    configs = {
        "mean, the loss of the quick start": SAME_LOSS,
        "mean, as shipped": CONFIG,
        "attention, as shipped": replace(CONFIG, query=replace(CONFIG.query, encoder="attention")),
    }
    head = ["query tower", "batch, ms", "step, ms", "start of an epoch, ms", "validation, ms", "epoch, s"]
    print_table(head, [epoch_parts(name, config, dataset, task) for name, config in configs.items()])
    rows = [*pooling_forms(), *lookup_forms(), *softmax_forms(600), *softmax_forms(8192)]
    print_table(["form", "forwards, ms", "with gradient, ms"], rows)


if __name__ == "__main__":
    main()
