"""Histories and batches against literal lists."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.data.input_pipeline import HistoryLog, RankingBatches, RetrievalBatches, days_between, first_watches
from tfrec.data.schema import Part
from tfrec.errors import TfrecError

DAY = 86_400


def as_lists(value):
    """Tensors as lists, queries as dicts."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: as_lists(part) for name, part in value.items()}
    return value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()


def events_of(batches):
    """(user, video) of every example, in order."""
    return [pair for batch in batches for pair in zip(*(as_lists(batch[0]), as_lists(batch[1])), strict=True)]


def examples(batches: RetrievalBatches, epoch: int) -> list[tuple[int, int]]:
    """(user, video) of the examples of an epoch, in order, what fills the last batch included."""
    return events_of((batch["query"].user, batch["video"]) for batch in batches.epoch(epoch))


# History


@pytest.fixture
def log(make_interactions):
    """User 0 watches 1, 2, 3, 4 on days 1, 2, 4, 8, skips 5 on day 3; user 1 nothing; user 2 watches 0 on day 3."""
    return make_interactions(
        [(0, 1, DAY), (0, 2, 2 * DAY), (0, 5, 3 * DAY), (0, 3, 4 * DAY), (0, 4, 8 * DAY), (2, 0, 3 * DAY)],
        part=[Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.TEST, Part.TRAIN],
        click=[1, 1, 0, 1, 1, 1],
        finish=[0, 1, 0, 1, 1, -1],
        like=[0, 0, 0, 1, 0, 1],
    )


