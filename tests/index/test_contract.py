"""What every index promises. A new kind of index joins by one entry in `KINDS`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfrec.index.base import Index
from tfrec.index.bfloat16 import BFloat16Index
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex
from tfrec.index.scann import TREE_FROM, ScannIndex

DIM = 16
NUM_LEAVES = 64


def _scann(embeddings: np.ndarray) -> Index:
    return ScannIndex(embeddings, NUM_LEAVES if len(embeddings) >= TREE_FROM else 0, 8)


def _portable(embeddings: np.ndarray) -> Index:
    return PortableIndex(embeddings, partition(np.asarray(embeddings, np.float32), NUM_LEAVES), 8)


KINDS: dict[str, Callable[[np.ndarray], Index]] = {
    "exact": ExactIndex,
    "bfloat16": BFloat16Index,
    "scann": _scann,
    "portable": _portable,
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def make(kind: str) -> Callable[[np.ndarray], Index]:
    return KINDS[kind]


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    """Clustered, as trained embeddings are: 12,000 videos around 60 centres."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(60, DIM))
    return (centres[generator.integers(60, size=12_000)] + 0.3 * generator.normal(size=(12_000, DIM))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def queries(embeddings: np.ndarray) -> np.ndarray:
    """Near to videos drawn at random."""
    generator = np.random.default_rng(1)
    near = embeddings[generator.integers(len(embeddings), size=64)]
    return near + generator.normal(scale=0.1, size=near.shape).astype(np.float32)


@pytest.fixture(scope="module")
def index(make: Callable[[np.ndarray], Index], embeddings: np.ndarray) -> Index:
    return make(embeddings)


def _brute_force(embeddings: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ embeddings.T), axis=1, kind="stable")[:, :k]


def test_finds_the_nearest(index: Index, embeddings: np.ndarray, queries: np.ndarray) -> None:
    expected = _brute_force(embeddings, queries, 20)
    rows = index.search(queries, 20).rows.numpy()
    if index.name == "exact":
        np.testing.assert_array_equal(rows, expected)
    shares = [len(np.intersect1d(*pair)) / 20 for pair in zip(rows, expected, strict=True)]
    assert np.mean(shares) >= 0.95


