"""What each way to fuse modalities is worth on the demo dataset, and alignment and modality dropout.

    python benchmarks/fusion_ablation.py [--data DIR] [--seeds 2] [--only NAME ...] [--option=value ...]

Retrieval and the cold-start head are trained with one option changed at a time. Printed is recall@20 of the validation part,
over the whole catalogue and of its cold videos, at the epoch that early stopping keeps, as mean and range over the seeds.
Further options are those of `python -m tfrec.train`, for every run; the features are encoded once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from tfrec.train import open_stages, parse_arguments

CANDIDATE = "--retrieval.candidate"

VARIANTS = {
    **{name: [f"{CANDIDATE}.fusion={name}"] for name in ("gated", "weighted", "concat", "attention")},
    "gated, alignment .1": [f"{CANDIDATE}.alignment_weight=0.1"],
    "gated, modality dropout .2": [f"{CANDIDATE}.modality_dropout=0.2"],
}
"""Options that differ, by what is printed."""


def run(options: list[str], seed: int) -> tuple[float, float, float]:
    """Recall@20 of all videos and of cold ones, and seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        stages = open_stages(parse_arguments([f"--output={folder}", f"--seed={seed}", *options]))
        stages.train_cold_start(stages.train_retrieval())
        curves = stages.curves()
    best = (max(record["recall@20"] for record in curves[stage]) for stage in ("retrieval", "cold_start"))
    return *best, sum(record["seconds"] for records in curves.values() for record in records)


def main() -> None:
    """Prints a row per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    arguments, options = parser.parse_known_args()
    options += [] if arguments.data is None else [f"--data={arguments.data}"]
    print("| Option | recall@20 | of cold videos | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.only:
            shared = [f"--features.cache={cache}", *VARIANTS[name], *options]
            runs = np.array([run(shared, seed) for seed in range(1, arguments.seeds + 1)])
            cells = [f"{column.mean():.3f} ({column.min():.3f} to {column.max():.3f})" for column in runs.T[:2]]
            print(f"| {name} | {' | '.join(cells)} | {runs[:, 2].mean():.0f} |", flush=True)


if __name__ == "__main__":
    main()
