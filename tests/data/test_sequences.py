"""Batches of sequences against literal lists."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tfrec.data.schema import Part
from tfrec.data.sequences import SequenceBatches
from tfrec.errors import TfrecError

DAY = 86_400


def lists(batch) -> dict:
    flat = {**{name: batch[name] for name in ("targets", "timestamps", "negatives")}, **batch["query"]._asdict()}
    return {name: value.numpy().tolist() for name, value in flat.items()}


def test_literal_batch(make_interactions):
    """User 0 watches 5, 6, 5, 7 and later 8; user 1 nothing; user 2 watches 6 once."""
    days = [(0, 5, 1), (0, 6, 2), (0, 5, 4), (0, 7, 7), (0, 8, 9), (2, 6, 3)]
    log = make_interactions(
        [(user, video, day * DAY) for user, video, day in days],
        part=[Part.TRAIN] * 4 + [Part.VALIDATION, Part.TRAIN],
        like=[0, 1, 0, 0, 0, 0],
        click=[1] * 6,
    )
    batches = SequenceBatches(log, 4, 2, 100, seed=1)
    (batch,) = map(lists, batches.epoch(0))
    order = np.argsort(batch["user"])
    assert {name: np.asarray(values)[order].tolist() for name, values in batch.items() if name != "negatives"} == {
        "user": [0, 2],
        "timestamp": [7 * DAY, 3 * DAY],
        "history": [[5, 6, 5, -1], [-1, -1, -1, -1]],
        "history_kind": [[1, 5, 1, 0], [0, 0, 0, 0]],
        "history_age": [[6, 5, 3, 0], [0, 0, 0, 0]],
        "targets": [[5, 6, -1, 7, -1], [6, -1, -1, -1, -1]],  # who watches 5 again is not taught to
        "timestamps": [[1 * DAY, 2 * DAY, 4 * DAY, 7 * DAY, 1 * DAY], [3 * DAY, 1 * DAY, 1 * DAY, 1 * DAY, 1 * DAY]],
    }
    assert batch["negatives"] == [5, 6, 7]


def windows(batches: SequenceBatches, epoch: int) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """User, history and targets of the windows of an epoch, without padding and what fills the last batch."""
    rows = []
    for batch in map(lists, batches.epoch(epoch)):
        rows += zip(batch["user"], batch["history"], batch["targets"], strict=True)
    return [
        (user, tuple(v for v in history if v >= 0), tuple(v for v in targets if v >= 0))
        for user, history, targets in rows[: batches.num_windows]
    ]


@pytest.fixture
def busy(make_interactions):
    """User u watches the videos 0, 1, 2, ... in order, 2 + 3 u of them."""
    return make_interactions([(user, video, 1 + video) for user in range(6) for video in range(2 + 3 * user)])


def test_windows_cover_every_event(busy):
    batches = SequenceBatches(busy, 4, 3, 100, seed=1)
    assert batches.num_examples == len(busy)
    starts = set()
    for epoch in range(2):
        rows = windows(batches, epoch)
        assert Counter(user for user, _, _ in rows) == {0: 1, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4}  # ceil((n - 1) / 4)
        for user in range(6):
            mine = [row for row in rows if row[0] == user]
            assert {video for _, _, targets in mine for video in targets} == set(range(2 + 3 * user))
            for _, history, targets in mine:
                start = history[0]
                assert len(history) == min(4, 1 + 3 * user)
                assert history == tuple(range(start, start + len(history)))
                assert targets == tuple(range(start + (start > 0), start + len(history) + 1))
                starts.add((user, start))
    assert {start for user, start in starts if user == 2} == {0, 3}  # 7 events of history in 2 windows
    assert {start for user, start in starts if user == 3} == {0, 3, 6}  # 10 in 3


def test_stream_starts_again_at_any_epoch(busy):
    batches = SequenceBatches(busy, 4, 3, 5, seed=1)
    epochs = [[lists(batch) for batch in batches.epoch(epoch)] for epoch in range(3)]
    assert [lists(batch) for batch in replace(batches).epoch(2)] == epochs[2]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert [lists(batch) for batch in replace(batches, seed=2).epoch(2)] != epochs[2]


def test_negatives_are_drawn_from_warm_videos(busy):
    batches = SequenceBatches(busy, 4, 3, 5, seed=1)
    drawn = [lists(batch)["negatives"] for epoch in range(4) for batch in batches.epoch(epoch)]
    assert {len(negatives) for negatives in drawn} == {5}
    assert {video for negatives in drawn for video in negatives} == set(range(17))
    assert len({tuple(negatives) for negatives in drawn}) == len(drawn)


def test_log_without_times(make_interactions):
    with pytest.raises(TfrecError, match=r"no times.*--retrieval.training events"):
        SequenceBatches(make_interactions([(0, 0, 0), (0, 1, 0)]), 4, 2, 5, seed=1)
