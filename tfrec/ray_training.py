"""Training on a Ray cluster: Ray Train places the workers, writes their `TF_CONFIG` and starts all of them anew when one is lost.

Every worker runs the stages of `tfrec.train`. They are told to resume, always: what they find on the first start is nothing,
and after a loss the last finished epoch.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import tensorflow as tf

from tfrec.cluster import ROOT
from tfrec.config import TrainConfig
from tfrec.errors import TfrecError
from tfrec.train import check_for_workers, train

try:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
except ImportError as missing:
    raise TfrecError("Training on Ray needs Ray Train, which is not installed: pip install 'tfrec[ray]'.") from missing


@dataclass(frozen=True)
class RayWorkers:
    """What trains.

    Args:
        num_workers: processes that train together, anywhere on the cluster.
        num_cpus: of each worker.
        num_gpus: of each worker.
        max_losses: how often the workers are started again after one was lost.
    """

    num_workers: int = 2
    num_cpus: int = 1
    num_gpus: int = 0
    max_losses: int = 3


def train_on_ray(config: TrainConfig, workers: RayWorkers) -> Path:
    """Runs every stage on the cluster that this process is connected to.

    Args:
        config: of the run; its files and folders must be the same for all nodes and this process.
        workers: where it runs.

    Returns:
        The run's folder.

    Raises:
        TfrecError: If the run cannot be started, or fails for good.
    """
    if config.output is None:
        raise TfrecError("Training on Ray needs `--output`: a folder on storage that all nodes and this process see.")
    if config.distribution.strategy not in ("one_device", "multi_worker"):
        raise TfrecError(
            "Workers on Ray train in step: leave out `--distribution.strategy`, or give multi_worker. Received: "
            f"{config.distribution.strategy!r}."
        )
    check_for_workers(config)
    output = config.output.absolute()
    if not config.resume:
        (output / "state.json").unlink(missing_ok=True)
    environment = {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, *_python_path())))}
    storage = output / f".ray-{uuid4().hex}"
    trainer = TensorflowTrainer(
        _train,
        train_loop_config={
            "config": replace(config, output=output, resume=True),
            "folder": os.getcwd(),
            "threads": workers.num_cpus,
        },
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker={"CPU": workers.num_cpus, **({"GPU": workers.num_gpus} if workers.num_gpus else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=workers.max_losses),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise TfrecError(
            f"Training failed on Ray: {lines[-1].strip()} What is finished is kept: `--resume` goes on with it."
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return output


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def _train(settings: dict[str, Any]) -> None:
    """What each worker does; `TF_CONFIG` is there by then."""
    os.chdir(settings["folder"])
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    train(settings["config"])
