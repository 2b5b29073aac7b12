"""On what a model is trained: one device, the GPUs of one machine, or many workers.

A *worker* is a process with its own copy of the program, a *replica* a device that holds the whole model. Every worker runs the
same stages on the same data; each replica computes its share of every batch (`data/shares.py`), and gradients are summed, so that
all replicas hold the same weights, those that one device would have come to. The *chief* is the worker that writes: checkpoints,
logs and what is published. The run's folder and the cache of features must be visible to all workers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import DistributionConfig
from tfrec.data.shares import Shares
from tfrec.errors import TfrecError
from tfrec.tf_config import read_cluster

LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""What TensorFlow raises in the other workers when one is gone."""


OnStep = Callable[[int, int], None]
"""Told of each step of an epoch, counted from 0, and of their number: when it is finished, or handed out to a worker."""

Trainer = Callable[[int, OnStep], float]
"""Trains a model for an epoch, counted from 0, and returns its loss: in step that of the last batch, else the mean."""


class _Progress(tf.keras.callbacks.Callback):
    def __init__(self, on_step: OnStep, steps: int) -> None:
        super().__init__()
        self._on_step, self._steps = on_step, steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._on_step(batch, self._steps)


@dataclass(frozen=True)
class Distribution:
    """Where the variables of a model live and who computes which share of its batches.

    Args:
        strategy: of TensorFlow; None for one device.
        num_workers: processes that train together.
        is_chief: whether this one writes.
        scratch: of a worker that is not the chief: for what it must write, and nobody reads.
    """

    strategy: tf.distribute.Strategy | None = None
    num_workers: int = 1
    is_chief: bool = True
    scratch: tempfile.TemporaryDirectory[str] | None = None

    is_remote = False
    """Whether steps are computed by other processes, which see no variables but those that were made in the scope."""

    @property
    def num_replicas(self) -> int:
        """Devices of all workers, each with a copy of the model."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def scope(self) -> AbstractContextManager[Any]:
        """In which a model that is to be trained must be made and compiled."""
        return self.strategy.scope() if self.strategy else nullcontext()

    def check_batch_size(self, name: str, batch_size: int) -> None:
        """Refuses a batch that cannot be shared out equally.

        Raises:
            TfrecError: If the number of replicas does not divide it.
        """
        if batch_size % self.num_replicas:
            raise TfrecError(
                f"`{name}` must be a multiple of the number of replicas, {self.num_replicas}, since each computes an equal "
                f"share of every batch. Received: {batch_size}."
            )

    def build(self, model: tf.keras.Model, epoch_batches: Callable[..., tf.data.Dataset]) -> None:
        """Makes the variables of a model, with the values that one device would have begun with.

        Left to the first step, they would be made in threads of the replicas, which know nothing of the seed.
        """
        if self.strategy is not None:
            with self.scope():
                model.compute_loss(next(iter(epoch_batches(0))))

    def trainer(self, model: tf.keras.Model, epoch_batches: Callable[..., tf.data.Dataset]) -> Trainer:
        """What trains a model epoch by epoch; arguments as `tfrec.models.training.fit`."""

        def train(epoch: int, on_step: OnStep) -> float:
            batches, steps = self._batches(epoch_batches, epoch)
            progress = _Progress(on_step, steps)
            trained = model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[progress])
            return float(trained.history["loss"][-1])

        return train

    def _batches(self, epoch_batches: Callable[..., tf.data.Dataset], epoch: int) -> tuple[Any, int]:
        """What this worker's replicas read in an epoch, and the number of its steps.

        Args:
            epoch_batches: makes the batches of an epoch, or the `Shares` of them.
            epoch: counted from 0.
        """
        if self.strategy is None:
            batches = epoch_batches(epoch)
            return batches, int(batches.cardinality())

        def worker_batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = context.num_replicas_in_sync // context.num_input_pipelines
            return epoch_batches(epoch, Shares(self.num_replicas, context.input_pipeline_id * local, local))

        steps = int(epoch_batches(epoch, Shares(self.num_replicas)).cardinality())
        return self.strategy.distribute_datasets_from_function(worker_batches), steps

    def writable(self, folder: Path) -> Path:
        """`folder` for the chief; for the others, who must write checkpoints along with it, one that nobody reads."""
        return Path(self.scratch.name) / folder.name if self.scratch else folder

    def from_chief(self, values: NDArray[Any]) -> NDArray[Any]:
        """The chief's float values, in every worker; all must ask, with values of the same shape and type."""
        if self.strategy is None or self.num_workers == 1:
            return values
        with self.noticing_lost_workers():
            shared = self._of_first_replica(tf.constant(values if self.is_chief else np.zeros_like(values)))
            return self.strategy.experimental_local_results(shared)[0].numpy()

    @cached_property
    def _of_first_replica(self) -> Callable[[tf.Tensor], Any]:
        strategy = self.strategy
        assert strategy is not None, "there are several workers"

        def share(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            is_first = context.replica_id_in_sync_group == 0
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, values, tf.zeros_like(values)))

        return tf.function(lambda values: strategy.run(share, [values]), reduce_retracing=True, autograph=False)

    def wait_for_chief(self) -> None:
        """Returns once every worker has come here."""
        self.from_chief(np.zeros(1, np.float32))

    @contextmanager
    def noticing_lost_workers(self) -> Iterator[None]:
        """Turns what TensorFlow raises for lack of a worker into one line.

        Raises:
            TfrecError: If a worker died or cannot be reached.
        """
        try:
            yield
        except LOST as error:
            if self.num_workers == 1:
                raise
            raise TfrecError(
                "A worker was lost or cannot be reached, and the others cannot go on without it. Start all of them again with "
                f"`--resume`: at most one epoch is repeated. TensorFlow says: {str(error).splitlines()[0]}"
            ) from error


ONE_DEVICE = Distribution()


def open_distribution(config: DistributionConfig) -> Distribution:
    """Makes the strategy; where there are several workers, returns when all are there. Must be the first use of TensorFlow.

    Raises:
        TfrecError: If `TF_CONFIG` is missing, cannot be read, or lacks the tasks that the strategy needs.
    """
    cluster = read_cluster()
    strategy = cluster.strategy(config)
    if strategy == "parameter_server":
        from tfrec.parameter_server import open_chief

        return open_chief()
    if strategy == "multi_worker":
        is_chief = cluster.task == cluster.workers[0]
        scratch = None if is_chief else tempfile.TemporaryDirectory(prefix="tfrec-worker-")
        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), len(cluster.workers), is_chief, scratch)
    if strategy == "mirrored":
        return Distribution(tf.distribute.MirroredStrategy())
    return ONE_DEVICE
