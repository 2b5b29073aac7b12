"""What mixed precision and XLA gain: examples per second and the validation metric beside those of float32.

    python benchmarks/acceleration.py --config pipelines/configs/ml-1m.yaml --data ../shared/data/ml-1m [--steps 48] [--epochs 3]

Trains retrieval, and then the ranker on the towers of the first side, ids alone, in epochs of so many steps. The sides take
turns, an epoch each, and begin with the same weights and batches. The first epoch, which traces and compiles, is left out of
the medians and has a column of its own.
Processor seconds are of all cores; of a machine that has other work too, they tell more than examples per second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import tfrec  # noqa: F401  (chooses Keras 2)

import tensorflow as tf  # isort: skip
from rich.table import Table

from tfrec.config import AccelerationConfig, EvaluationConfig, TrainConfig
from tfrec.console import console
from tfrec.data.dataset import load_dataset
from tfrec.data.input_pipeline import HistoryLog, RankingBatches, RetrievalBatches
from tfrec.data.schema import Dataset, Part
from tfrec.data.sequences import SequenceBatches
from tfrec.evaluation.evaluate import evaluate, make_task
from tfrec.features.content import ContentFeatures
from tfrec.models.base import Model
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.models.sequence_retrieval import SequenceRetrievalModel
from tfrec.train import parse_arguments

SIDES = {
    "float32": AccelerationConfig(),
    "mixed precision": AccelerationConfig(mixed_precision=True),
    "XLA": AccelerationConfig(xla=True),
    "both": AccelerationConfig(mixed_precision=True, xla=True),
}


@dataclass
class Side:
    """A model, its stream and what its epochs took, in seconds and processor seconds."""

    model: Model
    epoch_batches: Callable[[int], tf.data.Dataset]
    taken: list[tuple[float, float]] = field(default_factory=list)

    def train(self, steps: int) -> None:
        """Trains for an epoch."""
        start = time.perf_counter(), time.process_time()
        self.model.fit(self.epoch_batches(len(self.taken)).take(steps), verbose=0)
        self.taken.append((time.perf_counter() - start[0], time.process_time() - start[1]))


def retrieval_side(config: TrainConfig, dataset: Dataset, acceleration: AccelerationConfig) -> Side:
    """Retrieval as `tfrec.train` would train it, without content."""
    retrieval, log = config.retrieval, dataset.interactions
    sizes = (retrieval.query.history_length, retrieval.batch_size, retrieval.num_uniform_negatives)
    events = RetrievalBatches(log, *sizes, retrieval.max_examples_per_user, config.seed)
    is_sequences = retrieval.training == "sequences"
    stream = SequenceBatches(log, *sizes, config.seed) if is_sequences else events
    kind = SequenceRetrievalModel if is_sequences else RetrievalModel
    return side(lambda: kind(retrieval, dataset, ContentFeatures({}, {}), events), stream.epoch, acceleration, config)


def ranking_events(dataset: Dataset, part: Part) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Events of a part, one user in five apart."""
    events = np.flatnonzero(dataset.interactions.part == part)
    held_out = dataset.interactions.user[events] % 5 == 0
    return events[~held_out], events[held_out]


def ranking_side(config: TrainConfig, dataset: Dataset, towers: Model, acceleration: AccelerationConfig) -> Side:
    """The ranker over trained towers."""
    batches = ranking_batches(config, dataset, ranking_events(dataset, Part.VALIDATION)[0])
    embeddings = towers.embed_catalogue()
    return side(lambda: RankingModel(config.ranking, dataset, towers, embeddings), batches.epoch, acceleration, config)


def ranking_batches(config: TrainConfig, dataset: Dataset, events: np.ndarray) -> RankingBatches:  # type: ignore[type-arg]
    """Of these events, with the training part for histories."""
    sizes = config.retrieval.query.history_length, config.ranking.batch_size, config.ranking.negatives_per_positive
    return RankingBatches(dataset.interactions, events, (Part.TRAIN,), *sizes, config.seed)


def side(
    make: Callable[[], Model],
    epoch_batches: Callable[[int], tf.data.Dataset],
    acceleration: AccelerationConfig,
    config: TrainConfig,
) -> Side:
    """A compiled model whose variables are there, with the same values on each side."""
    tf.keras.utils.set_random_seed(config.seed)
    model = make()
    model.acceleration = acceleration
    model.compute_loss(next(iter(epoch_batches(0))))
    model.compile(tf.keras.optimizers.Adam(config.retrieval.learning_rate))
    return Side(model, epoch_batches)


def retrieval_metric(config: TrainConfig, dataset: Dataset, model: RetrievalModel) -> float:
    """`retrieval.objective` on the validation part."""
    task = make_task(dataset.interactions, Part.VALIDATION, 2000, config.seed)
    log = HistoryLog.of(dataset.interactions, task.known, config.retrieval.query.history_length)
    ends = np.searchsorted(log.rows, task.history_end)
    query = log.before(tf.constant(task.users), tf.constant(ends), tf.constant(task.timestamp))
    videos = model.embed_catalogue()
    queries = np.asarray(model.embed_queries(query, tf.constant(videos)))
    published = model.publish(videos, int(task.timestamp.min()))
    results = evaluate(lambda places: queries[places] @ published.T, task, EvaluationConfig(bootstrap_samples=1))
    return float(results["retrieval"][config.retrieval.objective])


def rows(sides: dict[str, Side], steps: int, epochs: int, measure: Callable[[Model], float]) -> list[list[str]]:
    """Trains the sides in turns, and a row of the table for each."""
    steps = min(steps, int(sides["float32"].epoch_batches(0).cardinality()))
    for _ in range(1 + epochs):
        for each in sides.values():
            each.train(steps)
    cells = []
    plain = np.median([taken[1] for taken in sides["float32"].taken[1:]])
    for name, each in sides.items():
        seconds, processor = np.median(each.taken[1:], axis=0)
        speed = steps * int(next(iter(each.epoch_batches(0).map(batch_size)))) / seconds
        numbers = [f"{each.taken[0][1]:.1f}", f"{speed:,.0f}", f"{processor:.2f}", f"{plain / processor:.2f}"]
        cells.append([name, *numbers, f"{measure(each.model):.4f}"])
    return cells


def batch_size(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Requests, or windows, of a batch."""
    return tf.size(batch["query"].user)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=3, help="after the first")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    config = parse_arguments(["--config", str(options.config), "--data", str(options.data)])
    with TemporaryDirectory() as folder:
        dataset = load_dataset(config.data, Path(folder))
    names = dict.fromkeys(["float32", *options.sides])
    sides = {name: retrieval_side(config, dataset, SIDES[name]) for name in names}
    found = rows(sides, options.steps, options.epochs, lambda model: retrieval_metric(config, dataset, model))
    show("retrieval", found, config.retrieval.objective)
    towers = sides["float32"].model
    sides = {name: ranking_side(config, dataset, towers, SIDES[name]) for name in names}
    holdout = ranking_batches(config, dataset, ranking_events(dataset, Part.VALIDATION)[1])
    show("ranking", rows(sides, options.steps, options.epochs, lambda model: model.mean_loss(holdout)), "loss")


def show(title: str, found: list[list[str]], metric: str) -> None:
    """Prints a table."""
    heads = ("side", "first epoch, CPU s", "examples/s", "epoch, CPU s", "times float32", f"validation {metric}")
    table = Table(*heads, title=title)
    for cells in found:
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    main()
