"""What is alike to look at, to hear and to read."""

from __future__ import annotations

import numpy as np
import pytest

from tfrec.features import similarity
from tfrec.features.content import ContentFeatures, Modality
from tfrec.features.similarity import content_directions


def content(draw: np.random.Generator, num_videos: int = 300) -> ContentFeatures:
    """A vector and a sequence per video: video 1 is video 0 seen again with noise, video 2 has no sequence, video 3 nothing."""
    vectors = draw.normal(size=(num_videos, 200)).astype(np.float32)
    frames = draw.normal(loc=5, size=(num_videos, 3, 96)).astype(np.float32)
    vectors[1] = vectors[0] + 0.1 * draw.normal(size=200)
    frames[1] = frames[0] + 0.1 * draw.normal(size=(3, 96))
    present, steps = np.ones(num_videos, np.int32), np.full(num_videos, 3, np.int32)
    present[3] = steps[2] = steps[3] = 0
    vectors[3] = frames[2] = frames[3] = 0
    return ContentFeatures({"text": Modality(vectors, present), "video": Modality(frames, steps)}, {})


def test_near_duplicates_are_near_and_others_are_not() -> None:
    directions = content_directions(content(np.random.default_rng(0))).astype(np.float32)
    assert directions.shape == (300, similarity.DIM)
    cosine = directions @ directions.T
    assert cosine[0, 1] > 0.95
    np.fill_diagonal(cosine, 0)
    cosine[0, 1] = cosine[1, 0] = 0
    assert np.abs(cosine).max() < 0.8
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), [1, 1, 1, 0, *[1] * 296], atol=1e-3)


def test_cosines_are_those_of_the_standardised_modalities() -> None:
    given = content(np.random.default_rng(1))
    parts = []
    for modality in given.modalities.values():
        values, known = modality.pooled(), modality.lengths > 0
        values = (values - values[known].mean(axis=0)) / values[known].std(axis=0)
        parts.append(np.where(known[:, None], values / np.linalg.norm(values, axis=1, keepdims=True), 0))
    joined = np.concatenate(parts, axis=1)
    joined /= np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-9)
    directions = content_directions(given).astype(np.float32)
    error = directions @ directions.T - joined @ joined.T
    assert np.sqrt(np.mean(error**2)) < 1.3 / similarity.DIM**0.5


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = content(np.random.default_rng(2))
    expected = content_directions(given)
    monkeypatch.setattr(similarity, "BLOCK", 7)
    np.testing.assert_allclose(content_directions(given), expected, atol=2e-3)
