"""Ranking a block of the catalogue at a time gives what sorting whole rows of scores gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tfrec.evaluation import ranking
from tfrec.evaluation.ranking import InnerProducts, rank_candidates
from tfrec.towers.space import Layout

USERS, VIDEOS = 7, 300


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "USERS_PER_BATCH", 3)
    monkeypatch.setattr(ranking, "VIDEOS_PER_BLOCK", 40)


def few_seen() -> sparse.csr_matrix:
    seen = (np.random.default_rng(1).random((USERS, VIDEOS)) < 0.1).astype(np.float32)
    seen[2] = 1  # who has seen everything
    return sparse.csr_matrix(seen)


@pytest.mark.parametrize("order", ["shuffled", "best last", "best first"])
@pytest.mark.parametrize("k", [1, 5, 40, 301])
def test_blocks_rank_as_a_full_sort_does(order: str, k: int) -> None:
    generator = np.random.default_rng(0)
    queries = generator.integers(1, 4, (USERS, 2)).astype(np.float32)  # of integers, products are exact
    videos = np.stack([np.arange(VIDEOS), generator.permutation(VIDEOS)], axis=1).astype(np.float32)
    if order == "shuffled":
        generator.shuffle(videos)
    videos = videos[::-1] if order == "best first" else videos
    seen, warm = few_seen(), generator.random(VIDEOS) < 0.7
    candidates = {"all": np.ones(VIDEOS, bool), "warm": warm, "cold": ~warm, "nothing": np.zeros(VIDEOS, bool)}
    ranked = rank_candidates(InnerProducts(queries, videos), np.arange(USERS), seen, candidates, k)
    scores = queries @ videos.T
    for name, mask in candidates.items():
        for user, shown in enumerate(ranked[name]):
            allowed = mask & (seen.toarray()[user] == 0)
            expected = np.sort(scores[user, allowed])[::-1][:k]
            shown = shown[shown >= 0]
            np.testing.assert_array_equal(scores[user, shown], expected)
            assert len(set(shown)) == len(shown)
            assert allowed[shown].all()


def test_equal_scores_are_ordered_the_same_in_blocks_and_in_whole_rows() -> None:
    generator = np.random.default_rng(0)
    queries = generator.integers(0, 2, (USERS, 3)).astype(np.float32)
    videos = generator.integers(0, 3, (VIDEOS, 3)).astype(np.float32)
    warm = np.arange(VIDEOS) % 3 > 0
    candidates = {"all": np.ones(VIDEOS, bool), "warm": warm, "cold": ~warm}
    products, users = InnerProducts(queries, videos), np.arange(USERS)
    in_blocks = rank_candidates(products, users, few_seen(), candidates, 10)
    in_rows = rank_candidates(lambda positions: products(positions), users, few_seen(), candidates, 10)
    for name in candidates:
        np.testing.assert_array_equal(in_blocks[name], in_rows[name])


def test_a_content_block_counts_in_every_block() -> None:
    queries, videos = np.eye(2, dtype=np.float32), np.zeros((VIDEOS, 2), np.float32)
    videos[250], videos[7] = [3, 0], [0, 2]
    ranked = rank_candidates(
        InnerProducts(queries, videos, Layout(block_dim=1)),
        np.arange(2),
        sparse.csr_matrix((2, VIDEOS), dtype=np.float32),
        {"all": np.ones(VIDEOS, bool)},
        k=1,
    )
    np.testing.assert_array_equal(ranked["all"], [[250], [7]])


def test_nan_in_any_block_is_refused() -> None:
    videos = np.ones((VIDEOS, 2), np.float32)
    videos[299, 1] = np.nan
    products = InnerProducts(np.ones((USERS, 2), np.float32), videos)
    seen = sparse.csr_matrix((USERS, VIDEOS), dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        rank_candidates(products, np.arange(USERS), seen, {"all": np.ones(VIDEOS, bool)}, 5)
