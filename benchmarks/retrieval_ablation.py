"""What each part of the TikTok configuration is worth: retrieval trained with one part changed at a time.

    python benchmarks/retrieval_ablation.py --data ../shared/data/tiktok [--seeds 3] [--temperatures 0.5 1 2] [--only NAME ...] \
        [--option=value ...]

Prints recall@20 and NDCG@20 of the validation part, after the last epoch (so that no epoch is chosen by what it is measured
on) and without what is chosen beside the learned score: mean and sample deviation over the seeds. A part whose best
temperature is not that of the others is compared fairly with `--temperatures`: a row for each. Further options are those of
`python -m tfrec.train`, for every run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import product
from pathlib import Path

from tfrec.train import open_stages, parse_arguments

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "tiktok.yaml"

CANDIDATE, QUERY = "--retrieval.candidate", "--retrieval.query"

VARIANTS = {
    "as shipped": [],
    "no graph": [f"{CANDIDATE}.graph=none"],
    "no content edges": [f"{CANDIDATE}.graph_neighbours=0"],
    "no ensemble": ["--retrieval.ensemble_size=1", "--retrieval.embedding_dim=65"],
    "no content in the tower": [f"{CANDIDATE}.use_content=false"],
    "alignment loss": [f"{CANDIDATE}.alignment_weight=0.1"],
    "positives masked": ["--retrieval.mask_positives=true"],
    "no logQ": ["--retrieval.log_q_correction=false"],
    "in-batch negatives alone": ["--retrieval.num_uniform_negatives=0"],
    "all videos as negatives": ["--retrieval.num_uniform_negatives=8192"],
    "512 by popularity besides": ["--retrieval.num_popular_negatives=512"],
    "128 hard besides": ["--retrieval.num_hard_negatives=128"],
    "queue of 2048 besides": ["--retrieval.queue_size=2048"],
    "streaming frequency": ["--retrieval.frequency=streaming"],
    "histories in a table of their own": [f"{CANDIDATE}.separate_history=true"],
    "bpr": ["--retrieval.loss=bpr"],
    "users with one video too": ["--retrieval.min_examples_per_user=1"],
    "every training row": ["--retrieval.user_exponent=1", "--retrieval.epochs=3"],
    "mmgcn": [f"{CANDIDATE}.graph=mmgcn"],
    "one hop": [f"{CANDIDATE}.graph_layers=1"],
    "three hops": [f"{CANDIDATE}.graph_layers=3"],
    "edges by all modalities": [f"{CANDIDATE}.graph_modalities=[]"],
    "query network": [f"{QUERY}.network=true"],
    "no query dropout": [f"{QUERY}.dropout=0"],
    "attention over the history": [f"{QUERY}.encoder=attention", f"{QUERY}.num_heads=1"],
    "user ids": [f"{QUERY}.user_ids=true"],
}
"""Options that differ, by what is printed."""


def run(options: list[str], seed: int) -> tuple[float, float, float]:
    """Recall@20 and NDCG@20 after the last epoch, and seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        stages = open_stages(parse_arguments([f"--config={CONFIG}", f"--output={folder}", f"--seed={seed}", *options]))
        stages.train_retrieval()
        records = stages.curves()["retrieval"]
    return records[-1]["recall@20"], records[-1]["ndcg@20"], sum(record["seconds"] for record in records)


def main() -> None:
    """Prints a row per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0])
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    arguments, options = parser.parse_known_args()
    rows = []
    for name, temperature in product(arguments.only, arguments.temperatures):
        shared = [f"--data={arguments.data}", f"--retrieval.temperature={temperature}"]
        runs = [run([*shared, *VARIANTS[name], *options], seed) for seed in range(1, arguments.seeds + 1)]
        recall, ndcg, seconds = zip(*runs, strict=True)
        cells = [
            f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.4f}"
            for values in (recall, ndcg)
        ]
        told = name if arguments.temperatures == [1.0] else f"{name}, temperature {temperature:g}"
        rows.append(f"| {told} | {cells[0]} | {cells[1]} | {statistics.mean(seconds):.0f} |")
        print(rows[-1], flush=True)
    print("\n| Part | R@20 | NDCG@20 | seconds |\n|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()
