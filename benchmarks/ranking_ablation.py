"""What each option of the ranker is worth: trained over one retrieval model with one option changed at a time.

    python benchmarks/ranking_ablation.py [--data DIR] [--seeds 2] [--only NAME ...] [--option=value ...]

On the embedded demo dataset where no other is given. Prints, per variant, mean and half the range over the seeds of AUC and
calibration error of each label on the final part, the weights trained, and the milliseconds to score 500 candidates of one
request in this process (median of 50 calls, the least over the seeds). The variants take turns, so that load meets all.

Where the log has no positions they are simulated for two rows: a video's place is its place in the user's day, and of the
clicks that the ranker learns from, those at place p are noticed with probability p ** -0.7. The final part stays as it is.
Further options are those of `python -m tfrec.train`, for every run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfrec.data.input_pipeline import Query
from tfrec.data.schema import Interactions, Part
from tfrec.models.ranker import Ranker
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import Stages
from tfrec.run import RunFolder
from tfrec.towers.space import Tables
from tfrec.train import open_stages, parse_arguments

import tensorflow as tf  # isort: skip  (after tfrec, which chooses its Keras)

NOTICED = "noticed"
SECONDS_PER_DAY = 86_400

VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "no crosses (DCN-v2)": {"num_cross_layers": 0},
    "4 experts of half the width (MMoE)": {"num_experts": 4, "hidden_units": [64, 32]},
    "isotonic calibration": {"calibration": "isotonic"},
    "score of a linear model": {"linear_dim": 64},
    "distilled to 32 units": {"distilled_units": [32]},
    "noticed clicks": {NOTICED: True},
    "noticed clicks, position bias": {NOTICED: True, "position_bias": True},
}
"""Options of `ranking` that differ, by what is printed."""


def noticed(log: Interactions, seed: int) -> Interactions:
    """The log with positions, and without the clicks before the final part that nobody noticed."""
    day = log.timestamp // SECONDS_PER_DAY
    starts = np.flatnonzero(np.r_[True, (np.diff(log.user) != 0) | (np.diff(day) != 0)])
    position = np.arange(len(log)) - np.repeat(starts, np.diff(np.r_[starts, len(log)])) + 1
    seen = np.random.default_rng(seed).random(len(log)) < position**-0.7
    lost = (log.part == Part.VALIDATION) & ~seen
    labels = {name: np.where(lost & (values == 1), 0, values).astype(np.int8) for name, values in log.labels.items()}
    return replace(log, labels=labels, position=position.astype(np.int32))


def milliseconds(ranker: Ranker, stages: Stages, retrieval: RetrievalModel) -> float:
    """Median time to score 500 candidates of one request, the query embedded already."""
    query = Query(*(values[:1] for values in stages.queries(stages.final_task())[0]))
    asked = retrieval.embed_queries(query, ranker.history_embeddings)
    events = tf.gather(ranker.video_embeddings, tf.maximum(query.history, 0))
    candidates = tf.random.stateless_uniform([1, 500], [1, 2], maxval=len(stages.dataset.videos), dtype=tf.int32)
    score = tf.function(ranker.probabilities, autograph=False)
    seconds = []
    for _ in range(55):
        start = time.perf_counter()
        score(query, asked, events, candidates)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[5:])


def measure(
    stages: Stages, retrieval: RetrievalModel, tables: Tables, options: dict[str, Any], seed: int
) -> dict[str, float]:
    """AUC and calibration error of each label, weights and milliseconds."""
    options, dataset = dict(options), stages.dataset
    if options.pop(NOTICED, False):
        dataset = replace(dataset, interactions=noticed(dataset.interactions, seed))
    config = replace(stages.config, seed=seed, ranking=replace(stages.config.ranking, **options))
    with tempfile.TemporaryDirectory() as folder:
        variant = replace(stages, config=config, dataset=dataset, run=RunFolder(Path(folder), "", False))
        ranker = variant.train_ranking(retrieval, tables)
        found = replace(variant, dataset=stages.dataset)._ranking_metrics(ranker, stages.final_task())
    wanted = [f"{label}_{figure}" for label in ranker.labels for figure in ("auc", "ece")]
    figures = {name: float(found[name]) for name in wanted if name in found}
    weights = sum(int(tf.size(variable)) for variable in ranker.trainable_variables)
    return {**figures, "weights": weights, "milliseconds": milliseconds(ranker, stages, retrieval)}


def told(name: str, values: list[float]) -> str:
    """A figure over the seeds, for a cell."""
    if name == "weights":
        return f"{values[0]:,.0f}"
    if name == "milliseconds":
        return f"{min(values):.2f}"
    return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"


def main() -> None:
    """Prints a row per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = open_stages(parse_arguments([f"--output={folder}", *options]))
        retrieval = stages.train_retrieval()
        tables = stages.embed_videos(retrieval, None)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
        for seed in range(1, arguments.seeds + 1):
            for name, measured in runs.items():
                measured.append(measure(stages, retrieval, tables, VARIANTS[name], seed))
                print(f"seed {seed}, {name}: {measured[-1]}", flush=True)
    columns = list(next(iter(runs.values()))[0])
    print(f"| Variant | {' | '.join(columns)} |")
    for name, measured in runs.items():
        print(f"| {name} | {' | '.join(told(column, [run[column] for run in measured]) for column in columns)} |")


if __name__ == "__main__":
    main()
