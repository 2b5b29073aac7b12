"""How fast retrieval trains and is evaluated, beside the same two towers in the manner of the TFRS quick start.

    python benchmarks/train_throughput.py [--data ../shared/data/ml-100k] [--epochs 3] [--evaluate 6710 1000000]

All sides have a table of users, a table of videos shared by histories and candidates, the mean of the last 50 videos watched,
one hidden layer, a softmax over the targets of the batch, Adam, and the same examples in the same batches. The quick start takes
strings, looks them up in the model, is trained by Keras `fit`, and has a `FactorizedTopK` in validation (not in training, where
the tutorials have it too and which would be slower still). Its examples are made once and kept in memory; this library makes
them anew in each epoch. "The same loss" leaves out what the quick start does not have: other positives as no negatives, logQ,
trends and side columns of users; "as shipped" has them. `implicit`'s BPR, which has no towers, stands beside.

Validation follows each epoch, with the same held-out positives and cut-offs 10, 20 and 100, over the whole catalogue. To TFRS a
row is one event, a query and its true candidate, as in its tutorials: "every positive" gives the quick start each held-out
positive of each user as a row (`FactorizedTopK` knows of no groups of rows, and ranks once for each). This library ranks once for
each user and looks for all of the user's positives in the slate; besides, it takes out what was watched, ranks warm and cold
videos apart, and measures NDCG, hit rate, reciprocal rank, coverage and popularity. Two more tables tell what that choice makes
of the ratio: "one per user" gives the quick start the first held-out positive of each user alone, which is less than is measured
here, and "none" is training without validation.

An iterator of tf.data with autotuning, which is the default, may end only when its tuner wakes, after waits that double from 10
ms on: an epoch of the quick start may then take 1.27, 2.55 or 5.11 s by the clock, whatever it computes. So it stands here as it
would be written, and beside it with autotuning off, as this library has it, which is the fairer measure of what it computes.

The first epoch of each side traces its graph; figures are of the epochs after it. Sides take turns, and figures are medians, of
time by the clock and of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tfrec  # noqa: F401  (chooses Keras 2)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import tensorflow_recommenders as tfrs
from implicit.bpr import BayesianPersonalizedRanking
from scipy import sparse

from tfrec.config import CandidateConfig, DataConfig, EvaluationConfig, QueryConfig, RetrievalConfig
from tfrec.console import console
from tfrec.data.dataset import load_dataset
from tfrec.data.input_pipeline import HistoryLog, Query, RetrievalBatches
from tfrec.data.schema import Dataset, FeatureColumns, Part
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, make_task, rank_catalogue
from tfrec.evaluation.ranking import InnerProducts
from tfrec.evaluation.references import training_weights
from tfrec.features.content import ContentFeatures
from tfrec.models.optimizer import Adam
from tfrec.models.retrieval import RetrievalModel

DIM, HISTORY, BATCH = 64, 50, 1024
CONFIG = RetrievalConfig(
    embedding_dim=DIM,
    batch_size=BATCH,
    num_uniform_negatives=0,
    dropout=0.0,
    query=QueryConfig(encoder="mean", history_length=HISTORY, user_id_dropout=0.0),
    candidate=CandidateConfig(use_content=False, id_dropout=0.0),
)
SAME_LOSS = replace(CONFIG, mask_positives=False, log_q_correction=False, trends=False)
MEASURE = EvaluationConfig(bootstrap_samples=1)

VALIDATIONS = ("every positive", "one per user", "none")
VALIDATION_BATCH = 4096  # of the quick start, as in the tutorials

Times = tuple[float, float]
"""Seconds by the clock, and of the processors."""

Epoch = Callable[[str], Any]
"""Trains for an epoch, with one of `VALIDATIONS`."""


class QuickStart(tfrs.Model):
    """The two towers as the quick start would write them."""

    def __init__(self, users: np.ndarray[Any, Any], videos: np.ndarray[Any, Any]) -> None:
        super().__init__()
        layers = tf.keras.layers
        self.users = tf.keras.Sequential([layers.StringLookup(vocabulary=users), layers.Embedding(len(users) + 1, DIM)])
        self.lookup = layers.StringLookup(vocabulary=videos, mask_token="")
        self.videos = layers.Embedding(len(videos) + 2, DIM, mask_zero=True)
        self.pool = layers.GlobalAveragePooling1D()
        self.query = tf.keras.Sequential([layers.Dense(4 * DIM, activation="gelu"), layers.Dense(DIM)])
        candidates = tf.data.Dataset.from_tensor_slices(videos).batch(128).map(self.candidate)
        metrics = tfrs.metrics.FactorizedTopK(candidates=candidates, ks=tuple(MEASURE.top_k))
        self.task = tfrs.tasks.Retrieval(metrics=metrics)

    def candidate(self, video_id: tf.Tensor) -> tf.Tensor:
        """From strings `[B]` to `[B, DIM]`."""
        return self.videos(self.lookup(video_id))

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """In-batch softmax."""
        events = self.videos(self.lookup(features["history"]))
        user = self.users(features["user_id"])
        query = self.query(tf.concat([self.pool(events), user], axis=1))
        return self.task(query, self.candidate(features["video_id"]), compute_metrics=not training)


def strings(dataset: Dataset, query: Query, video: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Examples as the quick start reads them."""
    videos = np.append(dataset.videos.ids.astype(str), "")
    return {
        "user_id": dataset.users.ids.astype(str)[query.user],
        "history": videos[np.asarray(query.history)],
        "video_id": videos[np.asarray(video)],
    }


