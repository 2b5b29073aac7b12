"""The training loop: early stopping, and kills at any moment that change nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tfrec  # noqa: F401  (first: this file also runs on its own)

import tensorflow as tf  # isort: skip

from tfrec.layers.dropout import Dropout
from tfrec.models.retrieval import RetrievalModel
from tfrec.models.training import Objective, Record, fit, restore_best

EPOCHS = 4
MEASURED = Objective("measured", maximise=True, patience=EPOCHS)


def make_model() -> tf.keras.Model:
    """With dropout, so that its random state counts; its variables do not exist yet."""
    tf.keras.utils.set_random_seed(7)
    model = tf.keras.Sequential([Dropout(0.5), tf.keras.layers.Dense(3), tf.keras.layers.Dense(1)])
    model.compile(optimizer=tf.keras.optimizers.Adam(0.1), loss="mse", run_eagerly=True)  # tracing takes seconds
    return model


def epoch_batches(epoch: int) -> tf.data.Dataset:
    draw = np.random.default_rng(epoch)
    inputs = draw.normal(size=(12, 4)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, inputs.sum(axis=1, keepdims=True))).batch(4)


def weights_of(model: tf.keras.Model) -> list[np.ndarray]:
    model(np.zeros((1, 4), np.float32))
    return [weight.copy() for weight in model.get_weights()]


def train(
    folder: Path,
    epochs: int = EPOCHS,
    after_epoch: Callable[[int], None] = lambda epoch: None,
    **options: object,
) -> tuple[list[Record], list[np.ndarray]]:
    """Trains a new model in `folder`; `after_epoch` is called in validation, before anything of the epoch is written."""
    model, epoch = make_model(), itertools.count(num_finished(folder))

    def validate() -> Record:
        after_epoch(next(epoch))
        return {"measured": float(tf.reduce_sum(model(np.ones((2, 4), np.float32))))}

    records = fit(model, epoch_batches, validate, MEASURED, epochs, folder, **options)
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records], weights_of(
        model
    )


def num_finished(folder: Path) -> int:
    """How many epochs the latest checkpoint has seen."""
    latest = tf.train.latest_checkpoint(folder / "last")
    return int(latest.rsplit("-", 1)[1]) + 1 if latest else 0


def scripted(values: list[float], objective: Objective, folder: Path, epochs: int = 10):
    """Trains with validation results written beforehand; returns the records, the end weights and those of each epoch."""
    model, seen = make_model(), []

    def validate() -> Record:
        seen.append(weights_of(model))
        return {objective.name: values[len(seen) - 1]}

    return fit(model, epoch_batches, validate, objective, epochs, folder), weights_of(model), seen


def assert_equal_weights(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("values", "maximise", "num_epochs", "best"),
    [
        ([1.0, 3.0, 2.0, 2.5, 9.0], True, 4, 1),
        ([3.0, 1.0, 2.0, 1.5, 0.0], False, 4, 1),
        ([1.0, 2.0, 2.0, 2.0, 9.0], True, 4, 1),  # the first of equals
        ([5.0, 4.0, 3.0, 9.0, 9.0], True, 3, 0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], True, 5, 4),  # all epochs there are
    ],
)
def test_stops_early_and_keeps_the_best_epoch(tmp_path, values, maximise, num_epochs, best):
    records, weights, seen = scripted(values, Objective("recall", maximise, patience=2), tmp_path, epochs=5)
    assert [record["recall"] for record in records] == values[:num_epochs]
    assert [record["epoch"] for record in records] == list(range(num_epochs))
    assert_equal_weights(weights, seen[best])
    assert any((one != other).any() for one, other in zip(weights, seen[best - 1], strict=True))


def test_finished_training_is_not_continued(tmp_path):
    objective = Objective("recall", True, patience=1)
    records, weights, _ = scripted([2.0, 1.0], objective, tmp_path)
    again, restored, seen = scripted([], objective, tmp_path)
    assert again == records
    assert seen == []
    assert_equal_weights(restored, weights)


def test_best_epoch_is_restored_into_a_new_model(tmp_path, uninterrupted):
    records, weights = train(tmp_path)
    model = make_model()
    restored = restore_best(model, tmp_path)
    assert_equal_weights(weights_of(model), weights)
    assert [record["loss"] for record in restored] == [record["loss"] for record in records]


def test_records(uninterrupted):
    records, _ = uninterrupted
    assert [record.keys() for record in records] == [{"epoch", "loss", "measured"}] * EPOCHS
    assert len({record["loss"] for record in records}) == EPOCHS


@pytest.mark.parametrize("at", [0, 2])
def test_failure_in_validation_changes_nothing(tmp_path, uninterrupted, at):
    def fail(epoch: int) -> None:
        if epoch == at:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, after_epoch=fail)
    assert num_finished(tmp_path) == at
    records, weights = train(tmp_path)
    assert records == uninterrupted[0]
    assert_equal_weights(weights, uninterrupted[1])


def test_failure_within_an_epoch_changes_nothing(tmp_path, uninterrupted):
    def fail(done: int, total: int) -> None:
        assert total == 3 * EPOCHS
        if done == 5:  # in the second of four epochs of three batches
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, progress=fail)
    records, weights = train(tmp_path)
    assert records == uninterrupted[0]
    assert_equal_weights(weights, uninterrupted[1])


def test_kill_between_history_and_checkpoint_changes_nothing(tmp_path, uninterrupted):
    """The record and the best weights of the third epoch are written, its checkpoint is not."""
    folder, earlier = tmp_path / "run", tmp_path / "earlier"

    def keep(epoch: int) -> None:
        if epoch == 2:
            shutil.copytree(folder / "last", earlier)

    train(folder, epochs=3, after_epoch=keep)
    shutil.rmtree(folder / "last")
    shutil.copytree(earlier, folder / "last")
    records, weights = train(folder)
    assert records == uninterrupted[0]
    assert_equal_weights(weights, uninterrupted[1])


def test_more_epochs_continue_where_fewer_ended(tmp_path, uninterrupted, capsys):
    assert train(tmp_path, epochs=2)[0] == uninterrupted[0][:2]
    assert capsys.readouterr().out == ""
    assert train(tmp_path)[0] == uninterrupted[0]
    assert capsys.readouterr().out == "  resumed after epoch 2 of 4\n"


def test_killed_process_changes_nothing(tmp_path, uninterrupted):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, __file__, tmp_path], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert num_finished(tmp_path) == 2
    records, weights = train(tmp_path)
    assert records == uninterrupted[0]
    assert_equal_weights(weights, uninterrupted[1])


def test_progress_and_summary(tmp_path):
    reports: list[tuple[int, int]] = []
    summary = tf.summary.create_file_writer(str(tmp_path / "logs"))
    train(tmp_path, epochs=2, progress=lambda *report: reports.append(report), summary=summary)
    assert reports == [(done, 6) for done in range(1, 7)]
    (file,) = (tmp_path / "logs").iterdir()
    scalars = {
        (event.step, value.tag)
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert scalars == {(epoch, name) for epoch in (0, 1) for name in ("loss", "seconds", "measured")}


def test_killed_retrieval_continues_bit_by_bit(tmp_path, dataset, content, batches, retrieval_config):
    """The real model, whose variables and optimizer slots do not exist yet when the checkpoint is restored."""

    def run(folder: Path, fail_at: int) -> tuple[list[float], np.ndarray]:
        tf.keras.utils.set_random_seed(1)
        model = RetrievalModel(retrieval_config, dataset, content, batches)
        model.compile(optimizer=tf.keras.optimizers.Adam(0.01))
        measured: list[float] = []

        def validate() -> Record:
            if len(measured) == fail_at:
                raise RuntimeError("killed")
            measured.append(float(np.square(model.embed_catalogue()).sum()))
            return {"measured": measured[-1]}

        records = fit(model, batches.epoch, validate, MEASURED, 3, folder)
        return [record[name] for record in records for name in ("loss", "measured")], model.embed_catalogue()

    expected, embeddings = run(tmp_path / "whole", fail_at=-1)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", fail_at=1)
    continued, restored = run(tmp_path / "killed", fail_at=-1)
    assert continued == expected
    np.testing.assert_array_equal(restored, embeddings)


def _kill(epoch: int) -> None:
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train(Path(sys.argv[1]), after_epoch=_kill)
