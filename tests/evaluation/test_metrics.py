"""Metrics against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

from tfrec.evaluation import metrics

# Two users, five videos: user 0 wants 1 and 4, user 1 wants 2, 3 and 0.
RELEVANT = sparse.csr_matrix(np.array([[0, 1, 0, 0, 1], [1, 0, 1, 1, 0]], np.float32))
TOP = np.array([[2, 1, 4], [3, 1, -1]], np.int32)
HITS = np.array([[False, True, True], [True, False, False]])
NUM_RELEVANT = np.array([2, 3])


def test_hits_are_slots_that_show_a_held_out_video() -> None:
    np.testing.assert_array_equal(metrics.hits(TOP, RELEVANT), HITS)


def test_an_empty_slot_is_no_hit_even_next_to_the_last_video_of_the_user_before() -> None:
    relevant = sparse.csr_matrix(np.array([[0, 1], [1, 0]], np.float32))
    np.testing.assert_array_equal(metrics.hits(np.array([[-1], [-1]]), relevant), [[False], [False]])


def test_recall_divides_by_all_that_was_held_out() -> None:
    np.testing.assert_allclose(metrics.recall(HITS, NUM_RELEVANT, 2), [1 / 2, 1 / 3])
    np.testing.assert_allclose(metrics.recall(HITS, NUM_RELEVANT, 3), [1, 1 / 3])


def test_ndcg_compares_with_the_best_slate_of_that_length() -> None:
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    np.testing.assert_allclose(
        metrics.ndcg(HITS, NUM_RELEVANT, 3),
        [(second + third) / (1 + second), 1 / (1 + second + third)],
    )
    np.testing.assert_allclose(metrics.ndcg(HITS, NUM_RELEVANT, 1), [0, 1])


def test_hit_rate_and_reciprocal_rank() -> None:
    np.testing.assert_array_equal(metrics.hit_rate(HITS, 1), [0, 1])
    np.testing.assert_array_equal(metrics.hit_rate(HITS, 2), [1, 1])
    np.testing.assert_allclose(metrics.reciprocal_rank(HITS), [1 / 2, 1])
    np.testing.assert_array_equal(metrics.reciprocal_rank(np.zeros((1, 3), bool)), [0])


def test_exposure_and_coverage_leave_empty_slots_out() -> None:
    shown = metrics.exposure(TOP, 5)
    np.testing.assert_array_equal(shown, [0, 2, 1, 1, 1])
    assert metrics.coverage(shown) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [([2, 2, 2, 2], 0.0), ([0, 0, 0, 8], 3 / 4), ([1, 3], 1 / 4)],  # the last: half the mean difference over the mean
)
def test_gini(shown: list[int], expected: float) -> None:
    assert metrics.gini(np.array(shown)) == pytest.approx(expected)


def test_popularity_percentile_weighs_by_slots() -> None:
    counts = np.array([5, 0, 0, 9])  # percentiles 5/8, 1/4, 1/4, 7/8
    assert metrics.popularity_percentile(np.array([1, 0, 1, 2]), counts) == pytest.approx(
        (5 / 8 + 1 / 4 + 2 * 7 / 8) / 4
    )
    assert metrics.popularity_percentile(np.ones(4), counts) == pytest.approx(0.5)


def test_bootstrap_interval_is_that_of_the_normal_law_for_many_users() -> None:
    values = np.random.default_rng(0).normal(size=(2000, 2)) * [1, 3]
    intervals = metrics.bootstrap_intervals(values, samples=1500, seed=1)
    half = 1.96 * values.std(axis=0) / math.sqrt(2000)
    np.testing.assert_allclose(intervals[:, 0], values.mean(axis=0) - half, atol=0.1 * half.max())
    np.testing.assert_allclose(intervals[:, 1], values.mean(axis=0) + half, atol=0.1 * half.max())


def test_bootstrap_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random((50, 1))
    first, again, other = (metrics.bootstrap_intervals(values, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_auc_counts_ordered_pairs_and_halves_ties() -> None:
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    assert metrics.auc(labels, scores) == pytest.approx(3.5 / 4)
    assert metrics.auc(np.ones(2, int), np.array([0.1, 0.2])) is None


def test_auc_interval_holds_the_auc_and_grows_when_users_repeat_themselves() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=400)
    scores = labels + generator.normal(size=400)
    alone = metrics.auc_interval(labels, scores, np.arange(400), 300, seed=0)
    repeated = metrics.auc_interval(np.tile(labels, 4), np.tile(scores, 4), np.tile(np.arange(400), 4), 300, seed=0)
    assert alone is not None
    assert alone[0] < metrics.auc(labels, scores) < alone[1]
    np.testing.assert_allclose(alone, repeated)  # the same 400 users, each said four times: no more is known


def test_auc_interval_of_a_perfect_order_is_a_point() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1] * 5)
    assert metrics.auc_interval(labels, labels.astype(float), np.arange(30), 50, seed=0) == [1, 1]


def test_calibration_error_of_two_bins() -> None:
    probabilities = np.array([0.1, 0.2, 0.7, 0.8])
    labels = np.array([0, 1, 1, 1])
    # Lower bin: predicted .15, observed .5; upper bin: predicted .75, observed 1.
    assert metrics.expected_calibration_error(labels, probabilities, bins=2) == pytest.approx((0.35 + 0.25) / 2)


def test_equal_predictions_are_judged_together() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    assert metrics.expected_calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0)
    assert metrics.reliability(labels, np.full(100, 0.5)) == [{"predicted": 0.5, "observed": 0.5, "events": 100}]


def test_bins_have_equal_mass() -> None:
    probabilities = np.random.default_rng(0).random(1500) ** 4
    events = [row["events"] for row in metrics.reliability(np.zeros(1500, int), probabilities, bins=15)]
    assert events == [100] * 15


def test_probability_metrics_leave_unknown_labels_out() -> None:
    result = metrics.probability_metrics(
        "like", np.array([1, -1, 0]), np.array([0.8, 0.1, 0.2], np.float32), np.array([0, 0, 1]), samples=20, seed=0
    )
    assert result["like_events"] == 2
    assert result["like_rate"] == 0.5
    assert result["like_auc"] == 1
    assert result["like_logloss"] == pytest.approx(-math.log(0.8))


def test_probability_metrics_without_a_known_label_say_so() -> None:
    assert metrics.probability_metrics("like", np.array([-1]), np.array([0.5]), np.array([0]), 10, 0) == {
        "like_events": 0
    }


def test_intra_list_similarity_is_the_mean_cosine_of_pairs() -> None:
    """The pairs of the first slate have cosines 0, .6 and .8; the second has one pair, the third none."""
    directions = np.array([[0, 0], [0, 1], [1, 0], [0.8, 0.6], [0.6, 0.8]], np.float16)
    top = np.array([[1, 2, 3], [3, 4, -1], [1, -1, -1]], np.int32)
    np.testing.assert_allclose(
        metrics.intra_list_similarity(top, directions), [(0 + 0.6 + 0.8) / 3, 0.96, 0], atol=1e-3
    )
