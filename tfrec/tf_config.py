"""What the environment variable `TF_CONFIG` says of the processes that train together. Nothing here needs TensorFlow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from tfrec.config import DistributionConfig, Strategy
from tfrec.errors import TfrecError


@dataclass(frozen=True)
class Cluster:
    """What `TF_CONFIG` says.

    Args:
        workers: type and index of the tasks that compute, the chief first.
        num_servers: tasks of type `ps`.
        task: type and index of this process.
    """

    workers: list[tuple[str, int]]
    num_servers: int
    task: tuple[str, int]

    def strategy(self, config: DistributionConfig) -> Strategy:
        """The configured strategy, or where it is `one_device` the one that the cluster is made for.

        Raises:
            TfrecError: If the cluster lacks tasks that it needs.
        """
        if config.strategy == "parameter_server" or (config.strategy == "one_device" and self.num_servers):
            if not self.num_servers or ("chief", 0) not in self.workers or len(self.workers) < 2:
                raise TfrecError(
                    "`--distribution.strategy parameter_server` needs the environment variable TF_CONFIG in every task, with a "
                    'chief, workers and parameter servers: {"cluster": {"chief": ["host:port"], "worker": ["host:port", ...], '
                    '"ps": ["host:port", ...]}, "task": {"type": "chief", "index": 0}}.'
                )
            return "parameter_server"
        if config.strategy == "multi_worker" or (config.strategy == "one_device" and len(self.workers) > 1):
            if not self.workers:
                raise TfrecError(
                    "`--distribution.strategy multi_worker` needs the environment variable TF_CONFIG in every worker: "
                    '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.'
                )
            return "multi_worker"
        return config.strategy


def is_alone(config: DistributionConfig) -> bool:
    """Whether this process trains without others.

    Raises:
        TfrecError: As `Cluster.strategy` and `read_cluster`.
    """
    return read_cluster().strategy(config) in ("one_device", "mirrored")


def is_server(config: DistributionConfig) -> bool:
    """Whether this process only serves a chief that trains over parameter servers."""
    cluster = read_cluster()
    return cluster.strategy(config) == "parameter_server" and cluster.task[0] in ("ps", "worker")


def read_cluster() -> Cluster:
    """Reads `TF_CONFIG`.

    Raises:
        TfrecError: If it is no cluster description.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        described = json.loads(text or "{}")
        jobs = described.get("cluster", {})
        workers = [(job, index) for job in ("chief", "worker") for index in range(len(jobs.get(job, ())))]
        task = described.get("task", {})
        return Cluster(workers, len(jobs.get("ps", ())), (str(task.get("type", "")), int(task.get("index", 0))))
    except (ValueError, AttributeError, TypeError):
        raise TfrecError(
            f"TF_CONFIG is no cluster description. Received: {text[:200]!r}. Expected JSON: "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.'
        ) from None
