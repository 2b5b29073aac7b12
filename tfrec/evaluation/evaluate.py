"""The protocol: who is asked, what is hidden, what is ranked. One function serves the model and all it is held against.

Every user with a held-out positive that is new to them makes one request, at the time of the first such event. The whole
catalogue is ranked, without the videos the user is known to have watched; there are no sampled negatives. Known is what
was positive in training and, where the log has times and the test part is asked, also in validation, which lies before.
Without times, training alone is known (the protocol of the MMSSL and DiffMM papers).

Three slices: `retrieval` ranks all videos, `warm` only those with a training positive, `cold_start` only those without;
in each, users count who have a relevant video there. Equal scores are ordered by a shuffle of the catalogue that starts at
another video for each user: the same in every run, and a baseline without an opinion scores what chance does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tfrec.config import EvaluationConfig
from tfrec.data.schema import Interactions, Part
from tfrec.evaluation import metrics
from tfrec.evaluation.ranking import ScoresOf, rank_candidates

BIAS_K = 20
"""Slots of a slate whose popularity bias is measured."""


@dataclass(frozen=True)
class EvaluationTask:
    """Requests, and what would have been right. U = users asked.

    Args:
        part: of the split that is held out.
        known: parts whose positives the user is known to have watched.
        users: int32 `[U]` row numbers, ascending.
        relevant: float32 `[U, num_videos]`, 1 for a held-out positive that is new to the user.
        seen: float32 `[U, num_videos]`, 1 for a known positive: never ranked.
        history_end: int64 `[U]` rows of the log: the history is the user's positives before them in the `known` parts,
            so `np.searchsorted(interactions.rows(*known), history_end)` ends it in a log of the known positives alone.
        timestamp: int64 `[U]` Unix seconds of the request, 0 where the log has no times.
        train_counts: int64 `[num_videos]` training positives per video; 0 makes it cold.
    """

    part: Part
    known: tuple[Part, ...]
    users: NDArray[np.int32]
    relevant: sparse.csr_matrix
    seen: sparse.csr_matrix
    history_end: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    train_counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def only(self, positions: NDArray[np.int64]) -> EvaluationTask:
        """The requests at these positions."""
        of_requests = ("users", "relevant", "seen", "history_end", "timestamp")
        return replace(self, **{name: getattr(self, name)[positions] for name in of_requests})


def final_part(interactions: Interactions) -> Part:
    """The part that the final numbers come from: test, or validation where the split has no test part."""
    return Part.TEST if len(interactions.rows(Part.TEST)) else Part.VALIDATION


def positives_matrix(interactions: Interactions, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """float32 `[num_users, num_videos]`: 1 where one of the events in `rows` is, however often."""
    shape = (interactions.num_users, interactions.num_videos)
    events = (interactions.user[rows], interactions.video[rows])
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), events), shape)
    matrix.data[:] = 1
    return matrix


def make_task(interactions: Interactions, part: Part, max_users: int = 0, seed: int = 0) -> EvaluationTask:
    """Who is asked in `part`, and what would have been right.

    Args:
        interactions: the log.
        part: validation or test.
        max_users: users drawn at most; 0 means all.
        seed: of the draw.

    Returns:
        The task; without users where nobody has a new positive in `part`.
    """
    known = (Part.TRAIN, Part.VALIDATION) if part == Part.TEST and interactions.has_time else (Part.TRAIN,)
    seen = positives_matrix(interactions, interactions.rows(*known))
    held_out = _new_rows(interactions, part, seen)
    users, first = np.unique(interactions.user[held_out], return_index=True)
    if 0 < max_users < len(users):
        drawn = np.sort(np.random.default_rng(seed).choice(len(users), max_users, replace=False))
        users, first = users[drawn], first[drawn]
    request = held_out[first]
    past_user = np.asarray(np.searchsorted(interactions.user, users, side="right"))
    return EvaluationTask(
        part=part,
        known=known,
        users=users,
        relevant=positives_matrix(interactions, held_out)[users],
        seen=seen[users],
        history_end=request if interactions.has_time else past_user,
        timestamp=interactions.timestamp[request],
        train_counts=interactions.train_counts,
    )


def _new_rows(interactions: Interactions, part: Part, seen: sparse.csr_matrix) -> NDArray[np.int64]:
    """Rows of the positives in `part` whose video the user is not known to have watched."""
    rows = interactions.rows(part)
    if not len(rows):
        return rows
    repeated = seen[interactions.user[rows], interactions.video[rows]]
    return rows[np.asarray(repeated).ravel() == 0]


def rank_catalogue(
    scores_of: ScoresOf,
    task: EvaluationTask,
    k: int,
    candidates: NDArray[np.bool_] | None = None,
    batch_size: int | None = None,
) -> NDArray[np.int32]:
    """Ranks all videos, or the `candidates`, for every user of the task.

    Args:
        scores_of: scores for positions in the task.
        task: the requests.
        k: slots per user.
        candidates: bool `[num_videos]`: what can be shown.
        batch_size: users scored at once; chosen by the size of the catalogue where not given.

    Returns:
        int32 `[U, k]` row numbers, best first, -1 where candidates ran out.
    """
    if candidates is None:
        candidates = np.ones(len(task.train_counts), bool)
    return rank_candidates(scores_of, task.users, task.seen, {"all": candidates}, k, batch_size)["all"]


def evaluate(
    scores_of: ScoresOf,
    task: EvaluationTask,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Ranks the catalogue by `scores_of` and measures the slates.

    Args:
        scores_of: scores for positions in the task, asked once for each; `InnerProducts` take the least time and memory.
        task: the requests.
        config: cut-offs and resamples.
        seed: of the resamples.
        batch_size: users scored at once; chosen by the size of the catalogue where not given.

    Returns:
        Metrics of the slices `retrieval`, `warm` and `cold_start`, by name: for each cut-off `recall@k`, `ndcg@k`,
        `hit_rate@k` with their `_interval`, `coverage@k`; `mrr` within the largest cut-off; `popularity_percentile@20`,
        `gini@20`, `cold_share@20`; `users`, `candidates`, `evaluated_on` and, for `retrieval`, `users_per_second`.

    Raises:
        ValueError: If scores have the wrong shape or hold NaN.
    """
    config = config or EvaluationConfig()
    started = time.perf_counter()
    slices = _slices(task)
    candidates = {name: part.candidates for name, part in slices.items()}
    slates = rank_candidates(scores_of, task.users, task.seen, candidates, max(config.top_k), batch_size)
    seconds = time.perf_counter() - started
    results = {name: _measure(slates[name][part.positions], part, task, config, seed) for name, part in slices.items()}
    results["retrieval"]["users_per_second"] = len(task) / seconds
    return results


