"""The portable tree beyond the contract: storage types, memory, fully searched trees."""

import numpy as np
import pytest

from tfrec.config import Storage
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import Partition, partition
from tfrec.index.portable import PortableIndex

NUM_VIDEOS = 4000


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(NUM_VIDEOS, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def leaves(embeddings: np.ndarray) -> Partition:
    return partition(embeddings, 20)


def test_all_leaves_are_exact_search(embeddings: np.ndarray, leaves: Partition) -> None:
    index = PortableIndex(embeddings, leaves, 1000)
    assert index.leaves_to_search == index.num_leaves
    expected = ExactIndex(embeddings).search(embeddings[:9], NUM_VIDEOS)
    found = index.search(embeddings[:9], NUM_VIDEOS)
    np.testing.assert_array_equal(found.rows[:, :100], expected.rows[:, :100])
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_searches_the_leaves_with_the_best_centroids() -> None:
    embeddings = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 9.0]])
    leaves = Partition(np.array([[2.0, 0.0], [0.0, 5.5]], np.float32), np.array([0, 0, 1, 1], np.int32))
    scores, rows = PortableIndex(embeddings, leaves, 1).search([[1.0, 0.1], [0.0, 1.0]], 3)
    # The first query's best leaf holds videos 0 and 1, the second's 2 and 3; nothing else is looked at.
    np.testing.assert_array_equal(rows, [[1, 0, -1], [3, 2, -1]])
    np.testing.assert_allclose(scores, [[3.0, 1.0, -np.inf], [9.0, 2.0, -np.inf]])


def test_an_empty_leaf_gives_nothing() -> None:
    leaves = Partition(np.array([[9.0], [1.0]], np.float32), np.array([1, 1], np.int32))
    np.testing.assert_array_equal(PortableIndex([[2.0], [3.0]], leaves, 1).search([[1.0]], 1).rows, [[-1]])
    np.testing.assert_array_equal(PortableIndex([[2.0], [3.0]], leaves, 2).search([[1.0]], 1).rows, [[1]])


@pytest.mark.parametrize(
    ("storage", "tolerance", "share"), [("float32", 0, 1.25), ("float16", 0.02, 0.75), ("int8", 0.6, 0.5)]
)
def test_storage(embeddings: np.ndarray, leaves: Partition, storage: Storage, tolerance: float, share: float) -> None:
    index = PortableIndex(embeddings, leaves, 20, storage)
    queries = embeddings[:20]
    scores, rows = (part.numpy() for part in index.search(queries, 10))
    np.testing.assert_allclose(scores, np.einsum("bd,bkd->bk", queries, embeddings[rows]), atol=tolerance + 1e-4)
    expected = ExactIndex(embeddings).search(queries, 10).rows.numpy()
    assert np.mean([np.isin(truth, found).mean() for truth, found in zip(expected, rows, strict=True)]) >= 0.95
    assert sum(variable.numpy().nbytes for variable in index.variables) <= share * embeddings.nbytes


def test_a_column_of_zeros_is_stored_as_int8(leaves: Partition, embeddings: np.ndarray) -> None:
    flat = embeddings.copy()
    flat[:, 5] = 0
    assert np.isfinite(PortableIndex(flat, leaves, 20, "int8").search(flat[:2], 3).scores).all()


def test_refuses_a_partition_of_other_videos(embeddings: np.ndarray, leaves: Partition) -> None:
    with pytest.raises(ValueError, match=r"`partition` must be of the 10 videos. Received: 4000"):
        PortableIndex(embeddings[:10], leaves, 2)
