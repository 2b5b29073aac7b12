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
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrec.console import ProgressCallback, console
from tfrec.distribution import ONE_DEVICE, Distribution
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


def fit(
    model: tf.keras.Model,
    epoch_batches: Callable[..., tf.data.Dataset],
    validate: Callable[[], Record],
    objective: Objective,
    epochs: int,
    folder: Path,
    progress: ProgressCallback | None = None,
    summary: tf.summary.SummaryWriter | None = None,
    distribution: Distribution = ONE_DEVICE,
) -> list[Record]:
    """Trains a compiled model and leaves it with the weights of its best epoch.

    Every worker of a distribution calls this at the same time; the chief's measurements count, and it alone writes `folder`.

    Args:
        model: compiled, in the scope of the distribution.
        epoch_batches: gives the batches of an epoch, counted from 0, or `Shares` of them; the same ones each time it is asked.
        validate: measures the model after an epoch.
        objective: chooses the best epoch.
        epochs: most epochs.
        folder: for the checkpoints; what is there is continued.
        progress: told of finished and planned batches.
        summary: TensorBoard.
        distribution: in whose scope the model was made.

    Returns:
        One record per epoch: `epoch`, `loss`, `seconds` and what `validate` returned.
    """
    distribution.build(model, epoch_batches)
    written = distribution.writable(folder)
    last = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=model.optimizer), written / "last", max_to_keep=1
    )
    best = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), written / "best", max_to_keep=1)
    records = _restore(last.checkpoint, folder)
    if records:
        console.print(f"  resumed after epoch {len(records)} of {epochs}")
    train = distribution.trainer(model, epoch_batches)
    while len(records) < epochs and not _stalled(records, objective):
        epoch = len(records)
        start = time.monotonic()
        with distribution.noticing_lost_workers():
            loss = train(epoch, partial(_report, progress, epoch, epochs))
            measured = {"loss": loss, "seconds": time.monotonic() - start, **validate()}
        record = {"epoch": epoch, **_agreed(distribution, measured)}
        records.append(record)
        if objective.best(records) == epoch:
            best.save(checkpoint_number=epoch)
        write_json(written / "history.json", {"records": records})
        last.save(checkpoint_number=epoch)
        _log_scalars(summary, record)
    distribution.wait_for_chief()
    restore_best(model, folder)
    return records


def _report(progress: ProgressCallback | None, epoch: int, epochs: int, step: int, steps: int) -> None:
    if progress:
        progress(epoch * steps + step + 1, epochs * steps)


def restore_best(model: tf.keras.Model, folder: Path) -> list[Record]:
    """Gives a model the weights of the best epoch of an earlier `fit`, and returns the records of that."""
    checkpoint = tf.train.latest_checkpoint(folder / "best")
    tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return json.loads((folder / "history.json").read_text())["records"]


def _restore(checkpoint: tf.train.Checkpoint, folder: Path) -> list[Record]:
    latest = tf.train.latest_checkpoint(folder / "last")
    if latest is None:
        return []
    checkpoint.restore(latest)
    finished = int(latest.rsplit("-", 1)[1]) + 1
    # A kill between the two writes leaves a record whose epoch the checkpoint has not seen.
    return json.loads((folder / "history.json").read_text())["records"][:finished]


def _agreed(distribution: Distribution, measured: Record) -> Record:
    """The chief's numbers, so that all workers stop after the same epoch."""
    values = distribution.from_chief(np.array(list(measured.values()), np.float64))
    return dict(zip(measured, values.tolist(), strict=True))


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