@dataclass(frozen=True)
class _Slice:
    """Candidates bool `[num_videos]`, the positions of users who have one of them held out, and those held out."""

    candidates: NDArray[np.bool_]
    positions: NDArray[np.int64]
    relevant: sparse.csr_matrix


def _slices(task: EvaluationTask) -> dict[str, _Slice]:
    warm = task.train_counts > 0
    candidates = {"retrieval": np.ones_like(warm), "warm": warm, "cold_start": ~warm}
    return {name: _slice(task, mask) for name, mask in candidates.items()}


def _slice(task: EvaluationTask, candidates: NDArray[np.bool_]) -> _Slice:
    relevant = sparse.csr_matrix(task.relevant.multiply(candidates[None, :]))
    relevant.eliminate_zeros()
    positions = np.flatnonzero(np.diff(relevant.indptr))
    return _Slice(candidates, positions, relevant[positions])


def _measure(
    top: NDArray[np.int32], part: _Slice, task: EvaluationTask, config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    size = {
        "users": len(top),
        "candidates": int(part.candidates.sum()),
        "evaluated_on": task.part.name.lower(),
    }
    if not len(top):
        return size
    return {**_user_metrics(top, part, config, seed), **_catalogue_metrics(top, part, task, config), **size}


def _user_metrics(top: NDArray[np.int32], part: _Slice, config: EvaluationConfig, seed: int) -> dict[str, Any]:
    """Means over users, with intervals."""
    hits, num_relevant = metrics.hits(top, part.relevant), np.diff(part.relevant.indptr)
    per_user = {"mrr": metrics.reciprocal_rank(hits)}
    for k in config.top_k:
        per_user[f"recall@{k}"] = metrics.recall(hits, num_relevant, k)
        per_user[f"ndcg@{k}"] = metrics.ndcg(hits, num_relevant, k)
        per_user[f"hit_rate@{k}"] = metrics.hit_rate(hits, k)
    intervals = metrics.bootstrap_intervals(np.column_stack(list(per_user.values())), config.bootstrap_samples, seed)
    means = {name: float(values.mean()) for name, values in per_user.items()}
    ends = {f"{name}_interval": ends.tolist() for name, ends in zip(per_user, intervals, strict=True)}
    return {**means, **ends}


def _catalogue_metrics(
    top: NDArray[np.int32], part: _Slice, task: EvaluationTask, config: EvaluationConfig
) -> dict[str, float]:
    """How the slots are spread over the candidates."""
    shown = {k: metrics.exposure(top[:, :k], len(part.candidates))[part.candidates] for k in (*config.top_k, BIAS_K)}
    counts, slots = task.train_counts[part.candidates], shown[BIAS_K]
    covered = {f"coverage@{k}": metrics.coverage(shown[k]) for k in config.top_k}
    if not slots.any():
        return covered
    return {
        **covered,
        f"popularity_percentile@{BIAS_K}": metrics.popularity_percentile(slots, counts),
        f"gini@{BIAS_K}": metrics.gini(slots),
        f"cold_share@{BIAS_K}": float(slots[counts == 0].sum() / slots.sum()),
    }
