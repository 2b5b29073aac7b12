"""What finds cold videos: content-kNN, a ridge regression, id dropout, the VAE head, and the head with a content block.

    python benchmarks/cold_start.py --data ../shared/data/tiktok [--config FILE] [--output FOLDER --resume] [--option=value ...]

Trains retrieval and the head once and prints a row for each way to embed the videos that nobody has watched in training, measured
on the final part: recall and NDCG where they alone are candidates (with the 95 % interval), then recall over the whole catalogue
and the share of cold videos in its slates. Checks that warm videos score the same to the last bit, whatever the row.

`--heads` trains further heads, with one option changed at a time.

Further options are those of `python -m tfrec.train`; an `--output` that is resumed is not trained again.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrec.evaluation.references import evaluate_baseline
from tfrec.features.content import ContentFeatures
from tfrec.models.cold_videos import CONTENT_SHARES, ColdVideos
from tfrec.pipeline import Metrics, Stages
from tfrec.run import RunFolder
from tfrec.train import open_stages, parse_arguments

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "tiktok.yaml"
HEADS = {
    "VAE head, 0.02 free bits": {"free_bits": 0.02},
    "VAE head, lengths calibrated": {"calibrate_norms": True},
    "VAE head, exploration 1": {"exploration_weight": 1.0},
    "VAE head, prior from generation metadata": {"generation_prior": True},
}
"""Options of the head that `--heads` trains it with."""

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
HELD_OUT = 5
"""Every so many warm videos, the penalty is chosen by one."""


def ridge(content: ContentFeatures, embeddings: NDArray[np.float32], warm: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Embeddings `[num_videos, D]` by linear regression from content, with the penalty that generalises best."""
    pooled = np.concatenate([modality.pooled() for modality in content.modalities.values()], axis=1).astype(np.float64)
    features = (pooled - pooled[warm].mean(axis=0)) / np.maximum(pooled[warm].std(axis=0), 1e-6)
    mean = embeddings[warm].mean(axis=0)

    def predicted(rows: NDArray[np.int64], penalty: float) -> NDArray[np.float64]:
        gram = features[rows].T @ features[rows] + penalty * np.eye(features.shape[1])
        return features @ np.linalg.solve(gram, features[rows].T @ (embeddings[rows] - mean)) + mean

    rows = np.flatnonzero(warm)
    held_out = rows[::HELD_OUT]
    kept = np.setdiff1d(rows, held_out)
    error = {p: np.square(predicted(kept, p) - embeddings)[held_out].mean() for p in PENALTIES}
    return predicted(rows, min(error, key=lambda penalty: error[penalty])).astype(np.float32)


def row(name: str, measured: Metrics) -> str:
    """One line of the table."""
    cold = measured["cold_start"]
    low, high = cold["recall@20_interval"]
    whole = measured["retrieval"]
    return (
        f"| {name} | {cold['recall@20']:.4f} ({low:.3f} to {high:.3f}) | {cold['ndcg@20']:.4f} "
        f"| {whole['recall@20']:.4f} | {whole.get('cold_share@20', 0.0):.4f} |"
    )


def with_head(stages: Stages, name: str, **options: float) -> Stages:
    """Other options of the head, which stands alone, and a folder for its training."""
    config = replace(stages.config, cold_start=replace(stages.config.cold_start, content_dim=0, **options))
    run = RunFolder(stages.run.folder / name.replace(" ", "_"), name, stages.config.resume)
    return replace(stages, config=config, run=run)


def compare(stages: Stages, heads: bool) -> None:
    """Trains, measures and prints."""
    retrieval = stages.train_retrieval()
    chosen = stages.train_cold_start(retrieval)
    if chosen is None:
        raise SystemExit("There is no content to embed cold videos by.")
    print(f"\ncontent share {chosen.content_share}, {chosen.block.names if chosen.block else 'no'} content\n")
    print("| Cold videos embedded by | cold R@20 | cold NDCG@20 | all R@20 | cold share@20 |\n|---|---|---|---|---|")
    config, interactions = stages.config, stages.dataset.interactions
    known = evaluate_baseline(
        "content_knn", interactions, stages.content, stages.final_task(), config.evaluation, config.seed
    )
    print(row(f"content-kNN {known['settings']}", {"cold_start": known["cold_start"], "retrieval": known}), flush=True)
    without = stages.embed_videos(retrieval, None)
    warm = interactions.train_counts > 0
    regressed = without.videos.copy()
    regressed[~warm] = ridge(stages.content, without.videos, warm)[~warm]
    alone = ColdVideos(chosen.head)
    ways = {
        "ridge regression from content": without.with_videos(regressed),
        "candidate tower, id unknown (id dropout)": without,
        "VAE head": stages.embed_videos(retrieval, alone),
    }
    if chosen.block is not None:
        content = replace(chosen, content_share=CONTENT_SHARES[-1])
        ways["content block, hardly any VAE"] = stages.embed_videos(retrieval, content)
        ways[f"VAE head and content block ({chosen.content_share:.0%})"] = stages.embed_videos(retrieval, chosen)
    for name, options in HEADS.items() if heads else ():
        changed = with_head(stages, name, **options)
        ways[name] = changed.embed_videos(retrieval, changed.train_cold_start(retrieval))
    results = {name: stages.evaluate_retrieval(retrieval, tables) for name, tables in ways.items()}
    for name, measured in results.items():
        print(row(name, measured), flush=True)
    first, *others = [measured["warm"] for measured in results.values()]
    assert all(other == first for other in others), "warm videos are ranked differently"
    print(
        f"\nwarm videos alone: recall@20 {first['recall@20']:.4f}, the same in every row, as is every other figure of them"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--heads", action="store_true")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--config={arguments.config}", f"--data={arguments.data}", f"--output={folder}", *options]
        compare(open_stages(parse_arguments(given)), arguments.heads)


if __name__ == "__main__":
    main()
