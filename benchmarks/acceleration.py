"""What mixed precision and XLA gain: examples per second and the validation metric beside those of float32.

    python benchmarks/acceleration.py --config pipelines/configs/ml-1m.yaml --data ../shared/data/ml-1m [--epochs 2]

Trains retrieval once per side, and then the ranker on the float32 side's towers, ids alone. The first epoch, which traces and
compiles, has a column of its own. float32 is trained twice, first and last: the difference is what the machine's noise makes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tensorflow as tf
from rich.table import Table

from tfrec.config import AccelerationConfig, TrainConfig
from tfrec.console import console
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import Dataset
from tfrec.features.content import ContentFeatures
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import Stages
from tfrec.run import RunFolder
from tfrec.train import parse_arguments

SIDES = {
    "float32": AccelerationConfig(),
    "mixed precision": AccelerationConfig(mixed_precision=True),
    "XLA": AccelerationConfig(xla=True),
    "both": AccelerationConfig(mixed_precision=True, xla=True),
}


def measure(config: TrainConfig, dataset: Dataset, towers: RetrievalModel | None) -> tuple[RetrievalModel, list[str]]:
    """The towers that the ranker stood on, those trained here if none are given, and the cells of a row of the table."""
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), "acceleration", False)
        stages = Stages(config, run, dataset, ContentFeatures({}, {}))
        trained = stages.train_retrieval()
        towers = towers or trained
        stages.train_ranking(towers, stages.embed_videos(towers, None))
        records = {stage: run.result(stage)["records"] for stage in ("retrieval", "ranking")}
    retrieval, ranking = records["retrieval"], records["ranking"]
    cells = [f"{retrieval[0]['seconds']:.1f}", f"{stages.examples_per_second():,.0f}"]
    cells += [f"{retrieval[-1][config.retrieval.objective]:.4f}", f"{ranking[0]['seconds']:.1f}"]
    cells += [f"{np.mean([epoch['seconds'] for epoch in ranking[1:]]):.2f}", f"{ranking[-1]['validation_loss']:.4f}"]
    return towers, cells


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    base = parse_arguments(["--config", str(options.config), "--data", str(options.data)])
    shorter = {stage: replace(getattr(base, stage), epochs=options.epochs) for stage in ("retrieval", "ranking")}
    base = replace(base, **shorter)
    with TemporaryDirectory() as folder:
        dataset = load_dataset(base.data, Path(folder))
    head = ["retrieval: first epoch, s", "examples/s", base.retrieval.objective]
    head += ["ranking: first epoch, s", "epoch, s", "validation loss"]
    table, towers = Table("side", *head), None
    for name in dict.fromkeys(["float32", *options.sides]) | {"float32 again": None}:
        config = replace(base, acceleration=SIDES.get(name, SIDES["float32"]))
        towers, cells = measure(config, dataset, towers)
        table.add_row(name, *cells)
        console.print(f"{name}: {', '.join(cells)}")
    console.print(table)


if __name__ == "__main__":
    main()
