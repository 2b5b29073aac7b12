"""Metrics in NumPy: of ranked slates, of predicted probabilities, and their intervals.

A *slate* is a user's ranked list: one row of `top`, int32 `[num_users, k]` row numbers of videos, best first, -1 where the
candidates ran out. *Relevant* videos are the user's held-out positives; every user has at least one. *Hits* is bool
`[num_users, k]`: whether that slot shows a relevant video. Metrics of a user come back as float64 `[num_users]`, so that
intervals can resample users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata
from sklearn.metrics import log_loss, roc_auc_score

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]
Rows = NDArray[Any]


def hits(top: Rows, relevant: sparse.csr_matrix) -> Hits:
    """Which slots of the slates show a relevant video.

    Args:
        top: int32 `[num_users, k]`.
        relevant: `[num_users, num_videos]`, non-zero where held out.

    Returns:
        bool `[num_users, k]`.
    """
    num_users, num_videos = relevant.shape
    user = np.repeat(np.arange(num_users), np.diff(relevant.indptr))
    shown = np.arange(num_users)[:, None] * num_videos + top
    return np.isin(shown, user * num_videos + relevant.indices, kind="sort") & (top >= 0)


def recall(hits: Hits, num_relevant: Rows, k: int) -> Floats:
    """Share of the user's relevant videos among the first k slots."""
    return hits[:, :k].sum(axis=1) / num_relevant


def ndcg(hits: Hits, num_relevant: Rows, k: int) -> Floats:
    """Discounted gain of the first k slots over that of the best possible slate; relevance is binary.

    References:
        Järvelin and Kekäläinen, TOIS 2002.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(num_relevant, k) - 1]
    gains = hits[:, :k]
    return gains @ discount[: gains.shape[1]] / ideal


def hit_rate(hits: Hits, k: int) -> Floats:
    """1 for a user with a relevant video in the first k slots, else 0."""
    return hits[:, :k].any(axis=1).astype(np.float64)


def reciprocal_rank(hits: Hits) -> Floats:
    """1 over the slot of the first relevant video; 0 where none is in the slate, which cuts the ranking at its length."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def exposure(top: Rows, num_videos: int) -> NDArray[np.int64]:
    """int64 `[num_videos]`: slots in which each video is shown."""
    return np.bincount(top[top >= 0], minlength=num_videos)


def intra_list_similarity(top: NDArray[np.int32], directions: NDArray[Any]) -> NDArray[np.float32]:
    """float32 `[U]`: mean cosine of the pairs of videos in a slate, 0 where there is no pair.

    Args:
        top: int32 `[U, K]` row numbers, -1 for an empty slot.
        directions: `[num_videos, d]` unit vectors.

    References:
        Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005.
    """
    shown = top >= 0
    vectors = np.where(shown[:, :, None], directions[top], 0).astype(np.float32)
    # Twice the sum over pairs is the square of the sum less the sum of the squares.
    both = np.square(vectors.sum(axis=1)).sum(axis=1) - np.square(vectors).sum(axis=(1, 2))
    count = shown.sum(axis=1)
    return (both / np.maximum(count * (count - 1), 1)).astype(np.float32)


def coverage(shown: Rows) -> float:
    """Share of the candidates shown to anyone.

    Args:
        shown: slots per candidate, as from `exposure`.
    """
    return float((shown > 0).mean())


def gini(shown: Rows) -> float:
    """How unequally slots are spread over the candidates: 0 is evenly, towards 1 is all on one.

    Args:
        shown: slots per candidate, as from `exposure`.
    """
    ascending = np.sort(shown).astype(np.float64)
    rank = np.arange(1, len(ascending) + 1)
    return float(2 * (rank @ ascending) / (len(ascending) * ascending.sum()) - (len(ascending) + 1) / len(ascending))


def popularity_percentile(shown: Rows, counts: Rows) -> float:
    """Mean over the slots of the share of candidates that are less popular; ties count half. 0.5 is no bias.

    Args:
        shown: slots per candidate, as from `exposure`.
        counts: training events per candidate.
    """
    return float(np.average((rankdata(counts) - 0.5) / len(counts), weights=shown))


