"""What finds cold videos: content-kNN, a ridge regression, id dropout, the VAE head, and the head with a content block.

    python benchmarks/cold_start.py --data ../shared/data/tiktok [--config FILE] [--seeds 1] [--option=value ...]

Trains retrieval and the head and prints a row for each way to embed the videos that nobody has watched in training, measured
on the final part: recall and NDCG where they alone are candidates, then recall over the whole catalogue and the share of cold
videos in its slates; of one seed with the 95 % interval, of several as mean and sample deviation, of rows that all seeds have.
Checks that warm videos score the same to the last bit, whatever the row.

`--heads` trains further heads, with one option changed at a time.

Further options are those of `python -m tfrec.train`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrec.evaluation.references import evaluate_baseline
from tfrec.features.content import ContentFeatures
from tfrec.models.cold_videos import CONTENT_SHARES, ColdVideos
from tfrec.pipeline import Metrics, Stages
from tfrec.run import RunFolder
from tfrec.train import open_stages, parse_arguments

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "tiktok.yaml"
HEADS: dict[str, dict[str, Any]] = {
    "VAE head, 0.02 free bits": {"free_bits": 0.02},
    "VAE head, lengths calibrated": {"calibrate_norms": True},
    "VAE head, exploration 1": {"exploration_weight": 1.0},
    "VAE head, prior from generation metadata": {"generation_prior": True},
}
"""Options of the head that `--heads` trains it with."""

APPEALS = (1.0, 2.0, 3.0)
"""Added to that of all cold videos, which a run chooses so that most is found in the whole catalogue: the price of showing
more."""

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


def row(name: str, seeds: list[Metrics]) -> str:
    """One line of the table."""
    found = [
        ("cold_start", "recall@20"),
        ("cold_start", "ndcg@20"),
        ("retrieval", "recall@20"),
        ("retrieval", "cold_share@20"),
    ]
    cells = []
    for block, metric in found:
        values = [measured[block].get(metric, 0.0) for measured in seeds]
        interval = seeds[0][block].get(f"{metric}_interval")
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        if interval and not spread:
            spread = f" ({interval[0]:.3f} to {interval[1]:.3f})"
        cells.append(f"{statistics.mean(values):.4f}{spread}")
    return f"| {name} | {' | '.join(cells)} |"


def with_head(stages: Stages, name: str, **options: Any) -> Stages:
    """Other options of the head, which stands alone, and a folder for its training."""
    config = replace(stages.config, cold_start=replace(stages.config.cold_start, content_dim=0, **options))
    run = RunFolder(stages.run.folder / name.replace(" ", "_"), name, stages.config.resume)
    return replace(stages, config=config, run=run)


def measure(stages: Stages, heads: bool) -> dict[str, Metrics]:
    """Trains, and measures each way."""
    retrieval = stages.train_retrieval()
    chosen = stages.train_cold_start(retrieval)
    if chosen is None:
        raise SystemExit("There is no content to embed cold videos by.")
    print(f"\ncontent share {chosen.content_share}, {chosen.block.names if chosen.block else 'no'} content\n")
    config, interactions = stages.config, stages.dataset.interactions
    known = evaluate_baseline(
        "content_knn", interactions, stages.content, stages.final_task(), config.evaluation, config.seed
    )
    without = stages.embed_videos(retrieval, None)
    warm = interactions.train_counts > 0
    regressed = without.videos.copy()
    regressed[~warm] = ridge(stages.content, without.videos, warm)[~warm]
    ways = {
        "ridge regression from content": without.with_videos(regressed),
        "candidate tower, id unknown (id dropout)": without,
        "VAE head": stages.embed_videos(retrieval, ColdVideos(chosen.head)),
    }
    if chosen.block is not None:
        content = replace(chosen, content_share=CONTENT_SHARES[-1])
        ways["content block, hardly any VAE"] = stages.embed_videos(retrieval, content)
    ways["as chosen"] = stages.embed_videos(retrieval, chosen)
    for higher in APPEALS:
        videos = ways["as chosen"].videos.copy()
        videos[~warm, -1] += higher
        ways[f"the same, appeal {higher:g} higher"] = ways["as chosen"].with_videos(videos)
    for name, options in HEADS.items() if heads else ():
        changed = with_head(stages, name, **options)
        ways[name] = changed.embed_videos(retrieval, changed.train_cold_start(retrieval))
    results = {name: stages.evaluate_retrieval(retrieval, tables) for name, tables in ways.items()}
    first, *others = [measured["warm"] for measured in results.values()]
    assert all(other == first for other in others), "warm videos are ranked differently"
    print(
        f"warm videos alone: recall@20 {first['recall@20']:.4f}, the same in every way, as is every other figure of them"
    )
    return {"content-kNN": {"cold_start": known["cold_start"], "retrieval": known}, **results}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--heads", action="store_true")
    arguments, options = parser.parse_known_args()
    found = []
    for seed in range(1, arguments.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            given = [f"--config={arguments.config}", f"--data={arguments.data}", f"--output={folder}", f"--seed={seed}"]
            found.append(measure(open_stages(parse_arguments([*given, *options])), arguments.heads))
    print("\n| Cold videos embedded by | cold R@20 | cold NDCG@20 | all R@20 | cold share@20 |\n|---|---|---|---|---|")
    for name in [name for name in found[0] if all(name in others for others in found)]:
        print(row(name, [measured[name] for measured in found]))


if __name__ == "__main__":
    main()
