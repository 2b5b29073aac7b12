"""Which candidates fill the slots, worked by hand and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.export.slate import Likeness, Slate, SlotFiller

RIGHT, UP, BETWEEN = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def fill(
    directions: object, rows: object, score: object, k: list[int], diversity: float = 0.0, max_similarity: float = 0.95
) -> Slate:
    filler = SlotFiller(Likeness(tf.constant(directions, tf.float32)), 10, max_similarity)
    answer = tf.function(filler.fill, autograph=False)(
        tf.constant(rows, tf.int32), tf.constant(score), tf.constant(k), tf.fill([len(k)], diversity)
    )
    return Slate(*(part.numpy() for part in answer))


def test_by_score_alone() -> None:
    slate = fill([RIGHT, UP, BETWEEN], [[2, 0, 1, -1]], [[0.2, 0.9, 0.5, 0.0]], [2])
    assert slate.rows.tolist() == [[0, 1]]
    assert slate.places.tolist() == [[1, 2]]


def test_each_request_has_its_slots_and_what_is_left_is_empty() -> None:
    slate = fill([RIGHT, UP, BETWEEN], [[2, 0], [1, -1], [1, 0]], [[0.2, 0.9], [0.5, 0.0], [0.1, 0.3]], [3, 2, 0])
    assert slate.rows.tolist() == [[0, 2, -1], [1, -1, -1], [-1, -1, -1]]


def test_of_videos_nearly_the_same_one_is_shown() -> None:
    """Rows 0 and 1 are the same; the next best takes the slot, in a batch with a request that has no such pair."""
    slate = fill(
        [RIGHT, RIGHT, UP, BETWEEN], [[0, 1, 2, 3], [2, 3, 0, -1]], [[0.9, 0.8, 0.7, 0.6], [0.4, 0.3, 0.2, 0.0]], [3, 3]
    )
    assert slate.rows.tolist() == [[0, 2, 3], [2, 3, 0]]


def test_a_slot_stays_empty_rather_than_show_the_same_again() -> None:
    assert fill([RIGHT, RIGHT], [[0, 1]], [[0.9, 0.8]], [2]).rows.tolist() == [[0, -1]]
    assert fill([RIGHT, RIGHT], [[0, 1]], [[0.9, 0.8]], [2], max_similarity=1.0).rows.tolist() == [[0, 1]]


def test_a_video_without_direction_is_like_no_other() -> None:
    assert fill([[0.0, 0.0]] * 3, [[2, 1, 0]], [[3.0, 2.0, 1.0]], [3]).rows.tolist() == [[2, 1, 0]]


def test_diversity_takes_what_is_unlike_and_shows_by_score() -> None:
    """After row 0, row 2 is worth .5 * .8 - .5 * .6 = .1, row 1 .5 * .4 - 0 = .2, so row 1 is taken, and then row 2."""
    arguments = ([RIGHT, UP, BETWEEN], [[0, 2, 1]], [[1.0, 0.8, 0.4]])
    assert fill(*arguments, [2], diversity=0.5).rows.tolist() == [[0, 1]]
    assert fill(*arguments, [2], diversity=0.1).rows.tolist() == [[0, 2]]
    assert fill(*arguments, [3], diversity=0.5).rows.tolist() == [[0, 2, 1]]


def greedy(
    directions: NDArray[np.float32], rows: NDArray[np.int32], score: NDArray[np.float32], k: int, diversity: float
) -> list[int]:
    """Maximal marginal relevance, one candidate after the other."""
    taken: list[int] = []
    left = sorted((place for place in range(len(rows)) if rows[place] >= 0), key=lambda place: -score[place])
    best = max(score.max(), 1e-9)
    while left and len(taken) < k:
        likeness = {
            place: max([0.0, *(float(directions[rows[place]] @ directions[rows[other]]) for other in taken)])
            for place in left
        }
        left = [place for place in left if likeness[place] <= 0.95]
        if left:
            taken.append(
                max(left, key=lambda place: (1 - diversity) * score[place] / best - diversity * likeness[place])
            )
            left.remove(taken[-1])
    return [int(rows[place]) for place in sorted(taken, key=lambda place: -score[place])]


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_as_one_candidate_after_the_other(diversity: float) -> None:
    draw = np.random.default_rng(0)
    directions = draw.normal(size=(40, 4))
    directions[20:30] = directions[:10]
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    rows = np.stack([draw.permutation(40)[:25] for _ in range(12)]).astype(np.int32)
    rows[:, 20:] = np.where(draw.random((12, 5)) < 0.5, -1, rows[:, 20:])
    score = np.where(rows >= 0, draw.random((12, 25)), 0).astype(np.float32)
    k = draw.integers(0, 11, size=12)
    slate = fill(directions, rows, score, k.tolist(), diversity)
    for number in range(12):
        expected = greedy(directions, rows[number], score[number], k[number], diversity)
        assert [row for row in slate.rows[number] if row >= 0] == expected
        filled = slate.rows[number] >= 0
        np.testing.assert_array_equal(rows[number][slate.places[number][filled]], slate.rows[number][filled])
