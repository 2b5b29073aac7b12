"""Trend, freshness and existence on a log of three videos, worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.data.schema import Part
from tfrec.layers.pooling import MASKED
from tfrec.towers.appeal import Appeal

START = 1_700_000_000
DAY = 86_400
VIDEOS = tf.constant([0, 1, 2])

EVENTS = [(0, 0, START), (0, 0, START + 150), (0, 1, START + 250), (0, 2, START + 6400)]
"""Over 64 periods of 100 seconds: video 0 in the first two, video 1 in the third, video 2 in the last."""


@pytest.fixture
def interactions(make_interactions):
    return make_interactions(EVENTS)


def appeal_at(layer: Appeal, *seconds: int) -> np.ndarray:
    return layer(tf.constant([START + second for second in seconds], tf.int64), VIDEOS).numpy()


def test_counts_before_the_period_and_mask_of_what_did_not_exist(interactions):
    layer = Appeal(interactions, np.zeros(3, np.int64))
    expected = [
        [0, MASKED, MASKED],
        [np.log(2), MASKED, MASKED],
        [np.log(3), 0, MASKED],
        [np.log(3), np.log(2), MASKED],
        [np.log(3), np.log(2), 0],
    ]
    np.testing.assert_allclose(appeal_at(layer, 0, 150, 250, 350, 6400), expected, rtol=1e-3)


def test_times_after_the_training_part_count_as_its_last_period(interactions):
    layer = Appeal(interactions, np.zeros(3, np.int64))
    np.testing.assert_array_equal(appeal_at(layer, 99_999), appeal_at(layer, 6400))


def test_decayed_counts(interactions):
    layer = Appeal(interactions, np.zeros(3, np.int64))
    layer.trend_weights.assign([0, 1, 0])  # half-life of 64 / 8 periods
    # In the tenth period, the watches of video 0 are 8 and 7 periods old, that of video 1 is 6 old.
    expected = np.log1p([0.5 + 0.5 ** (7 / 8), 0.5 ** (6 / 8)])
    np.testing.assert_allclose(appeal_at(layer, 950)[0, :2], expected, rtol=1e-3)
    layer.trend_weights.assign([0, 0, 1])  # of 64 / 40
    np.testing.assert_allclose(appeal_at(layer, 550)[0, 1], np.log1p(0.5 ** (2 / 1.6)), rtol=1e-3)


def test_published_counts_the_whole_training_part(interactions):
    layer = Appeal(interactions, np.zeros(3, np.int64))
    np.testing.assert_allclose(layer.published(VIDEOS, START + 9999), np.log([3, 2, 2]), rtol=1e-3)


def test_recency_counts_once_the_log_has_ended(interactions):
    """The watches of video 0 are 63 and 62 periods old then, that of video 1 is 61, that of video 2 none; 8 halve them."""
    layer = Appeal(interactions, np.zeros(3, np.int64))
    at_events = appeal_at(layer, 950)
    expected = np.log1p([0.5 ** (63 / 8) + 0.5 ** (62 / 8), 0.5 ** (61 / 8), 1])
    np.testing.assert_allclose(layer.recent(), expected, rtol=1e-3)
    layer.recency = 2.0
    np.testing.assert_allclose(
        layer.published(VIDEOS, START + 9999), np.log([3, 2, 2]) + 2 * expected, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(appeal_at(layer, 950), at_events)


def test_where_appeal_is_the_same_at_all_times_recency_counts_all_events_once_trained(interactions):
    layer = Appeal(interactions, np.zeros(3, np.int64), trends=False)
    np.testing.assert_allclose(layer.recent(), np.log([3, 2, 2]), rtol=1e-3)
    layer.recency = -0.25
    np.testing.assert_allclose(layer.published(VIDEOS, 0), 0.75 * np.log([3, 2, 2]), rtol=1e-3)
    np.testing.assert_allclose(appeal_at(layer, 950)[0], np.log([3, 2, 2]), rtol=1e-3)


def test_later_events_do_not_leak(make_interactions):
    later = [(1, video, START + second) for video in range(3) for second in range(1001, 6400, 300)]
    lean, rich = (Appeal(make_interactions(events), np.zeros(3, np.int64)) for events in (EVENTS, EVENTS + later))
    for layer in (lean, rich):
        layer.trend_weights.assign([1, 1, 1])
    early = range(0, 1001, 50)
    np.testing.assert_array_equal(appeal_at(rich, *early), appeal_at(lean, *early))
    assert (appeal_at(rich, 3000) != appeal_at(lean, 3000)).any()


def test_only_the_training_part_counts(make_interactions, interactions):
    extra = [(1, 0, START - 500), (1, 2, START + 50), (1, 1, START + 9000)]
    parts = [Part.TRAIN] * 4 + [Part.VALIDATION] * 2 + [Part.TEST]
    layers = [Appeal(log, np.zeros(3, np.int64)) for log in (interactions, make_interactions(EVENTS + extra, parts))]
    results = [appeal_at(layer, 0, 150, 350, 6400) for layer in layers]
    np.testing.assert_array_equal(results[0], results[1])


def test_created_videos_exist_before_their_first_watch(interactions):
    # Video 1 was created before it was watched; video 2 was watched before its (wrong) date of creation.
    layer = Appeal(interactions, np.array([0, START + 120, START + 99_999]))
    exists = appeal_at(layer, 50, 150, 250, 6350) > MASKED / 2
    assert exists.tolist() == [[True, False, False], [True, True, False], [True, True, False], [True, True, True]]


def test_freshness(interactions):
    created = np.array([START - 3 * DAY, 0, START - 300 * DAY])
    layer = Appeal(interactions, created)
    layer.published(VIDEOS, START)
    layer.trend_weights.assign([0, 0, 0])
    kernel = np.random.default_rng(0).normal(size=(16, 1)).astype(np.float32)
    layer.freshness.projection.kernel.assign(kernel)

    def fresh(days: float) -> float:
        position = np.log1p(days * 1440) / 15.5
        return float(np.exp(-(((position - np.linspace(0, 1, 16)) * 16) ** 2)) @ kernel[:, 0])

    published = layer.published(VIDEOS, START + 10 * DAY)
    np.testing.assert_allclose(published, [fresh(13), 0, fresh(310)], rtol=1e-3)
    created = tf.constant([START - 3 * DAY, 0, START + 11 * DAY], tf.int64)
    new = layer.of_unwatched(created, START + 10 * DAY)
    np.testing.assert_allclose(new, [fresh(13), 0, fresh(0)], rtol=1e-3)
    # During training, the age at the end of the period counts.
    at_end = [fresh(3 + 1000 / DAY), 0, fresh(300 + 1000 / DAY)]
    np.testing.assert_allclose(appeal_at(layer, 950)[0], at_end, rtol=1e-3)


def test_log_without_times(make_interactions):
    layer = Appeal(make_interactions([(0, 0, 0), (1, 0, 0), (1, 2, 0)]), np.zeros(3, np.int64))
    expected = np.log([3, 1, 2])
    np.testing.assert_allclose(layer(tf.zeros([4], tf.int64), VIDEOS), [expected], rtol=1e-3)
    np.testing.assert_allclose(layer.published(VIDEOS, 0), expected, rtol=1e-3)
