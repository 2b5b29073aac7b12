"""Shares of batches: literal rows, and that together they are the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrec.data.input_pipeline import RankingBatches, RetrievalBatches
from tfrec.data.schema import Interactions, Part
from tfrec.data.sequences import SequenceBatches
from tfrec.data.shares import Shares

OF_THE_WHOLE = ("video", "negatives")
"""What every share of a batch of retrieval has entire."""


def test_literal_shares() -> None:
    """Steps 4 and 5 of batches of 6 rows: whole, halves, and the last two thirds, by a worker with two replicas."""

    def rows(shares: Shares) -> list[list[int]]:
        batches = shares.batches(4, 2, lambda step, share: shares.of(10 * step + tf.range(6, dtype=tf.int64), share))
        return [batch.numpy().tolist() for batch in batches]

    assert rows(Shares()) == [[40, 41, 42, 43, 44, 45], [50, 51, 52, 53, 54, 55]]
    assert rows(Shares(count=2, first=0)) == [[40, 41, 42], [50, 51, 52]]
    assert rows(Shares(count=2, first=1)) == [[43, 44, 45], [53, 54, 55]]
    assert rows(Shares(count=3, first=1, local=2)) == [[42, 43], [44, 45], [52, 53], [54, 55]]


@pytest.fixture(scope="module", params=[True, False], ids=["times", "no times"])
def log(request: pytest.FixtureRequest, make_interactions: Any) -> Interactions:
    draw = np.random.default_rng(0)
    events = [(user, video, 1 + place) for user in range(9) for place, video in enumerate(draw.integers(12, size=5))]
    if not request.param:
        events = [(user, video, 0) for user, video, _ in events]
    return make_interactions(events, part=Part.TRAIN)


def streams(log: Interactions) -> list[Any]:
    batches: list[Any] = [
        RetrievalBatches(log, 3, batch_size=6, num_uniform_negatives=4, max_examples_per_user=3, seed=1),
        RankingBatches(log, np.arange(len(log.user)), (Part.TRAIN,), 3, batch_size=6, num_negatives=2, seed=1),
    ]
    return [*batches, SequenceBatches(log, 2, 6, 4, 1)] if log.has_time else batches


def filled(values: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    return values.to_tensor(-2) if isinstance(values, tf.RaggedTensor) else values


def test_shares_make_up_the_batch(log: Interactions) -> None:
    for stream in streams(log):
        whole = list(stream.epoch(1))
        shares = [list(stream.epoch(1, Shares(3, first=replica))) for replica in range(3)]
        assert len(whole) == len(shares[0]) > 1
        for batch, *parts in zip(whole, *shares, strict=True):
            for name, expected in batch.items():
                if name in OF_THE_WHOLE:
                    for part in parts:
                        np.testing.assert_array_equal(part[name], expected)
                    continue
                joined = tf.nest.map_structure(
                    lambda *values: filled(tf.concat(values, axis=0)), *(part[name] for part in parts)
                )
                tf.nest.map_structure(np.testing.assert_array_equal, joined, tf.nest.map_structure(filled, expected))
            if "rows" in parts[0]:
                assert [part["rows"].numpy().tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
