"""The protocol on logs small enough to follow by eye."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tfrec.config import EvaluationConfig
from tfrec.data.schema import Interactions, Part
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, final_part, make_task, rank_catalogue

Event = tuple[int, int, int, Part]
TRAIN, VALIDATION, TEST = Part


def log(events: list[Event], num_users: int = 3, num_videos: int = 6, click: list[int] | None = None) -> Interactions:
    """Interactions from (user, video, timestamp, part), in the order of the log."""
    user, video, timestamp, part = (np.array(column) for column in zip(*events, strict=True))
    labels = {} if click is None else {"click": np.array(click, np.int8)}
    return Interactions(
        user.astype(np.int32), video.astype(np.int32), timestamp.astype(np.int64), labels, part.astype(np.int8),
        num_users, num_videos,
    )  # fmt: skip


EVENTS: list[Event] = [
    (0, 0, 10, TRAIN),
    (0, 1, 20, TRAIN),
    (0, 2, 50, VALIDATION),
    (0, 1, 80, TEST),  # watched before: nothing new to find
    (0, 4, 81, TEST),
    (0, 2, 82, TEST),  # known since validation
    (1, 0, 15, TRAIN),
    (1, 3, 85, TEST),
    (1, 3, 86, TEST),
    (1, 5, 87, TEST),
    (2, 1, 30, TRAIN),
    (2, 1, 90, TEST),
]


def without_times(events: list[Event]) -> list[Event]:
    return [(user, video, 0, part) for user, video, _, part in events]


def test_task_asks_users_with_something_new_at_the_time_of_its_first_event() -> None:
    task = make_task(log(EVENTS), TEST)
    np.testing.assert_array_equal(task.users, [0, 1])
    np.testing.assert_array_equal(task.relevant.toarray(), [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 1]])
    np.testing.assert_array_equal(task.timestamp, [81, 85])
    np.testing.assert_array_equal(task.history_end, [4, 7])
    np.testing.assert_array_equal(task.train_counts, [2, 2, 0, 0, 0, 0])


def test_validation_is_known_when_the_test_part_is_asked() -> None:
    task = make_task(log(EVENTS), TEST)
    assert task.known == (TRAIN, VALIDATION)
    np.testing.assert_array_equal(task.seen.toarray(), [[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def test_only_training_is_known_when_validation_is_asked() -> None:
    task = make_task(log(EVENTS), VALIDATION)
    assert task.known == (TRAIN,)
    np.testing.assert_array_equal(task.users, [0])
    np.testing.assert_array_equal(task.seen.toarray(), [[1, 1, 0, 0, 0, 0]])


def test_without_times_only_training_is_known_and_the_history_is_all_of_it() -> None:
    task = make_task(log(without_times(EVENTS)), TEST)
    assert task.known == (TRAIN,)
    np.testing.assert_array_equal(task.relevant.toarray()[0], [0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(task.history_end, [6, 10])
    np.testing.assert_array_equal(task.timestamp, [0, 0])


def test_an_event_without_a_click_is_neither_history_nor_label() -> None:
    events = [(0, 0, 1, TRAIN), (0, 1, 2, TRAIN), (0, 2, 3, TEST), (0, 3, 4, TEST)]
    task = make_task(log(events, click=[1, 0, 0, 1]), TEST)
    np.testing.assert_array_equal(task.seen.toarray(), [[1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(task.relevant.toarray(), [[0, 0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(task.timestamp, [4])


def test_at_most_max_users_are_drawn_by_the_seed() -> None:
    events = [(user, 0, user + 1, TEST) for user in range(40)]
    everyone = log(events, num_users=40)
    first, again, other = (make_task(everyone, TEST, max_users=10, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 10
    assert (np.diff(first.users) > 0).all()
    np.testing.assert_array_equal(first.timestamp, first.users + 1)
    np.testing.assert_array_equal(first.users, again.users)
    assert (first.users != other.users).any()


def test_final_part_is_validation_where_there_is_no_test() -> None:
    assert final_part(log(EVENTS)) == TEST
    assert final_part(log(EVENTS[:3])) == VALIDATION


def scores_from(table: NDArray[np.float32]) -> object:
    return lambda positions: table[positions]


@pytest.fixture
def task() -> EvaluationTask:
    return make_task(log(EVENTS), TEST)


def test_ranking_leaves_out_what_is_known(task: EvaluationTask) -> None:
    scores = np.array([[9, 8, 7, 3, 2, 1], [9, 1, 2, 3, 4, 5]], np.float32)
    top = rank_catalogue(scores_from(scores), task, k=4)
    np.testing.assert_array_equal(top, [[3, 4, 5, -1], [5, 4, 3, 2]])
    np.testing.assert_array_equal(scores[0], [9, 8, 7, 3, 2, 1])  # the caller's scores stay as they were


def test_ranking_among_candidates_fills_up_with_nothing(task: EvaluationTask) -> None:
    scores = np.tile(np.arange(6, dtype=np.float32), (2, 1))
    candidates = np.array([True, False, False, True, False, True])
    top = rank_catalogue(scores_from(scores), task, k=3, candidates=candidates)
    np.testing.assert_array_equal(top, [[5, 3, -1], [5, 3, -1]])


@pytest.mark.parametrize("k", [1, 7, 50, 64])
def test_ranking_agrees_with_a_full_sort_in_batches_of_any_size(k: int) -> None:
    events = [(user, user % 50, user + 1, TEST) for user in range(60)]
    task = make_task(log(events, num_users=60, num_videos=50), TEST)
    scores = np.random.default_rng(0).permutation(60 * 50).reshape(60, 50).astype(np.float32)
    expected = np.argsort(-scores, axis=1)[:, :k]
    for batch_size in (1, 7, 1000):
        top = rank_catalogue(scores_from(scores), task, k, batch_size=batch_size)
        np.testing.assert_array_equal(top[:, :50], expected)
        assert (top[:, 50:] == -1).all()


def constant_scores(num_users: int, num_videos: int) -> tuple[EvaluationTask, NDArray[np.float32]]:
    events = [(user, 0, user + 1, TEST) for user in range(num_users)]
    task = make_task(log(events, num_users=num_users, num_videos=num_videos), TEST)
    return task, np.zeros((num_users, num_videos), np.float32)


def test_without_an_opinion_slates_are_chance_and_differ_between_users() -> None:
    task, scores = constant_scores(num_users=400, num_videos=100)
    top = rank_catalogue(scores_from(scores), task, k=20)
    shown = np.bincount(top.ravel(), minlength=100)
    assert shown.min() > 40  # 80 on average
    assert shown.max() < 160
    assert all(len(set(row)) == 20 for row in top)


def test_the_order_of_equal_scores_depends_on_the_user_alone() -> None:
    task, scores = constant_scores(num_users=5, num_videos=1000)
    scores[:, 700] = 1
    top = rank_catalogue(scores_from(scores), task, k=20)
    assert (top[:, 0] == 700).all()
    np.testing.assert_array_equal(top, rank_catalogue(scores_from(scores), task, k=20, batch_size=2))
    np.testing.assert_array_equal(top[:, :5], rank_catalogue(scores_from(scores), task, k=5))


def test_ties_in_a_large_catalogue_follow_the_order_of_the_user_at_every_level_of_score() -> None:
    num_videos, k = 5000, 30
    task, nothing = constant_scores(4, num_videos)
    orders = rank_catalogue(scores_from(nothing), task, num_videos)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(num_videos), (4, 1)))
    levels = np.array([-np.inf, -2.5, -0.0, 0.0, 1e-30, 7, np.inf], np.float32)
    generator = np.random.default_rng(0)
    scores = np.stack(
        [
            generator.choice(levels, num_videos),  # hundreds of videos share the best
            generator.choice(levels[:4], num_videos, p=[0.5, 0.499, 0.0005, 0.0005]),
            np.where(np.arange(num_videos) < 20, levels[1], levels[0]),  # fewer than k can be shown
            np.arange(num_videos),  # the best lie side by side
        ]
    ).astype(np.float32)
    top = rank_catalogue(scores_from(scores), task, k)
    for shown, row, order in zip(top, scores, orders, strict=True):
        best = order[np.argsort(-row[order], kind="stable")][:k]
        np.testing.assert_array_equal(shown, np.where(row[best] > -np.inf, best, -1))


def test_scores_that_are_nan_or_of_another_size_are_refused(task: EvaluationTask) -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank_catalogue(scores_from(np.full((2, 6), np.nan, np.float32)), task, k=2)
    with pytest.raises(ValueError, match=r"\[2, 6\].*\(2, 5\)"):
        rank_catalogue(scores_from(np.zeros((2, 5), np.float32)), task, k=2)


def test_evaluate_measures_the_whole_catalogue_and_its_slices() -> None:
    events: list[Event] = [
        (0, 0, 1, TRAIN),
        (0, 1, 9, TEST),
        (0, 4, 9, TEST),
        (1, 1, 1, TRAIN),
        (1, 2, 2, TRAIN),
        (1, 0, 9, TEST),
        (2, 3, 3, TRAIN),
        (2, 5, 9, TEST),
    ]
    task = make_task(log(events), TEST)
    scores = np.array(
        [
            [9, 1, 5, 4, 3, 2],  # unseen: 2 3 4 5 1; wants 1 (last) and 4 (third)
            [1, 9, 9, 2, 4, 3],  # unseen: 4 5 3 0; wants 0 (last)
            [0, 0, 0, 9, 1, 5],  # unseen: 5 first; wants 5
        ],
        np.float32,
    )
    config = EvaluationConfig(top_k=[1, 3, 10, 20], bootstrap_samples=50)
    results = evaluate(scores_from(scores), task, config, batch_size=2)

    whole, warm, cold = results["retrieval"], results["warm"], results["cold_start"]
    assert (whole["users"], warm["users"], cold["users"]) == (3, 2, 2)
    assert (whole["candidates"], warm["candidates"], cold["candidates"]) == (6, 4, 2)
    assert whole["evaluated_on"] == "test"
    assert whole["recall@1"] == pytest.approx((0 + 0 + 1) / 3)
    assert whole["recall@3"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert whole["mrr"] == pytest.approx((1 / 3 + 1 / 4 + 1) / 3)
    assert whole["coverage@1"] == pytest.approx(3 / 6)  # videos 2, 4 and 5
    # Warm are 0 to 3: user 0 sees 2 3 1, user 1 sees 3 0. Cold are 4 and 5: user 0 sees 4 5, user 2 sees 5 4.
    assert warm["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert cold["mrr"] == pytest.approx(1)
    assert cold["recall@1"] == 1
    low, high = whole["recall@3_interval"]
    assert 0 <= low < whole["recall@3"] < high <= 1


def test_popularity_bias_of_slates() -> None:
    events: list[Event] = [(user, 0, 1, TRAIN) for user in range(2)] + [(2, 1, 1, TRAIN), (2, 2, 9, TEST)]
    task = make_task(log(events, num_videos=4), TEST)
    result = evaluate(
        scores_from(np.zeros((1, 4), np.float32)), task, EvaluationConfig(bootstrap_samples=10)
    )["retrieval"]  # fmt: skip
    assert result["cold_share@20"] == pytest.approx(2 / 3)  # all but the watched video 1: 0 is warm, 2 and 3 are cold
    # Counts 2 1 0 0: percentiles 7/8 5/8 1/4 1/4.
    assert result["popularity_percentile@20"] == pytest.approx((7 / 8 + 1 / 4 + 1 / 4) / 3)
    assert result["gini@20"] == pytest.approx(1 / 4)


def test_a_slice_without_users_says_so_and_no_more() -> None:
    task = make_task(log([(0, 0, 1, TRAIN), (1, 1, 1, TRAIN), (1, 0, 9, TEST)], num_videos=2), TEST)
    results = evaluate(scores_from(np.zeros((1, 2), np.float32)), task, EvaluationConfig(bootstrap_samples=10))
    assert results["cold_start"] == {"users": 0, "candidates": 0, "evaluated_on": "test"}
    nobody = make_task(log([(0, 0, 1, TRAIN)]), TEST)
    assert evaluate(scores_from(np.zeros((0, 6), np.float32)), nobody)["retrieval"]["users"] == 0


def test_a_slice_that_nobody_of_a_batch_asks_for():
    """The only relevant video is one of ten cold ones, in a catalogue large enough to be searched by blocks."""
    events = [(0, video, 1, TRAIN) for video in range(4990)] + [(1, 0, 1, TRAIN), (1, 4999, 2, VALIDATION)]
    task = make_task(log(events, 2, 5000), VALIDATION)
    results = evaluate(lambda positions: np.ones((len(positions), 5000), np.float32), task)
    assert results["warm"]["users"] == 0
    assert results["cold_start"]["recall@10"] == 1.0
