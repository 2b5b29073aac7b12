"""Users cut in two: what a batch holds, worked out from the log."""

import numpy as np
import pytest

from tfrec.data.schema import Part
from tfrec.data.sets import SetBatches
from tfrec.data.shares import WHOLE, Shares
from tfrec.errors import TfrecError

WATCHED = {0: {0, 1, 2, 3, 4, 5}, 2: {1, 6}, 3: {7}}


@pytest.fixture
def log(make_interactions):
    """User 1 has only something to be found, video 8."""
    events = [(user, video, 0) for user, videos in WATCHED.items() for video in videos] + [(1, 8, 0)]
    return make_interactions(events, [Part.TRAIN] * 9 + [Part.VALIDATION])


def epoch_of(log, epoch: int, length: int = 8, batch_size: int = 3, shares: Shares = WHOLE) -> list[dict]:
    return list(SetBatches(log, length, batch_size, 100, seed=1).epoch(epoch, shares))


def test_history_and_targets_are_what_was_watched(log):
    seen = set()
    for epoch in range(6):
        (batch,) = epoch_of(log, epoch)
        users = batch["query"].user.numpy().tolist()
        assert sorted(users) == sorted(WATCHED)
        for user, history, targets in zip(users, batch["query"].history.numpy(), batch["targets"].numpy(), strict=True):
            parts = [set(part[part >= 0].tolist()) for part in (history, targets)]
            assert parts[0] | parts[1] == WATCHED[user]
            assert not parts[0] & parts[1]
            assert sum(part >= 0 for part in [*history, *targets]) == len(WATCHED[user])
            seen.add((user, frozenset(parts[0])))
        np.testing.assert_array_equal(batch["video"], batch["targets"].numpy().ravel())
        np.testing.assert_array_equal(batch["query"].history_kind, batch["query"].history.numpy() >= 0)
        assert batch["negatives"].numpy().tolist() == list(range(8))  # all that are warm
    assert len(seen) > 8  # drawn anew each epoch


def test_more_videos_than_fit_are_a_run_of_the_ring(log):
    runs = set()
    for epoch in range(25):
        (batch,) = epoch_of(log, epoch, length=4)
        row = batch["query"].user.numpy().tolist().index(0)
        both = np.stack([batch["query"].history[row], batch["targets"][row]]).max(axis=0)
        runs.add(tuple(both.tolist()))
    assert runs == {tuple((start + step) % 6 for step in range(4)) for start in range(6)}


def test_epochs_are_repeatable_and_shares_make_up_the_batch(log):
    (first,), (again,) = epoch_of(log, 1, batch_size=4), epoch_of(log, 1, batch_size=4)
    np.testing.assert_array_equal(first["targets"], again["targets"])
    shares = [epoch_of(log, 1, batch_size=4, shares=Shares(2, number, 1))[0] for number in range(2)]
    joined = np.concatenate([share["targets"] for share in shares])
    np.testing.assert_array_equal(joined, first["targets"])
    np.testing.assert_array_equal(shares[1]["video"], first["video"])


def test_a_log_with_times_is_no_set(make_interactions):
    with pytest.raises(TfrecError, match="has times"):
        SetBatches(make_interactions([(0, 0, 5)]), 4, 2, 10, 1)