def timed(work: Callable[[], Any]) -> Times:
    """How long some work takes."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def validation_queries(dataset: Dataset, task: EvaluationTask) -> Query:
    """The requests of the validation part."""
    log = HistoryLog.of(dataset.interactions, task.known, HISTORY)
    ends = np.searchsorted(log.rows, task.history_end)
    return log.before(tf.constant(task.users), tf.constant(ends), tf.constant(task.timestamp))


def batches_of(dataset: Dataset, config: RetrievalConfig) -> RetrievalBatches:
    """The training stream; the examples do not depend on the options that differ between sides."""
    others = {} if config.mask_positives else {"max_positives": 0}
    return RetrievalBatches(dataset.interactions, HISTORY, BATCH, 0, 0, seed=1, **others)


def held_out(dataset: Dataset, task: EvaluationTask, validation: str) -> tf.data.Dataset:
    """Validation rows of the quick start: pairs of a request and a video that it should find."""
    relevant, query = task.relevant, validation_queries(dataset, task)
    requests, targets = np.arange(len(task)), relevant.indices[relevant.indptr[:-1]]
    if validation == "every positive":
        requests, targets = np.repeat(requests, np.diff(relevant.indptr)), relevant.indices
    rows = Query(*(tf.gather(values, requests) for values in query))
    return tf.data.Dataset.from_tensor_slices(strings(dataset, rows, targets)).batch(VALIDATION_BATCH).cache()


def quick_start(dataset: Dataset, task: EvaluationTask, autotune: bool = True) -> Epoch:
    """The side of TFRS, with the autotuning of tf.data that is on where nobody has turned it off, or without."""
    options = tf.data.Options()
    options.autotune.enabled = autotune
    stream = batches_of(dataset, SAME_LOSS).epoch(0)
    examples = [strings(dataset, batch["query"], batch["video"]) for batch in stream]
    train = tf.data.Dataset.from_tensor_slices({name: np.stack([e[name] for e in examples]) for name in examples[0]})
    train = train.cache().shuffle(len(examples)).prefetch(tf.data.AUTOTUNE).with_options(options)
    rows = {name: held_out(dataset, task, name).with_options(options) for name in VALIDATIONS if name != "none"}
    model = QuickStart(dataset.users.ids.astype(str), dataset.videos.ids.astype(str))
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3))
    return lambda validation: model.fit(train, validation_data=rows.get(validation), epochs=1, verbose=0)


def this_library(config: RetrievalConfig, dataset: Dataset, task: EvaluationTask) -> Epoch:
    """The same with this library."""
    batches = batches_of(dataset, config)
    if config is SAME_LOSS:
        dataset = replace(dataset, users=replace(dataset.users, columns=FeatureColumns({}, {}, {})))
    model = RetrievalModel(config, dataset, ContentFeatures({}, {}), batches)
    model.compile(optimizer=Adam(1e-3), steps_per_execution=config.steps_per_execution)
    query, epochs = validation_queries(dataset, task), itertools.count()

    def epoch(validation: str) -> None:
        model.fit(batches.epoch(next(epochs)), epochs=1, verbose=0)
        if validation == "none":
            return
        videos = model.embed_catalogue()
        queries = np.asarray(model.embed_queries(query, tf.constant(videos)))
        published = model.publish(videos, int(task.timestamp.min()))
        evaluate(InnerProducts(queries, published), task, MEASURE)

    return epoch


def bpr_times(dataset: Dataset, iterations: int = 20) -> Times:
    """Of a pass of `implicit`'s BPR over the training positives, on all cores."""
    model = BayesianPersonalizedRanking(factors=DIM, iterations=iterations, use_gpu=False)
    weights = training_weights(dataset.interactions)
    clock, processor = timed(lambda: model.fit(weights, show_progress=False))
    return clock / iterations, processor / iterations


