"""Work on a Ray cluster: workers that each load something large once, and a crew of them that outlives any one.

A *worker* is an object of a class with the methods `load()`, called before all else and again after each restart, and
`work(item)`. Each lives in a process of its own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrec.errors import TfrecError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise TfrecError("`--engine ray` needs Ray, which is not installed: pip install 'tfrec[ray]'.") from missing

ROOT = str(Path(__file__).parents[1])  # a checkout need not be installed
_MAX_LOSSES = 3  # an item that ends so many workers is itself to blame


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to a cluster; where it is connected already, it stays so.

    Args:
        address: of the cluster, `auto` for the one of this machine; None starts one that lives as long as the block.

    Raises:
        TfrecError: If there is none.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))  # of the workers
    place = {"address": address} if address else {"address": "local", "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(**place, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TfrecError(f"There is no Ray cluster at {address}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass
class _Task:
    key: Any
    item: Any
    losses: int = 0


class Crew:
    """Workers that share the work of one job.

    Args:
        workers: handles of Ray actors that restart, see `hired`.
        arguments: references to what their constructor takes; held, because a restart takes it again.
    """

    def __init__(self, workers: Sequence[Any], arguments: Sequence[Any]) -> None:
        self._arguments = arguments
        self._busy: dict[Any, tuple[Any, _Task | None]] = {}
        self._idle: list[Any] = []
        self._returned: deque[_Task] = deque()
        for worker in workers:
            self._load(worker)

    @classmethod
    def hired(
        cls, worker: type, arguments: Sequence[Any], num_workers: int | None, num_gpus: float, num_cpus: int = 1
    ) -> Crew:
        """Starts workers on the cluster; those that find no room yet join later.

        Args:
            worker: their class.
            arguments: of their constructor.
            num_workers: how many; None for as many as have room now.
            num_gpus: of each, may be a part of one.
            num_cpus: of each.
        """
        resources = ray.cluster_resources()
        room = resources.get("GPU", 0) / num_gpus if num_gpus else resources.get("CPU", 0)
        remote = ray.remote(worker).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1)
        shared = [ray.put(argument) for argument in arguments]
        return cls([remote.remote(*shared) for _ in range(num_workers or max(int(room), 1))], shared)

    def results(self, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Key and result of each item, in the order in which they are ready, each once.

        Args:
            items: key and item; taken when a worker is free.

        Raises:
            TfrecError: If workers cannot start, or an item ends one after the other.
            Exception: What `load` or `work` raises.
        """
        tasks = (_Task(key, item) for key, item in items)
        while True:
            self._hand_out(tasks)
            if self._idle and not any(task for _, task in self._busy.values()):
                return
            for reference in ray.wait(list(self._busy), num_returns=1)[0]:
                worker, task = self._busy.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:
                    raise error.cause from error
                except RayError as error:
                    self._lost(worker, task, error)
                    continue
                self._idle.append(worker)
                if task is not None:
                    yield task.key, result

    def _hand_out(self, tasks: Iterator[_Task]) -> None:
        while self._idle:
            task = self._returned.popleft() if self._returned else next(tasks, None)
            if task is None:
                return
            worker = self._idle.pop()
            self._busy[worker.work.remote(task.item)] = worker, task

    def _load(self, worker: Any) -> None:
        """Waits, at the back of the worker's queue, until it has been started and has loaded."""
        self._busy[worker.load.options(max_task_retries=-1).remote()] = worker, None

    def _lost(self, worker: Any, task: _Task | None, error: RayError) -> None:
        reason = " ".join(str(error).split())
        if task is None:  # Ray has tried again for as long as there was hope; the others do its work
            if not (self._busy or self._idle):
                raise TfrecError(f"No worker can be started: {reason}") from error
            return
        task.losses += 1
        if task.losses == _MAX_LOSSES:
            raise TfrecError(f"The same work ended {_MAX_LOSSES} workers, the last one so: {reason}") from error
        self._returned.append(task)
        self._load(worker)


def share_machine() -> None:
    """Leaves the other cores, and the rest of a GPU's memory, to other workers; before TensorFlow does anything."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
