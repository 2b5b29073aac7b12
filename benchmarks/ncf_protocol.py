"""MovieLens-1M by the protocol of the NCF paper: one positive of each user among 99 fixed negatives, HR@10 and NDCG@10.

    python benchmarks/ncf_protocol.py --data DIR [--work WORK] [--asked FILE] [--only NAME ...] [--OPTION=VALUE ...]

DIR holds `interactions.csv[.gz]` (user_id, video_id: the training pairs) and the file named by `--asked`, by default
`validation.csv.gz` (user_id, positive, negatives separated by spaces). What is asked is taken out of the training pairs. Of the
rest, some pairs of each user, drawn by the seed, are the validation part: they stop training early and teach the ranker. What is
asked is the test part. So the folder that is written to WORK is one that `python -m tfrec.train --config
pipelines/configs/ml-1m-ncf.yaml` takes too; training leaves the run there. A history is a set: the data have no times.

Baselines are fitted on all training pairs, with settings chosen on held-out ones. A positive that ties with negatives stands
behind them. Further options are those of `python -m tfrec.train`.

He et al., Neural collaborative filtering, WWW 2017; Rendle et al., Neural collaborative filtering vs. matrix factorization
revisited, RecSys 2020.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfrec.data.input_pipeline import HistoryLog, Query
from tfrec.data.schema import Dataset, Part
from tfrec.evaluation.evaluate import positives_matrix
from tfrec.models.baselines import tuned
from tfrec.models.ranker import Ranker
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import Stages
from tfrec.towers.space import Tables
from tfrec.train import open_stages, parse_arguments

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "ml-1m-ncf.yaml"
BASELINES = ("popularity", "item_knn", "als", "bpr", "ease")
OURS = "tfrec"
CUTOFF = 10
USERS_PER_BATCH = 256


@dataclass(frozen=True)
class Question:
    """Who is asked and what: int32 users `[U]` and candidates `[U, 100]`, the positive first; row numbers."""

    users: NDArray[np.int32]
    candidates: NDArray[np.int32]

    @classmethod
    def of(cls, asked: pd.DataFrame, dataset: Dataset) -> Question:
        """Candidates that nobody watched have no row, and are worth nothing to anybody: -1."""
        user_row = {name: row for row, name in enumerate(dataset.users.ids)}
        video_row = {name: row for row, name in enumerate(dataset.videos.ids)}
        lists = [
            [positive, *negatives.split()] for positive, negatives in zip(asked.positive, asked.negatives, strict=True)
        ]
        rows = [[video_row.get(name, -1) for name in names] for names in lists]
        return cls(np.array([user_row[name] for name in asked.user_id], np.int32), np.array(rows, np.int32))


def measure(scores: NDArray[np.floating]) -> tuple[float, float]:
    """HR and NDCG at the cut-off from scores `[U, 100]`, the positive first."""
    place = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    gain = np.where(place < CUTOFF, 1 / np.log2(place + 2), 0)
    return float((place < CUTOFF).mean()), float(gain.mean())


def write_folder(pairs: pd.DataFrame, asked: pd.DataFrame, folder: Path, per_user: int, seed: int) -> None:
    """The dataset folder: training pairs without what is asked, some of them the validation part, and what is asked as test."""
    test = asked[["user_id", "positive"]].rename(columns={"positive": "video_id"})
    merged = pairs.merge(test, how="left", indicator=True)
    rest = merged[merged.pop("_merge") == "left_only"].reset_index(drop=True)
    order = np.random.default_rng(seed).permutation(len(rest))
    place = rest.iloc[order].groupby("user_id").cumcount().sort_index()
    counts = rest.groupby("user_id").user_id.transform("size")
    rest["split"] = np.where((place < per_user) & (counts > 2 * per_user), "validation", "train")
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat([rest, test.assign(split="test")]).to_csv(folder / "interactions.csv.gz", index=False)


def baseline_scores(name: str, dataset: Dataset, question: Question, seed: int) -> NDArray[np.floating]:
    """Float `[U, 100]`."""
    log = dataset.interactions
    seen = positives_matrix(log, log.rows(Part.TRAIN, Part.VALIDATION))
    baseline, settings = tuned(name, seen, None, seed)
    print(f"  {name}: {settings}", flush=True)
    pieces = np.array_split(np.arange(len(question.users)), -(-len(question.users) // USERS_PER_BATCH))
    rows = [baseline.scores(seen[question.users[piece]], question.users[piece]) for piece in pieces]
    return _taken(np.concatenate(rows), question.candidates)


def _taken(scores: NDArray[np.floating], candidates: NDArray[np.int32]) -> NDArray[np.floating]:
    taken = np.take_along_axis(scores, np.maximum(candidates, 0), axis=1)
    return np.where(candidates >= 0, taken, -np.inf)


def queries(stages: Stages, question: Question) -> list[Query]:
    """Everything each user has watched in training is history."""
    length = stages.config.retrieval.query.history_length
    log = HistoryLog.of(stages.dataset.interactions, (Part.TRAIN, Part.VALIDATION), length)
    starts = range(0, len(question.users), USERS_PER_BATCH)
    users = [tf.constant(question.users[start : start + USERS_PER_BATCH]) for start in starts]
    return [log.latest(batch, tf.zeros_like(batch, tf.int64)) for batch in users]


def our_scores(
    stages: Stages, question: Question, retrieval: RetrievalModel, tables: Tables, ranker: Ranker | None
) -> NDArray[np.floating]:
    """Float `[U, 100]`: logits of the ranker, or scores of retrieval without one."""
    rows, start = [], 0
    for query in queries(stages, question):
        candidates = tf.constant(question.candidates[start : start + len(query.user)])
        start += len(query.user)
        asked = retrieval.embed_queries(query, tf.constant(tables.history))
        if ranker is None:
            rows.append(tf.einsum("bd,bcd->bc", asked, tf.gather(tables.videos, tf.maximum(candidates, 0))).numpy())
        else:
            events = tf.gather(tables.videos, tf.maximum(query.history, 0))
            rows.append(ranker.logits(query, asked, events, candidates)[:, :, 0].numpy())
    return np.where(question.candidates >= 0, np.concatenate(rows), -np.inf)


def main() -> None:
    """Prints a row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--asked", default="validation.csv.gz", help="file in DATA, or a path")
    parser.add_argument("--work", type=Path, default=Path("runs/ml-1m-ncf"))
    parser.add_argument("--held-out", type=int, default=2, help="training pairs of each user in the validation part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=[*BASELINES, OURS], default=[*BASELINES, OURS])
    arguments, options = parser.parse_known_args()
    pairs = pd.read_csv(next(arguments.data.glob("interactions.csv*")), dtype=str)[["user_id", "video_id"]]
    asked = pd.read_csv(arguments.data / arguments.asked, dtype=str)
    folder = arguments.work / "data"
    write_folder(pairs, asked, folder, arguments.held_out, arguments.seed)
    options = [f"--data.folder={folder}", f"--output={arguments.work / 'run'}", f"--seed={arguments.seed}", *options]
    stages = open_stages(parse_arguments([f"--config={CONFIG}", *options]))
    question = Question.of(asked, stages.dataset)

    def show(name: str, scores_of: Callable[[], NDArray[np.floating]]) -> None:
        hit_rate, ndcg = measure(scores_of())
        print(f"{name:24}  HR@10 {hit_rate:.4f}  NDCG@10 {ndcg:.4f}", flush=True)

    for name in arguments.only:
        if name != OURS:
            show(name, lambda name=name: baseline_scores(name, stages.dataset, question, arguments.seed))
    if OURS in arguments.only:
        retrieval = stages.train_retrieval()
        tables = stages.embed_videos(retrieval, None)
        show("tfrec, retrieval", lambda: our_scores(stages, question, retrieval, tables, None))
        ranker = stages.train_ranking(retrieval, tables)
        show("tfrec, ranker", lambda: our_scores(stages, question, retrieval, tables, ranker))


if __name__ == "__main__":
    main()