def bootstrap_intervals(values: Floats, samples: int, seed: int) -> Floats:
    """95 % percentile intervals of the means over users, users resampled with replacement.

    Args:
        values: `[num_users, num_metrics]`.
        samples: resamples.
        seed: the same seed resamples the same users.

    Returns:
        float64 `[num_metrics, 2]`: lower and upper end.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    generator = np.random.default_rng(seed)
    means = [_resampled(generator, len(values)) @ values / len(values) for _ in range(samples)]
    return np.percentile(means, [2.5, 97.5], axis=0).T


def _resampled(generator: np.random.Generator, size: int) -> Rows:
    """How often each of `size` users is in one resample."""
    return np.bincount(generator.integers(size, size=size), minlength=size)


def auc(labels: Rows, scores: NDArray[Any]) -> float | None:
    """Chance that a positive scores above a negative; None where the labels are all alike."""
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else None


def auc_interval(labels: Rows, scores: NDArray[Any], users: Rows, samples: int, seed: int) -> list[float] | None:
    """95 % bootstrap interval of the AUC, users (not events, which depend on each other) resampled.

    Args:
        labels: `[num_events]`, 0 or 1.
        scores: `[num_events]`.
        users: `[num_events]` any integers that name the user.
        samples: resamples; one without both labels is left out.
        seed: the same seed resamples the same users.

    Returns:
        Lower and upper end, or None where the labels are all alike.
    """
    if not 0 < labels.sum() < len(labels):
        return None
    order = np.argsort(scores)
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    names, user = np.unique(users[order], return_inverse=True)
    generator = np.random.default_rng(seed)
    values = [
        _weighted_auc(labels[order], _resampled(generator, len(names))[user].astype(np.float64), ties)
        for _ in range(samples)
    ]
    return [float(end) for end in np.nanpercentile(values, [2.5, 97.5])]


def _weighted_auc(labels: Rows, weights: Floats, ties: Rows) -> float:
    """AUC of weighted events in ascending order of score; `ties` are the first events of equal scores."""
    positive = np.add.reduceat(weights * labels, ties)
    negative = np.add.reduceat(weights * (1 - labels), ties)
    pairs = positive.sum() * negative.sum()
    won = positive @ (np.cumsum(negative) - negative / 2)
    return float(won / pairs) if pairs else np.nan


def reliability(labels: Rows, probabilities: NDArray[Any], bins: int = 15) -> list[dict[str, float]]:
    """What was predicted and what happened, in bins of equal mass; equal predictions share a bin.

    Args:
        labels: `[num_events]`, 0 or 1.
        probabilities: `[num_events]`.
        bins: bins at most.

    Returns:
        Per bin, ascending: mean `predicted`, mean `observed`, number of `events`.
    """
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1]))
    members = np.searchsorted(edges, probabilities, side="left")
    events = np.bincount(members)
    predicted, observed = (np.bincount(members, weights=values) for values in (probabilities, labels))
    return [
        {"predicted": float(p / n), "observed": float(o / n), "events": int(n)}
        for p, o, n in zip(predicted, observed, events, strict=True)
        if n
    ]


def expected_calibration_error(labels: Rows, probabilities: NDArray[Any], bins: int = 15) -> float:
    """Mean distance between predicted and observed rate over bins of equal mass.

    References:
        Naeini et al., AAAI 2015; equal mass: Nixon et al., CVPR workshops 2019.
    """
    table = reliability(labels, probabilities, bins)
    gaps = [abs(row["predicted"] - row["observed"]) * row["events"] for row in table]
    return float(sum(gaps) / len(labels))


def probability_metrics(
    name: str, labels: Rows, probabilities: NDArray[Any], users: Rows, samples: int, seed: int
) -> dict[str, Any]:
    """Everything metrics.json says of one predicted label.

    Args:
        name: the label, e.g. `click`; it starts every key.
        labels: `[num_events]`, 0, 1, or -1 where missing, which is left out.
        probabilities: `[num_events]`.
        users: `[num_events]` row numbers, for the interval.
        samples: resamples of the users.
        seed: of the resamples.

    Returns:
        `<name>_auc`, its `_interval`, `_logloss`, `_ece`, `_rate`, `_events` and `_reliability`; events alone where no
        label is known.
    """
    known = labels >= 0
    labels, probabilities, users = labels[known], probabilities[known].astype(np.float64), users[known]
    if not len(labels):
        return {f"{name}_events": 0}
    return {
        f"{name}_auc": auc(labels, probabilities),
        f"{name}_auc_interval": auc_interval(labels, probabilities, users, samples, seed),
        f"{name}_logloss": float(log_loss(labels, probabilities, labels=[0, 1])),
        f"{name}_ece": expected_calibration_error(labels, probabilities),
        f"{name}_rate": float(labels.mean()),
        f"{name}_events": len(labels),
        f"{name}_reliability": reliability(labels, probabilities),
    }