def test_scores_are_the_inner_products_and_descend(index: Index, embeddings: np.ndarray, queries: np.ndarray) -> None:
    scores, rows = (part.numpy() for part in index.search(queries, 20))
    np.testing.assert_allclose(scores, np.einsum("bd,bkd->bk", queries, embeddings[rows]), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()


def test_knows_its_size(index: Index, embeddings: np.ndarray, kind: str) -> None:
    assert (index.num_videos, index.dim, index.name) == (*embeddings.shape, kind)


@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_dtypes_and_shapes(index: Index, queries: np.ndarray, batch_size: int) -> None:
    scores, rows = index.search(queries[:batch_size], 7)
    assert (scores.dtype, rows.dtype) == (tf.float32, tf.int32)
    assert scores.shape == rows.shape == (batch_size, 7)


def test_a_query_finds_the_same_alone_and_in_a_batch(index: Index, queries: np.ndarray) -> None:
    together = index.search(queries[:5], 10).rows.numpy()
    alone = np.concatenate([index.search(query[np.newaxis], 10).rows.numpy() for query in queries[:5]])
    np.testing.assert_array_equal(together, alone)


def test_k_may_be_a_tensor_of_a_graph(index: Index, queries: np.ndarray) -> None:
    search = tf.function(index.search, input_signature=[tf.TensorSpec([None, DIM]), tf.TensorSpec([], tf.int32)])
    np.testing.assert_array_equal(search(queries, 4).rows, index.search(queries, 4).rows)
    assert search(queries, 0).rows.shape == (len(queries), 0)


def test_slots_past_the_catalogue_are_empty(make: Callable[[np.ndarray], Index], embeddings: np.ndarray) -> None:
    small, query = embeddings[:5], embeddings[:2]
    scores, rows = (part.numpy() for part in make(small).search(query, 8))
    np.testing.assert_array_equal(rows[:, :5], _brute_force(small, query, 5))
    assert (rows[:, 5:] == -1).all()
    assert np.isneginf(scores[:, 5:]).all()


def test_slots_past_the_searched_leaves_are_empty(index: Index, embeddings: np.ndarray, queries: np.ndarray) -> None:
    scores, rows = (part.numpy() for part in index.search(queries, len(embeddings)))
    np.testing.assert_array_equal(rows == -1, np.isneginf(scores))
    assert not np.isnan(scores).any()
    for found in rows:
        assert len(np.unique(found[found >= 0])) == np.count_nonzero(found >= 0) > 0


def test_one_video(make: Callable[[np.ndarray], Index]) -> None:
    scores, rows = make(np.array([[1.0, 2.0]])).search([[3.0, 4.0], [-1.0, 0.0]], 1)
    np.testing.assert_array_equal(rows, [[0], [0]])
    np.testing.assert_allclose(scores, [[11.0], [-1.0]])


def test_coinciding_videos_are_all_found(make: Callable[[np.ndarray], Index]) -> None:
    embeddings = np.repeat(np.array([[1.0, 0.0], [0.0, 1.0]]), [3, 200], axis=0)
    assert sorted(make(embeddings).search([[5.0, 0.0]], 3).rows.numpy()[0]) == [0, 1, 2]


def test_videos_without_direction_are_found(make: Callable[[np.ndarray], Index]) -> None:
    scores, rows = make(np.zeros([4, 2])).search([[1.0, 1.0]], 4)
    assert sorted(rows.numpy()[0]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(scores, np.zeros([1, 4]))


def test_length_counts(make: Callable[[np.ndarray], Index], embeddings: np.ndarray) -> None:
    small = embeddings[:40]
    rows = make(np.concatenate([small, 3 * small])).search(small, 1).rows.numpy()
    assert (rows >= 40).all()  # a video and its triple: the inner product is largest with one of the triples


@pytest.mark.parametrize(
    "convert", [np.asfortranarray, lambda array: array.astype(np.float64), lambda array: array.tolist()]
)
def test_layout_and_type_of_the_input_do_not_matter(
    make: Callable[[np.ndarray], Index], embeddings: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]
) -> None:
    small, query = embeddings[:40], embeddings[:3]
    np.testing.assert_array_equal(make(convert(small)).search(query, 5).rows, make(small).search(query, 5).rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_embeddings_that_are_not_finite(make: Callable[[np.ndarray], Index], bad: float) -> None:
    embeddings = np.ones([4, 2])
    embeddings[2, 1] = bad
    with pytest.raises(ValueError, match=r"must be finite.*row 2"):
        make(embeddings)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,)])
def test_refuses_an_empty_catalogue(make: Callable[[np.ndarray], Index], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[videos, dim\].*Received: "):
        make(np.zeros(shape))


@pytest.mark.parametrize("shape", [(2, DIM + 1), (DIM,), (1, 2, DIM)])
def test_refuses_queries_of_another_width(index: Index, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"`queries` must have shape \[batch, {DIM}\]. Received"):
        index.search(np.zeros(shape, np.float32), 3)


def test_refuses_a_negative_k(index: Index, queries: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`k` must be 0 or more. Received: -1"):
        index.search(queries, -1)


def test_a_saved_index_answers_the_same_without_this_library(
    index: Index, kind: str, queries: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "queries.npy", queries)
    tf.saved_model.save(index, str(tmp_path / kind))
    script = Path(__file__).with_name("search_saved.py")
    command = [sys.executable, str(script), str(tmp_path / kind), str(tmp_path / "queries.npy"), "9"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=tmp_path).stdout)
    scores, rows = index.search(queries, 9)
    np.testing.assert_array_equal(answer["rows"], rows)
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-6)
    native = ["scann"] if kind == "scann" else []
    assert answer["libraries"] == native
    assert [op for op in answer["foreign"] if not op.startswith("Scann>")] == []
    assert bool(answer["foreign"]) == bool(native)  # the others have core ops only
