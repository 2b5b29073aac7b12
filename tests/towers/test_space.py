"""Where the parts of an embedding are, and what a block does to scores."""

import numpy as np
import tensorflow as tf

from tfrec.config import QueryConfig
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import FeatureColumns
from tfrec.towers.query import QueryTower
from tfrec.towers.space import Layout, Tables, embed_query


def test_parts():
    embeddings = np.arange(12, dtype=np.float32).reshape(2, 6)
    layout = Layout(2)
    np.testing.assert_array_equal(layout.block(embeddings), [[0, 1], [6, 7]])
    np.testing.assert_array_equal(layout.learned(embeddings), [[2, 3, 4, 5], [8, 9, 10, 11]])
    np.testing.assert_array_equal(layout.taste(embeddings), [[2, 3, 4], [8, 9, 10]])
    np.testing.assert_array_equal(layout.taste(tf.constant(embeddings)), layout.taste(embeddings))
    assert Layout().block(embeddings).shape == (2, 0)
    np.testing.assert_array_equal(Layout().taste(embeddings), embeddings[:, :5])


def test_scores_of_warm_videos_are_the_same_to_the_last_bit():
    draw = np.random.default_rng(0)
    queries = draw.normal(size=(33, 16 + 65)).astype(np.float32)
    videos = draw.normal(size=(200, 16 + 65)).astype(np.float32)
    warm = np.arange(200) < 150
    videos[warm, :16] = 0
    scores = Layout(16).scores(queries, videos)
    np.testing.assert_allclose(scores, queries @ videos.T, rtol=1e-4, atol=1e-4)
    alone = Layout().scores(queries[:, 16:], videos[:, 16:])
    np.testing.assert_array_equal(scores[:, warm], alone[:, warm])
    assert (scores[:, ~warm] != alone[:, ~warm]).all()


def test_a_shared_table_stays_shared():
    one, two, other = (np.full((1, 2), number, np.float32) for number in range(3))
    shared = Tables(one, one).with_videos(two)
    assert shared.history is shared.videos is two
    separate = Tables(one, other, Layout(1)).with_videos(two)
    assert separate.history is other
    assert separate.videos is two
    assert separate.layout == Layout(1)


def test_columns_are_put_before_all_others():
    one, two = np.ones((3, 2), np.float32), np.full((3, 1), 2, np.float32)
    tables = Tables(one, one).with_block(two, 2 * two).with_block(3 * two, 0 * two)
    np.testing.assert_array_equal(tables.videos, [[6, 2, 1, 1]] * 3)
    np.testing.assert_array_equal(tables.history, [[0, 4, 1, 1]] * 3)
    assert tables.layout == Layout(2)


def test_a_request_holds_the_mean_content_of_its_history():
    """Of those videos that have content; the towers see nothing of it."""
    tower = QueryTower(QueryConfig(encoder="mean", user_ids=False), 4, 1, FeatureColumns.none(), False, 0.0)
    history = tf.constant([[0, 1, 2], [1, -1, -1], [-1, -1, -1]])
    query = Query(
        user=tf.constant([0, 0, 0]),
        history=history,
        history_age=tf.zeros([3, 3]),
        history_kind=tf.zeros([3, 3], tf.int32),
        timestamp=tf.zeros([3], tf.int64),
    )
    table = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    table[2, :2] = 0
    events = tf.gather(table, tf.maximum(history, 0))
    embedded = embed_query(tower, query, events, Layout(2)).numpy()
    np.testing.assert_allclose(embedded[:, :2], [table[:2, :2].mean(axis=0), table[1, :2], [0, 0]], rtol=1e-6)
    learned = tower(query, events[..., 2:])
    np.testing.assert_array_equal(embedded[:, 2:], learned)
    np.testing.assert_array_equal(embed_query(tower, query, events[..., 2:], Layout()), learned)
