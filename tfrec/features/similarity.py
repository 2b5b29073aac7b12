"""One short vector per video whose cosine says how alike two videos are to look at, to hear and to read.

All modalities count alike: each is standardised, brought to length 1, and projected at random to `DIM` dimensions; the sum of
the projections is the projection of the modalities side by side. Random projections keep cosines, near-duplicates stay near.

References:
    Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfrec.features.content import ContentFeatures, Modality

DIM = 64
BLOCK = 16_384
"""Videos read at once."""
SAMPLE = 50_000
"""Videos that mean and deviation are taken from."""


def content_directions(content: ContentFeatures, seed: int = 0) -> NDArray[np.float16]:
    """float16 `[num_videos, DIM]`: unit vectors; zeros for a video without content, which is like no other.

    Args:
        content: at least one modality.
        seed: of the projections and the sample.
    """
    draw = np.random.default_rng(seed)
    total = sum(_projected(content.modalities[name], draw) for name in sorted(content.modalities))
    assert isinstance(total, np.ndarray)
    return _unit(total).astype(np.float16)


def _projected(modality: Modality, draw: np.random.Generator) -> NDArray[np.float32]:
    """float32 `[num_videos, DIM]`, zeros where the modality is missing."""
    present = np.flatnonzero(modality.lengths)
    projected = np.zeros((len(modality.lengths), DIM), np.float32)
    if not len(present):
        return projected
    sample = present if len(present) <= SAMPLE else np.sort(draw.choice(present, SAMPLE, replace=False))
    known = _rows(modality, sample)
    mean, deviation = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
    projection = draw.standard_normal((modality.dim, DIM), np.float32)
    for start in range(0, len(present), BLOCK):
        rows = present[start : start + BLOCK]
        projected[rows] = _unit((_rows(modality, rows) - mean) / deviation) @ projection
    return projected


def _rows(modality: Modality, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return Modality(modality.values[rows], modality.lengths[rows]).pooled()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
