"""How well content features alone tell what a video shows, without anybody having watched it.

The *accuracy* of a modality is the share of the videos whose nearest other video is of their category, by the cosine of their
vectors, among the videos that have the modality. *Chance* is the share that random neighbours would reach. A vector is
standardised over the catalogue; of a sequence, it is the mean and the deviation of its steps.

The modalities are fused without looking at categories. Cosines of each are divided by their deviation over the catalogue, for
some modalities spread wider than others. A modality's weight is its *reliability*: how alike, in deviations, the other
modalities find the neighbours that it chooses. Two videos are as alike as the weighted mean over the modalities both have.
What says how a video was made, not what it shows (`generation`), is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrec.data.schema import CategoricalColumn
from tfrec.features.content import ContentFeatures, Modality

FUSED = "fused"
GENERATION = "generation"
MAX_VIDEOS = 3000
"""Videos compared, drawn evenly from a larger catalogue: their cosines are held in memory."""

_LEAST_RELIABILITY = 0.01

Similarities = NDArray[np.float32]
"""`[n, n]`, NaN on the diagonal and where a video of the pair lacks the modality."""


def category_accuracy(content: ContentFeatures, category: CategoricalColumn) -> dict[str, dict[str, Any]]:
    """Leave-one-out accuracy of the category of the nearest neighbour.

    Args:
        content: content features of the catalogue.
        category: of its videos; a video without one does not count.

    Returns:
        By modality, and `fused` where there are several: `accuracy`, `chance`, and `videos` that have both.
    """
    rows = np.flatnonzero(category.codes > 0)
    rows = rows[:: max(1, -(-len(rows) // MAX_VIDEOS))]
    modalities = {name: modality for name, modality in content.modalities.items() if name != GENERATION}
    similarities = {name: _similarities(modality, rows) for name, modality in modalities.items()}
    if len(similarities) > 1:
        similarities[FUSED] = fuse(list(similarities.values()))
    measured = {name: _accuracy(table, category.codes[rows]) for name, table in similarities.items()}
    return {name: block for name, block in measured.items() if block["videos"]}


def fuse(similarities: Sequence[Similarities]) -> Similarities:
    """One table from those of several modalities; see the module."""
    standard = np.stack([_standardised(table) for table in similarities])
    weights = np.array([_reliability(standard, place) for place in range(len(standard))], np.float32)
    present = np.isfinite(standard) * weights[:, None, None]
    total = np.where(np.isfinite(standard), standard, 0) * weights[:, None, None]
    with np.errstate(invalid="ignore"):
        fused: Similarities = total.sum(axis=0) / present.sum(axis=0)
    return fused


def _similarities(modality: Modality, rows: NDArray[np.int64]) -> Similarities:
    cosines: Similarities = np.full((len(rows), len(rows)), np.nan, np.float32)
    present = np.flatnonzero(modality.lengths[rows])
    if len(present) > 1:
        chosen = rows[present]
        directions = _directions(Modality(modality.values[chosen], modality.lengths[chosen]))
        cosines[np.ix_(present, present)] = directions @ directions.T
    np.fill_diagonal(cosines, np.nan)
    return cosines


def _directions(modality: Modality) -> NDArray[np.float32]:
    """Unit vectors, float32 `[num_videos, dim]`, of videos that all have the modality."""
    vectors = _vectors(modality)
    deviation = vectors.std(axis=0)
    varies = deviation > 1e-3 * deviation.max()
    standard = (vectors - vectors.mean(axis=0))[:, varies] / deviation[varies]
    return standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-9)


def _vectors(modality: Modality) -> NDArray[np.float32]:
    """float32 `[num_videos, dim]`, twice as wide for a sequence: mean, then deviation."""
    mean = modality.pooled()
    if not modality.is_sequence:
        return mean
    squares = Modality(np.square(modality.values - mean[:, None], dtype=np.float32), modality.lengths).pooled()
    return np.concatenate([mean, np.sqrt(squares)], axis=1)


def _standardised(table: Similarities) -> Similarities:
    """From the mean, in deviations; as it is where nothing is known or all is equal."""
    known = table[np.isfinite(table)]
    deviation = known.std() if len(known) else 0.0
    return (table - known.mean()) / deviation if deviation > 0 else table


def _reliability(standard: Similarities, place: int) -> float:
    """How alike the other modalities find the neighbours that one chooses, at least a little."""
    chosen, neighbours = _nearest(standard[place])
    opinions = np.delete(standard, place, axis=0)[:, chosen, neighbours]
    known = opinions[np.isfinite(opinions)]
    return max(float(known.mean()) if len(known) else 0.0, _LEAST_RELIABILITY)


def _nearest(table: Similarities) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that have any neighbour, and the nearest one of each."""
    filled = np.where(np.isfinite(table), table, -np.inf)
    rows = np.flatnonzero(filled.max(axis=1, initial=-np.inf) > -np.inf)
    return rows, filled[rows].argmax(axis=1)


def _accuracy(table: Similarities, codes: NDArray[np.integer[Any]]) -> dict[str, Any]:
    rows, nearest = _nearest(table)
    if not len(rows):
        return {"accuracy": None, "chance": None, "videos": 0}
    counts = np.bincount(codes[rows])
    pairs = len(rows) * (len(rows) - 1)
    return {
        "accuracy": float((codes[rows] == codes[nearest]).mean()),
        "chance": float((counts * (counts - 1)).sum() / pairs),
        "videos": len(rows),
    }


def category_column(columns: Mapping[str, CategoricalColumn], name: str) -> CategoricalColumn | None:
    """The column, if the catalogue has it with at least two categories."""
    column = columns.get(name)
    return column if column is not None and len(np.unique(column.codes[column.codes > 0])) > 1 else None
