"""Candidate embeddings: id, content and side columns, summed."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tfrec.config import CandidateConfig
from tfrec.data.schema import CategoricalColumn, FeatureColumns
from tfrec.features.content import ContentFeatures, Modality
from tfrec.layers.graph import VideoGraph
from tfrec.towers.candidate import CandidateTower

DIM, NUM_VIDEOS = 4, 5
NO_CONTENT = ContentFeatures({}, {})
COLUMNS = FeatureColumns({"kind": CategoricalColumn(np.array([1, 2, 0, 1, 2], np.int32), ("a", "b"))}, {}, {})


VIEWING = np.array([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0]], np.float32)
GRAPH = VideoGraph(sparse.csr_matrix(VIEWING))


def make_tower(content=NO_CONTENT, columns=COLUMNS, propagate_over=None, **options) -> CandidateTower:
    config = CandidateConfig(adapter_units=3, **options)
    tower = CandidateTower(config, DIM, NUM_VIDEOS, content, columns, 0.0, propagate_over)
    tower(tf.constant([0]))
    draw = np.random.default_rng(0)
    for weight in tower.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    return tower


@pytest.fixture(scope="module")
def content() -> ContentFeatures:
    """Text of all videos but the last."""
    values = np.random.default_rng(2).normal(size=(NUM_VIDEOS, 3)).astype(np.float32)
    lengths = np.array([1, 1, 1, 1, 0], np.int32)
    return ContentFeatures({"text": Modality(values * lengths[:, None], lengths)}, {})


@pytest.fixture(scope="module")
def tower(content) -> CandidateTower:
    return make_tower(content)


def by_id(tower: CandidateTower) -> np.ndarray:
    return np.concatenate([tower.ids.embeddings, tower.appeal.embeddings], axis=1)


def test_sum_of_id_content_and_columns(tower, content):
    rows = tf.range(NUM_VIDEOS)
    kernel, bias = tower.from_content.get_weights()
    from_columns = tower.columns(rows) @ tower.from_columns.kernel
    expected = by_id(tower) + tower.content(rows) @ kernel + bias + from_columns
    np.testing.assert_allclose(tower(rows), expected, atol=1e-5)


def test_ids_alone():
    tower = make_tower(columns=FeatureColumns.none())
    np.testing.assert_allclose(tower(tf.constant([3, 1])), by_id(tower)[[3, 1]])
    np.testing.assert_array_equal(tower.embed_content(tf.constant([3, 1])), np.zeros((2, DIM)))


def test_content_can_be_left_out(content):
    tower = make_tower(content, use_content=False)
    np.testing.assert_allclose(tower(tf.range(NUM_VIDEOS)), by_id(tower))


def test_starts_from_popularity_with_embeddings_near_zero(content):
    fresh = CandidateTower(CandidateConfig(), DIM, NUM_VIDEOS, content, COLUMNS, dropout=0.0)
    embeddings = fresh(tf.range(NUM_VIDEOS)).numpy()
    assert 0 < np.abs(embeddings).max() < 0.1


def test_video_in_no_catalogue(tower, content):
    modality = content.modalities["text"]
    known = tower.embed_features(
        {"text": modality.values[:1]}, {"text": modality.lengths[:1]}, tower.embed_columns(tf.constant([0]))
    )
    np.testing.assert_allclose(known, tower.embed_content(tf.constant([0])), atol=1e-6)
    # Row 2 has no kind either.
    new = tower.embed_features({"text": modality.values[2:3]}, {"text": modality.lengths[2:3]})
    np.testing.assert_allclose(new, tower.embed_content(tf.constant([2])), atol=1e-6)


def test_id_dropout_hides_id_and_appeal_in_training_only():
    tower = make_tower(columns=FeatureColumns.none(), id_dropout=0.25)
    tower.show_id.generator.reset_from_seed(0)
    rows = np.tile(np.arange(NUM_VIDEOS), 800)
    shown = tower(tf.constant(rows, tf.int32), training=True).numpy()
    hidden = (shown == 0).all(axis=1)
    assert hidden.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(shown[~hidden], by_id(tower)[rows[~hidden]])
    assert (tower(tf.constant(rows, tf.int32)).numpy() != 0).all()


def hop() -> np.ndarray:
    """A' A, with A the viewing matrix over the roots of its row and column sums."""
    scaled = VIEWING / np.sqrt(VIEWING.sum(1, keepdims=True) * np.maximum(VIEWING.sum(0), 1))
    return scaled.T @ scaled


def test_lightgcn_propagates_ids_alone(content):
    tower = make_tower(content, propagate_over=GRAPH, graph="lightgcn", graph_layers=1)
    rows = np.array([4, 0], np.int32)
    tastes = ((np.eye(NUM_VIDEOS) + hop()) @ tower.ids.embeddings.numpy())[rows]
    by_id = np.concatenate([tastes, tower.appeal.embeddings.numpy()[rows]], axis=1)
    np.testing.assert_allclose(tower(rows), by_id + tower.embed_content(rows), atol=1e-5)
    features = tower.content.features(rows)
    np.testing.assert_allclose(
        tower.embed_content(rows), tower.embed_features(*features, tower.embed_columns(rows)), atol=1e-6
    )


def test_mmgcn_propagates_each_modality(content):
    tower = make_tower(content, FeatureColumns.none(), GRAPH, graph="mmgcn", graph_layers=1)
    text, lengths = content.modalities["text"].values, content.modalities["text"].lengths
    adapted = tower.content.towers["text"](text, lengths).numpy() * lengths[:, None]
    mapped = hop() @ adapted @ tower.content.convolutions["text"].maps[0].kernel.numpy()
    propagated = adapted + np.where(mapped > 0, mapped, 0.2 * mapped)
    fused = tower.content.fusion.fuse([(tf.constant(propagated, tf.float32), lengths[:, None].astype(np.float32))])
    rows = np.array([1, 4, 0], np.int32)
    np.testing.assert_allclose(tower.embed_content(rows), tower.from_content(fused).numpy()[rows], atol=1e-5)
    # A video that is in no catalogue has no neighbours, like video 3, which nobody has watched.
    new = tower.embed_features({"text": text[3:4]}, {"text": lengths[3:4]})
    np.testing.assert_allclose(new, tower.embed_content(tf.constant([3])), atol=1e-5)
    assert np.abs(tower.embed_content(rows) - tower.embed_features(*tower.content.features(rows))).max() > 0.01
