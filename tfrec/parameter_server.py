"""Training over parameter servers: tables that no single machine needs to hold, and workers that may come and go.

Tasks of type `ps` hold the variables, large tables cut by rows over all of them; tasks of type `worker` compute steps; the
`chief` runs the program and hands the steps out. A batch is a function of its step number, so a number is all that is handed
out: each step of an epoch is computed once, by whichever worker is free, and again by another one if that was lost.

Workers do not wait for each other. Gradients are added when they are ready, to variables that others have moved on since they
were read, so that a run is not repeatable and learns a little differently from one on one device.

References:
    Li et al., Scaling distributed machine learning with the parameter server, OSDI 2014.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.console import console
from tfrec.data.shares import Shares
from tfrec.distribution import LOST, Distribution, OnStep, Trainer
from tfrec.errors import TfrecError

MIN_SHARD_BYTES = 256 << 10
"""Variables smaller than two shards stay whole: the layers' weights, and states of generators, which cannot be cut."""

_CHIEF_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class _StepNumbers(Shares):
    """Gives what makes a batch in place of the batches: first step, number of steps and the function."""

    def batches(self, first_step: int, num_steps: int, make: Callable[[tf.Tensor, tf.Tensor], Any]) -> Any:
        """See `Shares.batches`."""
        return first_step, num_steps, make


@dataclass(frozen=True)
class ParameterServers(Distribution):
    """The chief's side; arguments as `Distribution`."""

    is_remote = True

    def build(self, model: tf.keras.Model, epoch_batches: Callable[..., tf.data.Dataset]) -> None:
        """Makes all variables, those of the optimizer too: workers make none."""
        super().build(model, epoch_batches)
        with self.scope():
            model.optimizer.build(model.trainable_variables)

    def trainer(self, model: tf.keras.Model, epoch_batches: Callable[..., Any]) -> Trainer:
        """See `Distribution.trainer`."""
        strategy = self.strategy
        assert strategy is not None, "made by `open_chief`"
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        steps = _StepNumbers(self.num_replicas)
        make = epoch_batches(0, steps)[2]

        def train_share(step: tf.Tensor) -> tf.Tensor:
            share = tf.distribute.get_replica_context().replica_id_in_sync_group
            return model.train_step(make(step, tf.cast(share, tf.int64)))["loss"]

        @partial(tf.function, autograph=False)
        def train_step(step: tf.Tensor) -> tf.Tensor:
            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(train_share, [step]), axis=None)

        def train(epoch: int, on_step: OnStep) -> float:
            first, count, _ = epoch_batches(epoch, steps)
            losses = []
            for step in range(count):
                losses.append(coordinator.schedule(train_step, [tf.constant(first + step, tf.int64)]))
                on_step(step, count)
            coordinator.join()
            return float(np.mean(coordinator.fetch(losses)))

        return train

    @contextmanager
    def noticing_lost_workers(self) -> Iterator[None]:
        """Lost workers are none of the chief's trouble, lost parameter servers are.

        Raises:
            TfrecError: If a parameter server died or cannot be reached.
        """
        try:
            yield
        except LOST as error:
            raise TfrecError(
                "A parameter server was lost or cannot be reached, and with it a part of the model. Start all tasks again with "
                f"`--resume`: at most one epoch is repeated. TensorFlow says: {str(error).splitlines()[0]}"
            ) from error


def open_chief() -> ParameterServers:
    """Connects to the parameter servers and workers that `TF_CONFIG` names; returns when all are there."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    spec = resolver.cluster_spec()
    tf.config.threading.set_inter_op_parallelism_threads(_num_threads(spec))
    partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(MIN_SHARD_BYTES, spec.num_tasks("ps"))
    strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
    # There is one coordinator per strategy, and its destructor would wait for lost workers to come back: it is never called.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(tf.distribute.coordinator.ClusterCoordinator(strategy)))
    return ParameterServers(strategy)


def _num_threads(spec: tf.train.ClusterSpec) -> int:
    """For operations that wait for other tasks: with fewer than there are workers, all threads may wait for ever."""
    return max(os.cpu_count() or 1, spec.num_tasks("worker") + 1)


def serve() -> None:
    """What tasks of type `ps` and `worker` do: they serve the chief, until it is gone."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    spec, task, index = resolver.cluster_spec(), resolver.task_type, resolver.task_id
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")  # calls to tasks that are gone fail, and do not wait for them
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=_num_threads(spec))
    server = tf.distribute.Server(spec, job_name=task, task_index=index, protocol="grpc", config=config, start=True)
    console.print(f"{task} {index} serves at {server.target.removeprefix('grpc://')}")
    wait_while_alive(spec.task_address("chief", 0))
    console.print("The chief is gone.")


def wait_while_alive(address: str, patience: float = _CHIEF_PATIENCE_SECONDS, poll: float = _POLL_SECONDS) -> None:
    """Waits for a task to appear, and then until it cannot be reached for some time.

    Args:
        address: host and port.
        patience: seconds.
        poll: seconds between looks.
    """
    last_seen = None
    while True:
        if _reachable(address):
            last_seen = time.monotonic()
        elif last_seen is not None and time.monotonic() - last_seen >= patience:
            return
        time.sleep(poll)


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