def test_history_before_a_position(log):
    history = HistoryLog.of(log, (Part.TRAIN,), length=2)
    assert history.rows.tolist() == [0, 1, 3, 5]
    query = history.before(
        tf.constant([0, 0, 0, 1, 2]),
        tf.constant([0, 1, 3, 3, 4], tf.int64),
        tf.constant([DAY, 2 * DAY, 5 * DAY, 9 * DAY, 3 * DAY + DAY // 2], tf.int64),
    )
    assert as_lists(query) == {
        "user": [0, 0, 0, 1, 2],
        "timestamp": [DAY, 2 * DAY, 5 * DAY, 9 * DAY, 3 * DAY + DAY // 2],
        "history": [[-1, -1], [1, -1], [2, 3], [-1, -1], [0, -1]],
        "history_kind": [[0, 0], [1, 0], [3, 7], [0, 0], [5, 0]],
        "history_age": [[0, 0], [1, 0], [3, 1], [0, 0], [0.5, 0]],
    }


def test_latest_history(log):
    query = HistoryLog.of(log, (Part.TRAIN, Part.TEST), length=5).latest(
        tf.constant([2, 0, 1]), tf.constant([10 * DAY] * 3, tf.int64)
    )
    assert as_lists(query) == {
        "user": [2, 0, 1],
        "timestamp": [10 * DAY] * 3,
        "history": [[0, -1, -1, -1, -1], [1, 2, 3, 4, -1], [-1] * 5],
        "history_kind": [[5, 0, 0, 0, 0], [1, 3, 7, 3, 0], [0] * 5],
        "history_age": [[7, 0, 0, 0, 0], [9, 8, 6, 2, 0], [0] * 5],
    }


def test_history_of_an_empty_log(make_interactions):
    empty = make_interactions([], num_users=2, num_videos=3)
    query = HistoryLog.of(empty, (Part.TRAIN,), length=2).latest(tf.constant([1]), tf.constant([5], tf.int64))
    assert query.history.numpy().tolist() == [[-1, -1]]
    assert query.history_age.numpy().tolist() == [[0, 0]]


@pytest.fixture
def untimed(make_interactions):
    """A set: user 0 watched 5, 6, 7, 8 (6 twice), user 1 watched 9."""
    return make_interactions([(0, 5, 0), (0, 6, 0), (0, 7, 0), (0, 6, 0), (0, 8, 0), (1, 9, 0)])


@pytest.mark.parametrize(
    ("position", "shift", "length", "expected"),
    [
        (1, 0.0, 2, [7, 8]),
        (1, 0.49, 2, [7, 8]),
        (1, 0.5, 2, [8, 5]),
        (1, 0.99, 2, [8, 5]),
        (3, 0.0, 2, [5, 6]),
        (0, 0.9, 3, [6, 7, 8]),
        (2, 0.9, 5, [8, 5, 6, -1, -1]),
    ],
)
def test_history_around_an_event(untimed, position, shift, length, expected):
    history = HistoryLog.of(untimed, (Part.TRAIN,), length)
    assert history.video.numpy().tolist() == [5, 6, 7, 8, 9, -1]
    query = history.around(tf.constant([0]), tf.constant([position], tf.int64), tf.constant([shift]))
    assert query.history.numpy().tolist() == [expected]
    assert query.history_kind.numpy().tolist() == [[int(video >= 0) for video in expected]]
    assert not query.history_age.numpy().any()


def test_nothing_around_an_only_event(untimed):
    history = HistoryLog.of(untimed, (Part.TRAIN,), 2)
    query = history.around(tf.constant([1]), tf.constant([4], tf.int64), tf.constant([0.9]))
    assert query.history.numpy().tolist() == [[-1, -1]]


def test_first_watches(make_interactions):
    log = make_interactions([(0, 1, 1), (0, 2, 2), (0, 1, 3), (1, 1, 1), (1, 1, 2)])
    assert first_watches(log, np.arange(5)).tolist() == [0, 1, 3]
    assert first_watches(log, np.array([2, 3, 4])).tolist() == [0, 1]


def test_days_between_are_never_negative():
    days = days_between(tf.constant([0, DAY, 1_700_000_000], tf.int64), tf.constant([DAY // 2, 0, 0], tf.int64))
    assert days.numpy().tolist() == [0.5, 0, 0]


# Retrieval


@pytest.fixture(scope="module")
def busy(make_interactions):
    """Twenty users with 1 to 12 events at distinct times, some skipped or after the training part, some videos twice."""
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(20), draw.integers(1, 13, size=20))
    time = draw.permutation(len(user)) + 1_700_000_000
    video = draw.integers(10, size=len(user)) + 5 * (time % 2)
    part = np.where(time > np.quantile(time, 0.8), Part.VALIDATION, Part.TRAIN)
    return make_interactions(
        np.stack([user, video, time], axis=1), part, num_videos=20, click=(draw.random(len(user)) < 0.9).astype(int)
    )


@pytest.fixture(scope="module")
def batches(busy):
    return RetrievalBatches(busy, 3, batch_size=16, num_uniform_negatives=4, max_examples_per_user=0, seed=1)


def training_log(interactions):
    """Positive training events of each user as (time, video), oldest first."""
    logs: dict[int, list[tuple[int, int]]] = {}
    for row in np.flatnonzero((interactions.part == Part.TRAIN) & (interactions.labels["click"] == 1)):
        event = (int(interactions.timestamp[row]), int(interactions.video[row]))
        logs.setdefault(int(interactions.user[row]), []).append(event)
    return logs


def test_users_weigh_as_the_exponent_says(make_interactions):
    """Of 1, 2, 9 and 100 examples to the power of a half an epoch takes 1, 1, 3 and 10, and over time all."""
    sizes = [1, 2, 9, 100]
    log = make_interactions([(user, video, video) for user, size in enumerate(sizes) for video in range(size)])
    batches = RetrievalBatches(log, 2, 15, 4, max_examples_per_user=0, seed=1, user_exponent=0.5)
    users = np.concatenate([batch["query"].user for batch in batches.epoch(0)])
    assert np.bincount(users).tolist() == [1, 1, 3, 10]
    shares = np.bincount(log.video, np.repeat([1, 0.5, 3 / 9, 10 / 100], sizes))
    np.testing.assert_allclose(batches.frequency, shares / 15)


def test_users_with_few_examples_are_left_out(make_interactions):
    """Of 1, 2 and 4 examples an epoch takes 0, 2 and 4, so no query of a log without times lacks a history."""
    log = make_interactions([(user, video, 0) for user, size in enumerate([1, 2, 4]) for video in range(size)])
    batches = RetrievalBatches(log, 2, 6, 4, max_examples_per_user=0, seed=1, min_examples_per_user=2)
    (batch,) = batches.epoch(0)
    assert np.bincount(batch["query"].user).tolist() == [0, 2, 4]
    assert (batch["query"].history[:, 0].numpy() >= 0).all()
    np.testing.assert_allclose(batches.frequency, np.array([2, 2, 1, 1]) / 6)
    # Where nobody has so many, those with the most are taken.
    assert replace(batches, min_examples_per_user=9).num_examples == 4


def test_epoch_equals_literal_examples(make_interactions):
    log = make_interactions([(0, 3, DAY), (0, 1, 2 * DAY), (0, 3, 3 * DAY), (0, 2, 4 * DAY), (1, 1, DAY)])
    batches = RetrievalBatches(log, 2, 4, num_uniform_negatives=9, max_examples_per_user=0, seed=1, max_positives=3)
    (batch,) = batches.epoch(0)
    assert batch["negatives"].numpy().tolist() == [1, 2, 3]
    columns = {**as_lists(batch["query"]), **{name: as_lists(batch[name]) for name in ("video", "positives")}}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    common = {"timestamp": DAY, "history": [-1, -1], "history_kind": [0, 0], "history_age": [0, 0]}
    assert sorted(rows, key=lambda row: (row["user"], row["timestamp"])) == [
        {**common, "user": 0, "video": 3, "positives": [3, 1, 3]},
        {
            "user": 0,
            "timestamp": 2 * DAY,
            "history": [3, -1],
            "history_kind": [1, 0],
            "history_age": [1, 0],
            "video": 1,
            "positives": [3, 1, 3],
        },
        {
            "user": 0,
            "timestamp": 4 * DAY,
            "history": [1, 3],
            "history_kind": [1, 1],
            "history_age": [2, 1],
            "video": 2,
            "positives": [1, 3, 2],
        },
        {**common, "user": 1, "video": 1, "positives": [1]},
    ]


def test_epoch_holds_each_first_watch_once(busy, batches):
    expected = {(user, video) for user, log in training_log(busy).items() for _, video in log}
    assert batches.num_examples == len(expected) < len(busy.rows(Part.TRAIN))
    for epoch in (0, 7):
        seen = examples(batches, epoch)
        assert Counter(seen[: len(expected)]) == Counter(expected)
        assert len(seen) == 16 * batches.steps_per_epoch
        assert seen[len(expected) :] == seen[: len(seen) - len(expected)]


def test_history_holds_what_came_before_only(busy, batches):
    logs = training_log(busy)
    for batch in batches.epoch(0):
        query = as_lists(batch["query"])
        for user, now, history, video in zip(
            query["user"], query["timestamp"], query["history"], as_lists(batch["video"]), strict=True
        ):
            earlier = [watched for time, watched in logs[user] if time < now]
            assert (now, video) in logs[user]
            assert [watched for watched in history if watched >= 0] == earlier[-3:]


def test_order_differs_between_epochs_and_seeds(busy, batches):
    orders = [examples(batches, 0), examples(batches, 1), examples(replace(batches, seed=2), 0)]
    assert len({tuple(order) for order in orders}) == 3
    # Not only which video of a user comes when, also the users.
    assert len({tuple(user for user, _ in order) for order in orders}) == 3


def test_stream_starts_again_at_any_epoch(batches):
    full_pass = [[as_lists(batch) for batch in batches.epoch(epoch)] for epoch in range(3)]
    again = replace(batches)
    assert [as_lists(batch) for batch in again.epoch(2)] == full_pass[2]
    assert full_pass[0] != full_pass[2]


def test_examples_per_user_are_capped_and_rotate(busy, batches):
    capped = replace(batches, max_examples_per_user=2)
    watched = {user: {video for _, video in log} for user, log in training_log(busy).items()}
    seen: dict[int, set[int]] = {user: set() for user in watched}
    for epoch in range(30):
        pairs = examples(capped, epoch)[: capped.num_examples]
        assert len(set(pairs)) == len(pairs)
        assert Counter(user for user, _ in pairs) == {user: min(2, len(videos)) for user, videos in watched.items()}
        for user, video in pairs:
            seen[user].add(video)
    assert seen == watched


def test_frequency_counts_examples_not_events(make_interactions):
    """User 0 gives two of four videos to each epoch; user 1 watched video 0 three times, which is one example."""
    log = make_interactions([(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (1, 0, 1), (1, 0, 2), (1, 0, 3)], num_videos=5)
    uncapped = RetrievalBatches(log, 2, 4, 0, max_examples_per_user=0, seed=1)
    np.testing.assert_allclose(uncapped.frequency, np.array([2, 1, 1, 1, 0]) / 5)
    np.testing.assert_allclose(
        replace(uncapped, max_examples_per_user=2).frequency, np.array([1.5, 0.5, 0.5, 0.5, 0]) / 3
    )


def test_positives_are_those_nearest_in_time(make_interactions):
    log = make_interactions([(0, video, 1 + video) for video in range(6)])
    batches = RetrievalBatches(log, 2, 6, 0, 0, seed=1, max_positives=4)
    (batch,) = batches.epoch(0)
    assert dict(zip(as_lists(batch["video"]), as_lists(batch["positives"]), strict=True)) == {
        0: [0, 1, 2, 3],
        1: [0, 1, 2, 3],
        2: [0, 1, 2, 3],
        3: [1, 2, 3, 4],
        4: [2, 3, 4, 5],
        5: [2, 3, 4, 5],
    }
    assert batch["negatives"].shape == (0,)
    (batch,) = replace(batches, max_positives=0).epoch(0)
    assert as_lists(batch["positives"]) == [[]] * 6


def test_negatives_are_drawn_uniformly_from_warm_videos(busy, batches):
    warm = {video for log in training_log(busy).values() for _, video in log}
    assert set(batches.interactions.warm_videos) == warm
    assert batches.samples_catalogue
    many = replace(batches, batch_size=1, num_uniform_negatives=len(warm) - 1)
    drawn = [as_lists(batch["negatives"]) for epoch in range(3) for batch in many.epoch(epoch)]
    counts = Counter(video for batch in drawn for video in batch)
    assert set(counts) == warm
    mean = sum(counts.values()) / len(warm)
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())
    assert len({tuple(batch) for batch in drawn}) == len(drawn)


def test_small_catalogue_is_taken_whole(batches):
    whole = replace(batches, num_uniform_negatives=len(batches.interactions.warm_videos))
    assert not whole.samples_catalogue
    assert as_lists(next(iter(whole.epoch(0)))["negatives"]) == batches.interactions.warm_videos.tolist()


def test_leave_one_out_reaches_all_others_and_never_the_target(make_interactions):
    log = make_interactions([(user, video, 0) for user in range(100) for video in range(5)])
    seen: dict[int, set[int]] = {video: set() for video in range(5)}
    for batch in RetrievalBatches(log, 2, 100, 0, 0, seed=1).epoch(0):
        for video, history in zip(as_lists(batch["video"]), as_lists(batch["query"].history), strict=True):
            assert len(set(history)) == 2
            seen[video].update(history)
    assert seen == {video: set(range(5)) - {video} for video in range(5)}


def test_leave_one_out_changes_with_the_epoch(make_interactions):
    batches = RetrievalBatches(make_interactions([(0, video, 0) for video in range(9)]), 3, 9, 0, 0, seed=1)
    histories = [
        {(video, tuple(history)) for video, history in zip(as_lists(batch["video"]), rows, strict=True)}
        for epoch in (0, 1)
        for batch in batches.epoch(epoch)
        for rows in [as_lists(batch["query"].history)]
    ]
    assert histories[0] != histories[1]


def test_log_without_positive_training_events(make_interactions):
    log = make_interactions([(0, 0, 1), (0, 1, 2)], part=[Part.TRAIN, Part.TEST], click=[0, 1])
    with pytest.raises(TfrecError, match="No positive training interactions"):
        RetrievalBatches(log, 2, 4, 0, 0, 1).epoch(0)


# Ranking


def ranking_batches(interactions, events=None, **options) -> RankingBatches:
    events = np.arange(len(interactions)) if events is None else np.asarray(events)
    arguments = {"known": (Part.TRAIN,), "history_length": 2, "batch_size": 2, "num_negatives": 3, "seed": 1, **options}
    return RankingBatches(interactions, events, **arguments)


def test_logged_events_equal_literal_batches(log):
    shown = replace(log, position=np.arange(10, 10 + len(log), dtype=np.int32))
    batches = ranking_batches(shown, events=[1, 2, 4], batch_size=2)
    assert batches.negatives_per_event == 0
    assert [as_lists(batch) for batch in batches.in_order()] == [
        {
            "query": {
                "user": [0, 0],
                "timestamp": [2 * DAY, 3 * DAY],
                "history": [[1, -1], [1, 2]],
                "history_kind": [[1, 0], [1, 3]],
                "history_age": [[1, 0], [2, 1]],
            },
            "candidates": [[2], [5]],
            "labels": {"click": [[1], [0]], "finish": [[1], [0]], "like": [[0], [0]]},
            "positions": [[11], [12]],
        },
        {
            "query": {
                "user": [0, 0],  # the test event, then the first one again
                "timestamp": [8 * DAY, 2 * DAY],
                "history": [[2, 3], [1, -1]],
                "history_kind": [[3, 7], [1, 0]],
                "history_age": [[6, 4], [1, 0]],
            },
            "candidates": [[4], [2]],
            "labels": {"click": [[1], [1]], "finish": [[1], [1]], "like": [[0], [0]]},
            "positions": [[14], [11]],
        },
    ]


def test_missing_label_stays_missing(log):
    (batch,) = ranking_batches(log, events=[5], batch_size=1).in_order()
    assert as_lists(batch["labels"]) == {"click": [[1]], "finish": [[-1]], "like": [[1]]}


def test_shuffled_epoch_holds_each_event_once(busy):
    batches = ranking_batches(busy, batch_size=7)
    whole = [(int(user), int(video)) for user, video in zip(busy.user, busy.video, strict=True)]

    def order(stream):
        return events_of((batch["query"].user, batch["candidates"][:, 0]) for batch in stream)[: len(whole)]

    first, second, sixth = (order(batches.epoch(epoch)) for epoch in (0, 1, 5))
    assert order(batches.in_order()) == whole
    assert Counter(first) == Counter(sixth) == Counter(whole)
    assert len({tuple(whole), tuple(first), tuple(second), tuple(sixth)}) == 4
    assert order(replace(batches).epoch(5)) == sixth


def test_drawn_negatives(make_interactions):
    """A video that the user watched, before or now, is no negative; what is drawn says nothing of likes."""
    draw = np.random.default_rng(0)
    rows = np.stack([np.repeat(np.arange(30), 3), draw.integers(6, size=90), np.tile([1, 2, 3], 30)], axis=1)
    part = np.where(rows[:, 1] == 5, Part.TEST, Part.TRAIN)  # video 5 is cold
    log = make_interactions(rows, part, like=draw.integers(2, size=90), click=np.ones(90))
    batches = ranking_batches(log, batch_size=90, history_length=3)
    (batch,) = batches.in_order()
    candidates, history = batch["candidates"].numpy(), batch["query"].history.numpy()
    click, like = (batch["labels"][name].numpy() for name in ("click", "like"))
    assert candidates.shape == click.shape == like.shape == (90, 4)
    np.testing.assert_array_equal(candidates[:, 0], log.video)
    np.testing.assert_array_equal(click[:, 0], 1)
    np.testing.assert_array_equal(like[:, 0], log.labels["like"])
    np.testing.assert_array_equal(like[:, 1:], -1)
    assert set(candidates[:, 1:].flat) == {0, 1, 2, 3, 4, 5}  # cold videos too
    watched = (candidates[:, 1:, None] == history[:, None, :]).any(axis=2)
    now = candidates[:, 1:] == log.video[:, None]
    assert (watched & ~now).any()
    assert (now & ~watched).any()
    np.testing.assert_array_equal(click[:, 1:], np.where(watched | now, -1, 0))


def test_negatives_differ_between_epochs(make_interactions):
    batches = ranking_batches(make_interactions([(0, video, video + 1) for video in range(50)]), batch_size=50)
    drawn = [
        dict(zip(rows[:, 0], map(tuple, rows[:, 1:]), strict=True))
        for epoch in (0, 1)
        for rows in (batch["candidates"].numpy() for batch in batches.epoch(epoch))
    ]
    assert drawn[0].keys() == drawn[1].keys()
    assert drawn[0] != drawn[1]


def test_log_without_labels_holds_clicks(make_interactions):
    (batch,) = ranking_batches(make_interactions([(0, 0, 1), (0, 1, 2)]), num_negatives=0).in_order()
    assert as_lists(batch["labels"]) == {"click": [[1], [1]]}
    assert as_lists(batch["candidates"]) == [[0], [1]]


def test_event_of_a_set_is_left_out_of_its_own_history(make_interactions):
    log = make_interactions(
        [(0, 5, 0), (0, 6, 0), (0, 7, 0), (1, 8, 0)], part=[Part.TRAIN, Part.TRAIN, Part.TEST, Part.TRAIN]
    )
    (batch,) = ranking_batches(log, batch_size=4, num_negatives=0).in_order()
    assert as_lists(batch["query"].history) == [[6, -1], [5, -1], [5, 6], [-1, -1]]


def test_no_events_no_batches(log):
    assert list(ranking_batches(log, events=np.zeros(0, np.int64)).in_order()) == []
