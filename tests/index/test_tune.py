"""Choosing and measuring an index."""

import numpy as np
import pytest

from tfrec.config import IndexConfig
from tfrec.index.partition import Partition
from tfrec.index.tune import build_index, exact_neighbours, fewest_leaves, leaves_that_hold, recall


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    """30,000 videos around 150 centres; lengths vary, as popularity makes them."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(150, 16))
    vectors = centres[generator.integers(150, size=30_000)] + 0.4 * generator.normal(size=(30_000, 16))
    return (vectors * generator.lognormal(sigma=0.2, size=(30_000, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def queries(embeddings: np.ndarray) -> np.ndarray:
    generator = np.random.default_rng(1)
    near = embeddings[generator.integers(len(embeddings), size=200)]
    return near + generator.normal(scale=0.2, size=near.shape).astype(np.float32)


@pytest.mark.parametrize(("exact_below", "kind"), [(30_000, "exact"), (29_999, "portable")])
def test_auto_goes_by_the_size_of_the_catalogue(
    embeddings: np.ndarray, queries: np.ndarray, exact_below: int, kind: str
) -> None:
    index, report = build_index(embeddings, IndexConfig(exact_below=exact_below), queries=queries)
    assert (index.name, report.kind) == (kind, kind)


def test_auto_stays_exact_where_a_tree_saves_nothing() -> None:
    noise = np.random.default_rng(0).normal(size=(3000, 64))  # no clusters: neighbours lie in leaves all over
    index, report = build_index(noise, IndexConfig(exact_below=100), queries=noise[:50])
    assert index.name == "exact"
    assert report.num_leaves == report.leaves_to_search == 0


@pytest.mark.parametrize("kind", ["scann", "portable"])
@pytest.mark.parametrize("target", [0.9, 0.98])
def test_reaches_the_recall_target_without_searching_all(
    embeddings: np.ndarray, queries: np.ndarray, kind: str, target: float
) -> None:
    index, report = build_index(embeddings, IndexConfig(kind=kind, recall_target=target), queries=queries)
    assert recall(index, queries, exact_neighbours(embeddings, queries, 100)) >= target
    assert target <= report.recall <= 1
    assert 0 < report.leaves_to_search < report.num_leaves / 4
    assert min(report.build_seconds, report.batch_1_ms, report.batch_32_ms) > 0


def test_obeys_the_configuration(embeddings: np.ndarray, queries: np.ndarray) -> None:
    config = IndexConfig(kind="portable", num_leaves=40, leaves_to_search=3, storage="int8")
    index, report = build_index(embeddings, config, queries=queries)
    assert sum(variable.numpy().nbytes for variable in index.variables) < 0.6 * embeddings.nbytes
    assert index.rounds_scores
    assert report.num_leaves <= 40
    assert report.leaves_to_search == 3


def test_every_query_finds_as_many_as_asked_for(embeddings: np.ndarray, queries: np.ndarray) -> None:
    index, _ = build_index(embeddings, IndexConfig(kind="portable"), queries=queries, num_results=700)
    directions = np.random.default_rng(2).normal(size=(300, 16)).astype(np.float32)
    assert (index.search(directions, 700).rows.numpy() >= 0).all()


@pytest.mark.parametrize("kind", ["exact", "scann", "portable"])
def test_one_video(kind: str) -> None:
    index, report = build_index([[1.0, 2.0]], IndexConfig(kind=kind), queries=[[1.0, 1.0]])
    assert index.search([[1.0, 1.0]], 1).rows.numpy().tolist() == [[0]]
    assert report.recall == 1


def test_refuses_queries_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"`queries` must be as wide as the embeddings, 3. Received: 2"):
        build_index(np.ones([4, 3]), IndexConfig(), queries=np.ones([4, 2]))


def test_exact_neighbours_go_over_block_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfrec.index.tune.BLOCK", 7)
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(30, 4)).astype(np.float32)
    queries = generator.normal(size=(5, 4)).astype(np.float32)
    expected = np.argsort(-(queries @ embeddings.T), axis=1)
    np.testing.assert_array_equal(exact_neighbours(embeddings, queries, 9), expected[:, :9])
    np.testing.assert_array_equal(exact_neighbours(embeddings, queries, 50), expected)


def test_fewest_leaves_by_hand() -> None:
    centroids = np.array([[3.0], [2.0], [1.0]], np.float32)  # a positive query ranks the leaves 0, 1, 2
    leaves = Partition(centroids, np.array([0, 0, 1, 2], np.int32))
    query, nearest = np.array([[1.0]], np.float32), np.array([[0, 1, 2, 3]], np.int32)
    assert [fewest_leaves(leaves, query, nearest, share) for share in (0.25, 0.5, 0.75, 0.76, 1.0)] == [1, 1, 2, 3, 3]


def test_leaves_that_hold_by_hand() -> None:
    leaves = Partition(np.zeros([3, 1], np.float32), np.repeat(np.arange(3, dtype=np.int32), [5, 1, 2]))
    assert [leaves_that_hold(leaves, number) for number in (1, 2, 3, 4, 8, 100)] == [1, 2, 2, 3, 3, 3]
