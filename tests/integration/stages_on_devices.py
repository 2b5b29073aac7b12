"""Trains retrieval and ranking by their stages, on one device and then on two of this process, and prints the losses.

A program of its own, since logical devices are made before TensorFlow is first used.

Usage: python stages_on_devices.py FOLDER OPTION ...
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import tfrec  # noqa: F401  (first: it selects Keras 2)

import tensorflow as tf  # isort: skip

from tfrec.data.dataset import load_dataset
from tfrec.distribution import ONE_DEVICE, Distribution, open_distribution
from tfrec.features.content import ContentFeatures
from tfrec.pipeline import Stages
from tfrec.run import RunFolder
from tfrec.train import parse_arguments


def main(folder: Path, options: list[str]) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.experimental.enable_op_determinism()
    config = parse_arguments([*options, "--strategy=mirrored"])
    dataset = load_dataset(config.data, None)
    mirrored = open_distribution(config.distribution)
    assert mirrored.num_replicas == 2

    def losses(name: str, distribution: Distribution) -> dict[str, list[float]]:
        run = RunFolder(folder / name, "", False)
        stages = Stages(config, run, dataset, ContentFeatures({}, {}), distribution=distribution)
        retrieval = stages.train_retrieval()
        stages.train_ranking(retrieval, stages.embed_videos(retrieval, None))
        trained = {stage: run.result(stage)["records"] for stage in ("retrieval", "ranking", "distillation")}
        return {
            stage: [record[name] for record in records for name in ("loss", "validation_loss") if name in record]
            for stage, records in trained.items()
        }

    results = {"one": losses("one", ONE_DEVICE), "two": losses("two", mirrored)}
    (folder / "losses.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
