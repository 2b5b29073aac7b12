"""What is made of requests, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec.export.request import RawFilters, RawRequest, Request, RequestParser, VideoIds, or_default

DAY = 86_400
LOG_END = 100 * DAY


def parse(
    history: list[list[str]],
    times: list[list[int]] | None = None,
    timestamp: list[int] | None = None,
    exclude: list[list[str]] | None = None,
    user: list[str] | None = None,
    length: int = 3,
    log_end: int = LOG_END,
    filters: RawFilters | None = None,
) -> Request:
    """Parses with the videos a to f (rows 0 to 5) and the users x and y."""
    videos = VideoIds(np.array(list("abcdef"), object))
    parser = RequestParser(np.array(["x", "y"], object), videos, length, log_end, min_safety=0.25)
    batch = len(history)
    shape = [batch, len(history[0]) if history else 0]
    raw = RawRequest(
        user_id=tf.constant(user or [""] * batch, tf.string, [batch]),
        history=tf.constant(history, tf.string, shape),
        history_timestamp=tf.constant(times if times is not None else np.zeros(shape), tf.int64, shape),
        timestamp=tf.constant(timestamp or [0] * batch, tf.int64, [batch]),
        exclude=tf.constant(exclude, tf.string) if exclude is not None else tf.constant([], tf.string, [batch, 0]),
        k=tf.constant([5] * batch, tf.int32, [batch]),
    )
    return parser.parse(raw, filters)


def test_known_videos_move_to_the_front_in_order() -> None:
    query = parse([["", "c", "?", "a", ""], ["b", "", "", "", "?"]]).query
    np.testing.assert_array_equal(query.history, [[2, 0], [1, -1]])
    np.testing.assert_array_equal(query.history_kind, [[1, 1], [1, 0]])


def test_the_last_known_events_are_kept() -> None:
    query = parse([["a", "b", "?", "c", "d", ""], ["e", "", "", "", "", ""]], length=2).query
    np.testing.assert_array_equal(query.history, [[2, 3], [4, -1]])


def test_repeated_events_stay() -> None:
    np.testing.assert_array_equal(parse([["a", "b", "a"]]).query.history, [[0, 1, 0]])


@pytest.mark.parametrize("history", [[[]], [["", ""]], [["?"]]])
def test_an_empty_history_is_one_column_of_padding(history: list[list[str]]) -> None:
    query = parse(history).query
    np.testing.assert_array_equal(query.history, [[-1]])
    np.testing.assert_array_equal(query.history_age, [[0]])


def test_an_empty_batch() -> None:
    request = parse([])
    assert request.query.history.shape[0] == request.filters.forbidden.shape[0] == 0
    assert request.filters.num_forbidden == 0


def test_users() -> None:
    np.testing.assert_array_equal(parse([["a"]] * 3, user=["y", "stranger", ""]).query.user, [1, -1, -1])


def test_ages_are_days_to_the_request_and_follow_their_events() -> None:
    query = parse([["?", "a", "b"]], [[1 * DAY, 4 * DAY, 9 * DAY]], [10 * DAY]).query
    np.testing.assert_allclose(query.history_age, [[6, 1]])
    np.testing.assert_array_equal(query.timestamp, [10 * DAY])


def test_an_event_of_unknown_time_and_one_of_the_future_have_no_age() -> None:
    query = parse([["a", "b", "c"]], [[4 * DAY, 0, 12 * DAY]], [10 * DAY]).query
    np.testing.assert_allclose(query.history_age, [[6, 0, 0]])


def test_a_request_of_unknown_time_is_made_at_the_latest_event() -> None:
    query = parse([["a", "b"], ["a", ""], ["", ""]], [[4 * DAY, 7 * DAY], [0, 0], [0, 0]]).query
    np.testing.assert_array_equal(query.timestamp, [7 * DAY, LOG_END, LOG_END])
    np.testing.assert_allclose(query.history_age, [[3, 0], [0, 0], [0, 0]])


def test_times_mean_nothing_to_a_model_without_times() -> None:
    query = parse([["a", "b"]], [[4 * DAY, 7 * DAY]], [10 * DAY], log_end=0).query
    np.testing.assert_array_equal(query.timestamp, [0])
    np.testing.assert_array_equal(query.history_age, [[0, 0]])


def test_all_that_was_watched_or_excluded_is_forbidden() -> None:
    filters = parse(
        [["a", "b", "c", "d", "a"], ["f", "", "", "", ""]], exclude=[["e", ""], ["?", ""]], length=2
    ).filters
    videos = tf.constant([[0, 1, 2, 3, 4, 5, -1]] * 2)
    np.testing.assert_array_equal(
        filters.forbid(videos), [[True, True, True, True, True, False, True], [False] * 5 + [True, True]]
    )
    assert filters.num_forbidden == 6


def test_filters() -> None:
    filters = RawFilters(
        allow=tf.constant([["c", "a", "", "c", "?"], ["", "", "", "", ""], ["?", "", "", "", ""]]),
        block=tf.constant([["f", "f"], ["?", ""], ["", ""]]),
        min_safety=tf.constant([0.5, -1.0, np.nan]),
    )
    request = parse([["b"], [""], [""]], filters=filters)
    assert request.allow is not None
    np.testing.assert_array_equal(request.allow.given, [True, False, True])
    assert [sorted(row[row >= 0]) for row in request.allow.rows.numpy()] == [[0, 2], [], []]
    assert sorted(request.filters.forbidden.numpy()[0])[-3:] == [1, 5, 5]
    np.testing.assert_allclose(request.filters.min_safety, [0.5, 0.25, np.inf])


def test_without_filters_those_of_the_export_hold() -> None:
    request = parse([["b"], [""]])
    assert request.allow is None
    np.testing.assert_allclose(request.filters.min_safety, [0.25, 0.25])


def test_defaults_stand_in_for_what_is_negative_or_no_number() -> None:
    weights = or_default(tf.constant([[-1.0, 0.0, np.nan, 3.0]]), [1.0, 2.0, 4.0, 5.0])
    np.testing.assert_array_equal(weights, [[1, 0, 4, 3]])
