"""The native op beyond the contract."""

import numpy as np

from tfrec.index.scann import ScannIndex


def test_more_leaves_find_more() -> None:
    embeddings = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    index = ScannIndex(embeddings, num_leaves=50, leaves_to_search=1)
    queries = embeddings[:20]
    few = (index.search(queries, 2000).rows.numpy() >= 0).sum()
    index.leaves_to_search.assign(10)
    assert (index.search(queries, 2000).rows.numpy() >= 0).sum() > 3 * few
