"""Makes the embedded demo dataset and prints what it costs, what is in it, and what can be reached on it.

    python benchmarks/demo_dataset.py [--seed 7] [--folder DIR]

The reference rankings are the simplest forms of their kind, on the training clicks alone; content-kNN even knows the
true style factors. What they leave below the oracle is the room for drift, popularity, exposure, user columns and cold
videos. The oracle is the report's: it knows the truth, and no model can be expected to come near it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tfrec.config import DataConfig, DemoConfig
from tfrec.data.demo import ensure_demo, truth
from tfrec.data.demo.oracle import ranking_quality
from tfrec.data.schema import Part
from tfrec.data.splits import split_by_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=DemoConfig().seed)
    parser.add_argument("--folder", type=Path, help="keep the dataset here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = DemoConfig(seed=options.seed)
        start = time.perf_counter()
        folder = ensure_demo(options.folder or Path(scratch) / "demo", config)
        print(f"made in {time.perf_counter() - start:.1f} s (nearly 0 if it was there), {megabytes(folder):.1f} MB")
        report(folder, config)


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def report(folder: Path, config: DemoConfig) -> None:
    users, videos = (pd.read_csv(folder / name) for name in ("users.csv", "videos.csv"))
    log = pd.read_csv(folder / "interactions.csv.gz")
    shares = DataConfig()
    part = split_by_time(
        log["timestamp"].to_numpy(), log["click"].to_numpy() == 1, shares.validation_share, shares.test_share
    )
    train, test = (clicks(log[part == wanted], len(users), len(videos)) for wanted in (Part.TRAIN, Part.TEST))
    cold = ~train.any(axis=0)
    print(f"{len(users):,} users, {len(videos):,} videos, {len(log):,} impressions")
    print(log[["click", "finish", "like"]].mean().to_string(float_format="{:.3f}".format))
    print(f"clicks per user {log['click'].sum() / len(users):.1f}, in train {train.sum():,}, in test {test.sum():,}")
    print(f"cold videos {cold.sum()}, test clicks on them {test[:, cold].sum():,}")
    print(f"\n{'':24}recall@20  ndcg@20  cold recall@20 (cold candidates only)")
    ties = 1e-9 * np.random.default_rng(1).random(train.shape)  # else the oldest of equals would come first
    for name, exact in rankings(folder, train, config).items():
        scores = exact + ties
        everything = ranking_quality(np.where(train, -np.inf, scores), test)
        among_cold = ranking_quality(scores[:, cold], test[:, cold])
        print(
            f"{name:24}{everything['recall@20']:9.3f}{everything['ndcg@20']:9.3f}{among_cold['recall@20']:9.3f}"
            f"   ({everything['users']} users, {among_cold['users']} on cold)"
        )


def clicks(log: pd.DataFrame, num_users: int, num_videos: int) -> np.ndarray:
    """Bool `[num_users, num_videos]`; the ids are the row numbers."""
    clicked = log[log["click"] == 1]
    matrix = np.zeros((num_users, num_videos), dtype=bool)
    matrix[clicked["user_id"].str[1:].astype(int), clicked["video_id"].str[1:].astype(int)] = True
    return matrix


def rankings(folder: Path, train: np.ndarray, config: DemoConfig) -> dict[str, np.ndarray]:
    """Scores `[num_users, num_videos]` by name."""
    history = train.astype(np.float64)
    together = history.T @ history
    count = np.maximum(np.diag(together), 1)
    inverse = np.linalg.inv(together + 200 * np.eye(len(count)))
    factors = truth(config).videos.factors
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    return {
        "oracle": np.load(folder / "oracle_scores.npy").astype(np.float64),
        "random": np.random.default_rng(0).random(train.shape),
        "popularity": np.broadcast_to(np.diag(together), train.shape),
        "item-kNN (cosine)": history @ (together / np.sqrt(np.outer(count, count))),
        "EASE (200)": history @ (np.eye(len(count)) - inverse / np.diag(inverse)),
        "content-kNN, true factors": history @ (unit @ unit.T),
    }


if __name__ == "__main__":
    main()
