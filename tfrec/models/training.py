"""One training loop for every model: epochs, early stopping, and checkpoints that a killed run continues from.

The unit is the epoch. After each, in this order: the model is validated, kept if it is the best so far, and the state of the
training is written. Whatever moment the process dies at, at most the epoch under way is repeated, with the same draws.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrec.console import ProgressCallback
from tfrec.run import write_json

Record = dict[str, float]


@dataclass(frozen=True)
class Objective:
    """What early stopping looks at.

    Args:
        name: of a number that validation returns.
        maximise: whether larger is better.
        patience: epochs without a better value before training stops.
    """

    name: str
    maximise: bool
    patience: int

    def best(self, records: list[Record]) -> int:
        """The best epoch so far, the first of equals; one that could not be measured is none."""
        sign = 1 if self.maximise else -1
        values = [sign * record[self.name] for record in records]
        values = [-math.inf if math.isnan(value) else value for value in values]
        return values.index(max(values))


class _BatchProgress(tf.keras.callbacks.Callback):
    """Reports batches and writes the loss to the record."""

    def __init__(self, progress: ProgressCallback | None, done: int, total: int) -> None:
        super().__init__()
        self.progress, self.done, self.total = progress, done, total

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.progress:
            self.progress(self.done + batch + 1, self.total)


def fit(
    model: tf.keras.Model,
    epoch_batches: Callable[[int], tf.data.Dataset],
    validate: Callable[[], Record],
    objective: Objective,
    epochs: int,
    folder: Path,
    progress: ProgressCallback | None = None,
    summary: tf.summary.SummaryWriter | None = None,
) -> list[Record]:
    """Trains a compiled model and leaves it with the weights of its best epoch.

    Args:
        model: compiled; every variable it has must exist (be built).
        epoch_batches: gives the batches of an epoch, counted from 0; the same ones each time it is asked.
        validate: measures the model after an epoch.
        objective: chooses the best epoch.
        epochs: most epochs.
        folder: for the checkpoints; what is there is continued.
        progress: told of finished and planned batches.
        summary: TensorBoard.

    Returns:
        One record per epoch: `epoch`, `loss`, `seconds` and what `validate` returned.
    """
    last = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=model.optimizer), folder / "last", max_to_keep=1
    )
    best = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder / "best", max_to_keep=1)
    records = _restore(last, folder / "history.json")
    while len(records) < epochs and not _stalled(records, objective):
        epoch = len(records)
        batches = epoch_batches(epoch)
        steps = int(batches.cardinality())
        start = time.monotonic()
        report = _BatchProgress(progress, epoch * steps, epochs * steps)
        loss = model.fit(batches, epochs=1, verbose=0, callbacks=[report]).history["loss"][-1]
        record = {"epoch": epoch, "loss": float(loss), "seconds": time.monotonic() - start, **validate()}
        records.append(record)
        if objective.best(records) == epoch:
            best.save(checkpoint_number=epoch)
        write_json(folder / "history.json", {"records": records})
        last.save(checkpoint_number=epoch)
        _log_scalars(summary, record)
    restore_best(model, folder)
    return records


def restore_best(model: tf.keras.Model, folder: Path) -> list[Record]:
    """Gives a model the weights of the best epoch of an earlier `fit`, and returns the records of that."""
    checkpoint = tf.train.latest_checkpoint(folder / "best")
    tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return json.loads((folder / "history.json").read_text())["records"]


def _restore(last: tf.train.CheckpointManager, history: Path) -> list[Record]:
    if last.latest_checkpoint is None:
        return []
    last.checkpoint.restore(last.latest_checkpoint)
    finished = int(last.latest_checkpoint.rsplit("-", 1)[1]) + 1
    # A kill between the two writes leaves a record whose epoch the checkpoint has not seen.
    return json.loads(history.read_text())["records"][:finished]


def _stalled(records: list[Record], objective: Objective) -> bool:
    return bool(records) and len(records) - 1 - objective.best(records) >= objective.patience


def _log_scalars(summary: tf.summary.SummaryWriter | None, record: Record) -> None:
    if summary is None:
        return
    with summary.as_default(step=int(record["epoch"])):
        for name, value in record.items():
            if name != "epoch":
                tf.summary.scalar(name, value)
    summary.flush()
