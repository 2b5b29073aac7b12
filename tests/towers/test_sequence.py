"""The tower that answers after each event; what it shares with the others is in `test_query.py`."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import SEQUENCE_ENCODERS, QueryConfig
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import FeatureColumns
from tfrec.towers.sequence import SequenceTower

DIM, LENGTH = 6, 5
VIDEOS = np.random.default_rng(5).normal(size=(10, DIM)).astype(np.float32)
TIMES = np.array([10.0, 11.0, 15.0, 15.5, 40.0, 41.0])
"""Days on which the five events were, and the request."""

EVENTS = [3, 1, 4, 1, 5]


ENCODERS = (*SEQUENCE_ENCODERS, "transformer with age bias")


def make_tower(name: str) -> SequenceTower:
    encoder = name.split()[0]
    config = QueryConfig(encoder=encoder, history_length=LENGTH, event_kinds=True, age_bias=name != encoder)
    tower = SequenceTower(config, DIM, 3, FeatureColumns.none(), dropout=0.0)
    tower(*ask(EVENTS))
    draw = np.random.default_rng(0)
    for weight in tower.trainable_variables:
        weight.assign(draw.normal(scale=0.5, size=weight.shape))
    return tower


def ask(videos: list[int], now: float | None = None, kinds: list[int] | None = None) -> tuple[Query, tf.Tensor]:
    """A request with the first events, made when the next one was; and what they are embedded as."""
    ages = (TIMES[len(videos)] if now is None else now) - TIMES[: len(videos)]
    query = Query(
        user=tf.constant([1]),
        timestamp=tf.zeros([1], tf.int64),
        history=tf.constant([videos], tf.int32),
        history_kind=tf.constant([kinds or [1] * len(videos)], tf.int32),
        history_age=tf.constant([ages], tf.float32),
    )
    return query, tf.gather(VIDEOS, query.history)


@pytest.fixture(scope="module")
def towers() -> dict[str, SequenceTower]:
    return {encoder: make_tower(encoder) for encoder in ENCODERS}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_step_answers_as_if_the_request_came_then(towers, encoder):
    steps = towers[encoder].every_step(*ask(EVENTS)).numpy()
    assert steps.shape == (1, 1 + LENGTH, DIM)
    np.testing.assert_array_equal(steps[:, :, -1], 1)
    for length in range(LENGTH + 1):
        np.testing.assert_allclose(towers[encoder](*ask(EVENTS[:length])), steps[:, length], atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_later_events_never_change_earlier_steps(towers, encoder):
    before = towers[encoder].every_step(*ask(EVENTS)).numpy()
    for place in range(LENGTH):
        videos, kinds = EVENTS.copy(), [1] * LENGTH
        videos[place], kinds[place] = 9, 5
        after = towers[encoder].every_step(*ask(videos, kinds=kinds)).numpy()
        np.testing.assert_array_equal(after[:, : place + 1], before[:, : place + 1])
        assert np.abs(after[:, place + 1] - before[:, place + 1]).max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_kind_of_an_event_counts_from_its_step_on(towers, encoder):
    clicked, liked = (towers[encoder].every_step(*ask(EVENTS, kinds=kinds)) for kinds in ([1] * 5, [1, 1, 5, 1, 1]))
    np.testing.assert_array_equal(clicked[:, :3], liked[:, :3])
    assert np.abs(clicked[:, 3:] - liked[:, 3:]).max(axis=(0, 2)).min() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_moment_of_the_request_counts_at_the_last_step_alone(towers, encoder):
    soon, late = (towers[encoder].every_step(*ask(EVENTS, now=now)).numpy() for now in (41, 400))
    np.testing.assert_allclose(soon[:, :-1], late[:, :-1], atol=1e-4)
    assert np.abs(soon[:, -1] - late[:, -1]).max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_who_asks_is_known_from_the_start(towers, encoder):
    query, events = ask(EVENTS)
    known = towers[encoder].every_step(query, events).numpy()
    unknown = towers[encoder].every_step(query._replace(user=tf.constant([-1])), events).numpy()
    assert np.abs(known[:, 0] - unknown[:, 0]).max() > 1e-3