def train_rows(folder: Path, epochs: int) -> list[list[str]]:
    """Times of an epoch of each side with each validation, the sides taking turns."""
    dataset = load_dataset(DataConfig(folder=folder))
    num_examples = batches_of(dataset, CONFIG).num_examples
    task = make_task(dataset.interactions, Part.VALIDATION)
    sides = {
        "TFRS quick start": quick_start(dataset, task),
        "TFRS quick start, no autotuning": quick_start(dataset, task, autotune=False),
        "tfrec, the same loss": this_library(SAME_LOSS, dataset, task),
        "tfrec, as shipped": this_library(CONFIG, dataset, task),
    }
    turns = [(validation, name) for validation in VALIDATIONS for name in sides]
    first, *rest = (
        {(validation, name): timed(partial(sides[name], validation)) for validation, name in turns}
        for _ in range(1 + epochs)
    )
    times = {turn: np.median([round[turn] for round in rest], axis=0) for turn in turns}
    times["none", "implicit BPR"] = np.array(bpr_times(dataset))
    console.print(
        f"{folder.name}: {num_examples:,} examples; {task.relevant.nnz:,} held-out positives of {len(task):,} users in validation"
    )
    return [
        [
            validation,
            name,
            f"{first[validation, name][0]:.1f}" if validation == VALIDATIONS[0] else "–",
            f"{clock:.2f}",
            f"{processor:.2f}",
            f"{num_examples / clock:,.0f}",
            f"{times[validation, 'TFRS quick start'][0] / clock:.1f}",
            *(f"{ratio:.1f}" for ratio in times[validation, "TFRS quick start, no autotuning"] / (clock, processor)),
        ]
        for (validation, name), (clock, processor) in times.items()
    ]


def evaluation_rows(num_candidates: int, num_users: int = 1024, repeats: int = 3) -> list[list[str]]:
    """Users ranked per second over a whole catalogue, 100 videos each; sides take turns, medians count."""
    generator = np.random.default_rng(0)
    videos = generator.normal(size=(num_candidates, DIM)).astype(np.float32)
    queries = generator.normal(size=(num_users, DIM)).astype(np.float32)
    targets = generator.integers(num_candidates, size=num_users)
    task = synthetic_task(num_users, num_candidates, targets)
    asked = slice(0, num_users if num_candidates < 100_000 else 128)
    sides: dict[str, Callable[[], Any]] = {"tfrec": lambda: rank_catalogue(InnerProducts(queries, videos), task, 100)}
    # 128 is what the guides of TFRS have; larger blocks suit it better.
    for block in (block for block in (128, 4096, 65_536) if block < 4 * num_candidates):
        metric = tfrs.metrics.FactorizedTopK(tf.data.Dataset.from_tensor_slices(videos).batch(block), ks=(20, 100))
        sides[f"FactorizedTopK, blocks of {block:,}"] = partial(
            metric.update_state, queries[asked], videos[targets[asked]]
        )
    for side in sides.values():
        side()
    taken = np.median([[timed(side) for side in sides.values()] for _ in range(repeats)], axis=0)
    users = np.array([num_users] + [asked.stop - asked.start] * (len(sides) - 1))
    rates = users[:, None] / taken
    return [
        [
            f"{num_candidates:,}",
            name,
            f"{clock:,.1f}",
            f"{processor:,.1f}",
            f"{rates[0, 0] / clock:.1f}",
            f"{rates[0, 1] / processor:.1f}",
        ]
        for name, (clock, processor) in zip(sides, rates, strict=True)
    ]


def synthetic_task(num_users: int, num_videos: int, targets: np.ndarray[Any, Any]) -> EvaluationTask:
    """One held-out video per user, nothing seen."""
    shape, users = (num_users, num_videos), np.arange(num_users, dtype=np.int32)
    relevant = sparse.csr_matrix((np.ones(num_users, np.float32), (users, targets)), shape)
    return EvaluationTask(
        part=Part.TEST,
        known=(Part.TRAIN,),
        users=users,
        relevant=relevant,
        seen=sparse.csr_matrix(shape, dtype=np.float32),
        history_end=np.zeros(num_users, np.int64),
        timestamp=np.zeros(num_users, np.int64),
        train_counts=np.ones(num_videos, np.int64),
    )


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """A table in Markdown, as docs quote it."""
    for cells in (head, ["---"] * len(head), *rows):
        console.print("| " + " | ".join(cells) + " |", soft_wrap=True, highlight=False)
    console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-100k"))
    parser.add_argument("--epochs", type=int, default=3, help="0: evaluation alone")
    parser.add_argument("--evaluate", type=int, nargs="*", default=[6710, 1_000_000])
    arguments = parser.parse_args()
    if arguments.epochs:
        rows = train_rows(arguments.data, arguments.epochs)
        times = ["first epoch, s", "epoch, s", "processor, s", "examples/s"]
        ratios = ["times the quick start", "times that without autotuning", "by processor time"]
        print_table(["validation", "side", *times, *ratios], rows)
    rows = [row for size in arguments.evaluate for row in evaluation_rows(size)]
    head = ["candidates", "side", "users/s", "users per processor second", "tfrec is faster by", "by processor time"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
