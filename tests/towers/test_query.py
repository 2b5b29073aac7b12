"""The query tower with every history encoder."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import QueryConfig, QueryEncoder
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import FeatureColumns, NumericColumn
from tfrec.towers.query import HistoryEncoder, QueryTower, make_query_tower

DIM, LENGTH, NUM_USERS = 6, 4, 3
COLUMNS = FeatureColumns({}, {}, {"age": NumericColumn(np.array([-1.0, 0.0, 1.0], np.float32), np.ones(3, bool), 0, 1)})
ENCODERS = get_args(QueryEncoder)
VIDEOS = np.random.default_rng(5).normal(size=(10, DIM)).astype(np.float32)


def make_tower(ordered: bool = True, columns: FeatureColumns = COLUMNS, seed: int | None = 0, **options) -> QueryTower:
    """With random weights, or as training starts where `seed` is None."""
    config = QueryConfig(history_length=LENGTH, **options)
    tower = make_query_tower(config, DIM, NUM_USERS, columns, ordered, dropout=0.0)
    embed(tower, make_query([[1, 2]]))
    if seed is not None:
        draw = np.random.default_rng(seed)
        for weight in tower.trainable_variables:
            weight.assign(draw.normal(scale=0.5, size=weight.shape))
    return tower


def make_query(history, user=None, age=None, kind=None) -> Query:
    rows = np.array([videos + [-1] * (LENGTH - len(videos)) for videos in history], np.int32)
    ages = np.where(rows >= 0, np.arange(LENGTH, 0, -1) if age is None else age, 0)
    return Query(
        user=tf.constant([-1] * len(history) if user is None else user),
        timestamp=tf.zeros([len(history)], tf.int64),
        history=tf.constant(rows),
        history_kind=tf.constant(np.where(rows >= 0, 1 if kind is None else kind, 0), tf.int32),
        history_age=tf.constant(ages, tf.float32),
    )


def embed(tower: QueryTower, query: Query, videos: np.ndarray = VIDEOS, training: bool = False) -> np.ndarray:
    events = tf.gather(videos, tf.maximum(query.history, 0))
    return tower(query, events, training=training).numpy()


@pytest.fixture(scope="module")
def towers() -> dict[str, QueryTower]:
    return {encoder: make_tower(encoder=encoder) for encoder in ENCODERS}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_rows_of_a_batch_are_independent(towers, encoder):
    histories, users = [[1, 2, 3], [], [4, 5, 6, 7], [9]], [0, 2, -1, 1]
    together = embed(towers[encoder], make_query(histories, users))
    assert together.shape == (4, DIM)
    alone = [
        embed(towers[encoder], make_query([history], [user]))[0] for history, user in zip(histories, users, strict=True)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together[:, -1], 1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_is_ignored(towers, encoder):
    query = make_query([[1, 2, 3], [], [4]], [0, 1, 2])
    expected = embed(towers[encoder], query)
    changed = query._replace(
        history_age=tf.where(query.history < 0, 9.0, query.history_age),
        history_kind=tf.where(query.history < 0, 3, query.history_kind),
    )
    noise = VIDEOS.copy()
    noise[0] = 40  # what the padding gathers
    np.testing.assert_allclose(embed(towers[encoder], changed, noise), expected, atol=1e-5)
    wider = Query(
        query.user,
        query.timestamp,
        tf.pad(query.history, [[0, 0], [0, 3]], constant_values=-1),
        *(tf.pad(part, [[0, 0], [0, 3]]) for part in (query.history_kind, query.history_age)),
    )
    np.testing.assert_allclose(embed(towers[encoder], wider), expected, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_unknown_user_with_empty_history(towers, encoder):
    nobody, somebody = embed(towers[encoder], make_query([[], []], [-1, 1]))
    assert np.isfinite(nobody).all()
    assert np.abs(somebody - nobody).max() > 0.01


@pytest.mark.parametrize("encoder", ENCODERS)
def test_history_reaches_the_embedding(towers, encoder):
    first, second = embed(towers[encoder], make_query([[1, 2, 3], [1, 2, 8]]))
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("encoder", ENCODERS)
def test_appeal_of_watched_videos_is_no_taste(towers, encoder):
    query, popular = make_query([[1, 2, 3]]), VIDEOS.copy()
    popular[:, -1] += 5
    np.testing.assert_array_equal(embed(towers[encoder], query, popular), embed(towers[encoder], query))


@pytest.mark.parametrize("encoder", ["attention", "transformer", "gru", "lstm", "decay"])
def test_time_matters_where_there_is_time(towers, encoder):
    recent, old = (embed(towers[encoder], make_query([[1, 2, 3]], age=age)) for age in ([3, 2, 1, 0], [900, 50, 1, 0]))
    assert np.abs(recent - old).max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_time_a_history_is_a_set(encoder):
    tower = make_tower(ordered=False, encoder=encoder)
    set_, turned, aged = (
        embed(tower, make_query([history], age=age))
        for history, age in (([1, 2, 3], 0), ([3, 1, 2], 0), ([1, 2, 3], [90, 5, 1, 0]))
    )
    np.testing.assert_allclose(turned, set_, atol=1e-5)
    np.testing.assert_allclose(aged, set_, atol=1e-5)


def test_history_encoders_worked_by_hand():
    events = tf.constant([[[2.0, 0.0], [0.0, 4.0], [7.0, 7.0]]] * 2)
    mask = tf.constant([[True, True, False], [False] * 3])
    age = tf.constant([[3.0, 1.0, 0.0]] * 2)

    def pooled(encoder, **options):
        return HistoryEncoder(QueryConfig(encoder=encoder, **options), 2, ordered=True)(events, mask, age).numpy()

    root = np.sqrt(2)  # two events are more evidence than one
    np.testing.assert_allclose(pooled("mean"), [[1 * root, 2 * root], [0, 0]], rtol=1e-5)
    decayed = [2 * (1 / 3) * root, 4 * (2 / 3) * root]  # the older is one half-life behind
    np.testing.assert_allclose(pooled("decay", half_life_days=2), [decayed, [0, 0]], rtol=1e-4)
    np.testing.assert_array_equal(pooled("attention")[1], [0, 0])


def test_training_starts_at_the_mean_of_the_history():
    tower = make_tower(seed=None, encoder="mean")
    expected = VIDEOS[[1, 2, 3], :-1].mean(axis=0) * np.sqrt(3)
    np.testing.assert_allclose(embed(tower, make_query([[1, 2, 3]], [2])), [[*expected, 1]], rtol=1e-5)


def test_user_ids_can_be_left_out():
    tower = make_tower(columns=FeatureColumns.none(), user_ids=False)
    first, second, unknown = embed(tower, make_query([[1, 2]] * 3, [0, 1, -1]))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, unknown)


def test_user_id_dropout_makes_users_unknown():
    tower = make_tower(columns=FeatureColumns.none(), user_id_dropout=0.25)
    tower.show_id.generator.reset_from_seed(0)
    known, unknown = embed(tower, make_query([[1, 2]] * 2, [1, -1]))
    assert np.abs(known - unknown).max() > 0.1
    trained = embed(tower, make_query([[1, 2]] * 2000, [1] * 2000), training=True)
    hidden = np.isclose(trained, unknown, atol=1e-4).all(axis=1)
    assert hidden.mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(trained[~hidden], np.broadcast_to(known, trained[~hidden].shape), atol=1e-4)


def test_event_kinds_count_where_they_are_asked_for():
    for event_kinds in (True, False):
        tower = make_tower(event_kinds=event_kinds)
        clicked, liked = (embed(tower, make_query([[1, 2]], kind=kind)) for kind in (1, 5))
        assert (np.abs(clicked - liked).max() > 1e-3) == event_kinds


def test_without_network_the_query_is_the_pooled_history():
    tower = make_tower(encoder="mean", user_ids=False, network=False)
    (everybody,) = tower.trainable_variables
    pooled = VIDEOS[[1, 2]].sum(axis=0)[:-1] / np.sqrt(2)  # the mean times the root of the number
    expected = np.stack([pooled + everybody, everybody])
    np.testing.assert_allclose(embed(tower, make_query([[1, 2], []]))[:, :-1], expected, atol=1e-5)


def test_dropout_of_the_query_spares_the_constant():
    tower = make_tower(encoder="mean", dropout=0.5)
    query = make_query([[1, 2]] * 400)
    calm, shaken = embed(tower, query), embed(tower, query, training=True)
    np.testing.assert_array_equal(shaken[:, -1], 1.0)
    dropped = shaken[:, :-1] == 0
    assert dropped.mean() == pytest.approx(0.5, abs=0.05)
    # User ids are hidden only where there are any, so what is kept is what it was, scaled up.
    np.testing.assert_allclose(shaken[:, :-1][~dropped], 2 * calm[:, :-1][~dropped], rtol=1e-4)
