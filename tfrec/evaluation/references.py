"""Baselines and, for simulated data, the oracle, measured as the model is: on the same requests by the same function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from tfrec.config import EvaluationConfig
from tfrec.data.schema import Interactions, Part
from tfrec.errors import TfrecError
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, make_task, positives_matrix
from tfrec.features.content import ContentFeatures
from tfrec.models.baselines import BASELINES, Baseline, Settings

ORACLE_FILE = "oracle_scores.npy"
"""In the folder of a simulated dataset: float `[num_users, num_videos]` true scores, rows as in users.csv and videos.csv."""

MAX_TUNING_USERS = 2000
"""Users of the validation part that choose a baseline's settings."""

_SECONDS_PER_DAY = 86_400


def evaluate_baseline(
    name: str,
    interactions: Interactions,
    content: ContentFeatures | None,
    task: EvaluationTask,
    config: EvaluationConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits a baseline on the training part, with settings chosen on the validation part, and measures it.

    Args:
        name: a key of `BASELINES`.
        interactions: the log.
        content: what is known of the videos besides.
        task: the requests.
        config: cut-offs and resamples.
        seed: of the baseline and the resamples.

    Returns:
        As `flat` returns, the `settings` chosen and `fit_seconds`; or `skipped` alone, with the reason in words.
    """
    default = BASELINES[name]()
    reason = default.unavailable(training_weights(interactions), content)
    if default.half_life_days is not None and not interactions.has_time:
        reason = "the log has no times"
    if reason:
        return {"skipped": reason}
    started = time.perf_counter()
    settings = _best_settings(name, interactions, content, seed)
    baseline = _fitted(name, settings, interactions, content, seed)
    seconds = time.perf_counter() - started
    return {**flat(_measured(baseline, task, config, seed)), "settings": settings, "fit_seconds": seconds}


def _best_settings(name: str, interactions: Interactions, content: ContentFeatures | None, seed: int) -> Settings:
    """Those with the highest recall@20 on the validation part, by which the model is chosen too; none where there is no choice.

    Where the split has no test part these are the very users that are measured, so its figures are a little favourable.
    """
    choices = BASELINES[name].settings(content)
    if len(choices) == 1:
        return {}
    part = Part.VALIDATION if len(interactions.rows(Part.VALIDATION)) else Part.TEST
    task = make_task(interactions, part, MAX_TUNING_USERS, seed)
    quick = EvaluationConfig(top_k=[10, 20], bootstrap_samples=1)

    def recall_with(settings: Settings) -> float:
        baseline = _fitted(name, settings, interactions, content, seed)
        return float(_measured(baseline, task, quick, seed)["retrieval"]["recall@20"])

    return max(choices, key=recall_with)


def _fitted(
    name: str, settings: Settings, interactions: Interactions, content: ContentFeatures | None, seed: int
) -> Baseline:
    baseline: Baseline = BASELINES[name](**settings)
    return baseline.fit(training_weights(interactions, baseline.half_life_days), content, seed)


def _measured(
    baseline: Baseline, task: EvaluationTask, config: EvaluationConfig | None, seed: int
) -> dict[str, dict[str, Any]]:
    return evaluate(lambda positions: baseline.scores(task.seen[positions], task.users[positions]), task, config, seed)


def training_weights(interactions: Interactions, half_life_days: float | None = None) -> sparse.csr_matrix:
    """float32 `[num_users, num_videos]`: 1 for a training positive.

    Args:
        interactions: the log.
        half_life_days: age at which a positive counts half, seen from the end of the training part; repeated positives
            then add up. Without it all count the same, once.
    """
    rows = interactions.rows(Part.TRAIN)
    if half_life_days is None or not len(rows):
        return positives_matrix(interactions, rows)
    past = interactions.timestamp[rows]
    age_days = (past.max() - past) / _SECONDS_PER_DAY
    weights = np.exp2(-age_days / half_life_days).astype(np.float32)
    shape = (interactions.num_users, interactions.num_videos)
    return sparse.csr_matrix((weights, (interactions.user[rows], interactions.video[rows])), shape)


def evaluate_oracle(
    folder: Path, task: EvaluationTask, config: EvaluationConfig | None = None, seed: int = 0
) -> dict[str, Any] | None:
    """Measures the true scores of a simulated dataset: the best that can be reached.

    Args:
        folder: the dataset folder.
        task: the requests.
        config: cut-offs and resamples.
        seed: of the resamples.

    Returns:
        As `flat` returns, or None where the folder holds no oracle.

    Raises:
        TfrecError: If the oracle belongs to a catalogue of another size.
    """
    path = folder / ORACLE_FILE
    if not path.exists():
        return None
    scores = np.load(path, mmap_mode="r")
    num_videos = len(task.train_counts)
    if scores.shape[1] != num_videos:
        raise TfrecError(
            f"{path} must have one column per video. Received: {scores.shape[1]} columns, {num_videos} videos. "
            "Delete the file, or write it anew for this catalogue."
        )
    return flat(evaluate(lambda positions: scores[task.users[positions]], task, config, seed))


def flat(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Results of `evaluate` as they stand in a block of metrics.json: the whole catalogue first, its slices below."""
    return {**results["retrieval"], "warm": dict(results["warm"]), "cold_start": dict(results["cold_start"])}
