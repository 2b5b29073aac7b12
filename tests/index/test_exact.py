"""Exact search beyond the contract: what large batches take."""

import numpy as np
import pytest

from tfrec.index import exact
from tfrec.index.exact import ExactIndex


@pytest.mark.parametrize("max_scores", [1, 30, 70])
def test_blocks_of_queries_give_what_the_whole_batch_gives(monkeypatch: pytest.MonkeyPatch, max_scores: int) -> None:
    monkeypatch.setattr(exact, "MAX_SCORES", max_scores)  # blocks of 1, 3 and 7 queries
    generator = np.random.default_rng(0)
    embeddings, queries = generator.normal(size=(10, 4)), generator.normal(size=(8, 4)).astype(np.float32)
    expected = np.argsort(-(queries @ embeddings.T), axis=1)[:, :3]
    np.testing.assert_array_equal(ExactIndex(embeddings).search(queries, 3).rows, expected)
