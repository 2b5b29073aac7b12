"""The partition of the catalogue into leaves."""

import numpy as np
import pytest

from tfrec.index.partition import MIN_SHARE, partition


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)


def test_every_video_lies_in_its_nearest_leaf(embeddings: np.ndarray) -> None:
    leaves = partition(embeddings, 30)
    distance = np.square(embeddings[:, np.newaxis] - leaves.centroids).sum(axis=2)
    kept = distance.min(axis=1)
    np.testing.assert_allclose(distance[np.arange(3000), leaves.leaf], kept, rtol=1e-4)
    assert leaves.sizes.sum() == 3000


def test_no_leaf_is_nearly_empty() -> None:
    crowd = np.random.default_rng(1).normal(size=(2000, 4))
    far = 100 + np.random.default_rng(2).normal(size=(3, 4))
    leaves = partition(np.concatenate([crowd, far]), 40)
    assert leaves.sizes.min() >= MIN_SHARE * 2003 / 40


def test_the_seed_decides(embeddings: np.ndarray) -> None:
    first, again, other = (partition(embeddings, 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    np.testing.assert_array_equal(first.leaf, again.leaf)
    assert first.centroids.shape != other.centroids.shape or (first.centroids != other.centroids).any()


def test_two_separate_groups_become_two_leaves() -> None:
    embeddings = np.array([[1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [0.0, 5.0], [0.0, 5.1], [0.0, 4.9]])
    leaf = partition(embeddings, 2).leaf
    assert len(set(leaf[:3])) == len(set(leaf[3:])) == 1
    assert leaf[0] != leaf[3]


def test_progress_ends_at_the_number_of_videos(embeddings: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    partition(embeddings, 4, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3000, 3000)
