"""Fixtures: a small platform with the real models, whose weights are random, exported once.

A `conftest.py` that imports them makes them known to its tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, ExportConfig, QueryConfig, RankingConfig, RetrievalConfig
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import (
    Catalog,
    CategoricalColumn,
    Dataset,
    FeatureColumns,
    Interactions,
    NumericColumn,
    Part,
    Users,
)
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.features.content import ContentFeatures
from tfrec.index.exact import ExactIndex
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel

NUM_USERS, NUM_VIDEOS, NUM_EVENTS = 30, 60, 600
DAY = 86_400


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Users with side columns and a log with times; the last ten videos are cold."""
    draw = np.random.default_rng(0)
    user = np.sort(draw.integers(NUM_USERS, size=NUM_EVENTS)).astype(np.int32)
    timestamp = 1_700_000_000 + draw.integers(30 * DAY, size=NUM_EVENTS)
    order = np.lexsort([timestamp, user])
    timestamp = timestamp[order].astype(np.int64)
    part = np.select([timestamp < 1_700_000_000 + 20 * DAY, timestamp < 1_700_000_000 + 25 * DAY], [0, 1], 2)
    video = draw.integers(np.where(part == Part.TRAIN, NUM_VIDEOS - 10, NUM_VIDEOS)).astype(np.int32)
    click = (draw.random(NUM_EVENTS) < 0.8).astype(np.int8)
    labels = {"click": click, "finish": click * (draw.random(NUM_EVENTS) < 0.5).astype(np.int8)}
    columns = FeatureColumns(
        {"gender": CategoricalColumn(draw.integers(3, size=NUM_USERS).astype(np.int32), ("f", "m"))}, {},
        {"age": NumericColumn(draw.normal(size=NUM_USERS).astype(np.float32), np.ones(NUM_USERS, bool), 0.0, 1.0)},
    )  # fmt: skip
    empty = np.full(NUM_VIDEOS, "", object)
    videos = Catalog(
        ids=np.array([f"视频 {row}" for row in range(NUM_VIDEOS)], object),
        titles=empty,
        texts=empty,
        created_at=1_700_000_000 + draw.integers(30 * DAY, size=NUM_VIDEOS),
        generate_method=None,
        gen_params=np.zeros((NUM_VIDEOS, 0), np.float32),
        prompts=empty,
        columns=FeatureColumns.none(),
        content={},
        media={},
    )
    users = Users(np.array([f"u{row}" for row in range(NUM_USERS)], object), columns)
    log = Interactions(user, video, timestamp, labels, part.astype(np.int8), NUM_USERS, NUM_VIDEOS)
    return Dataset("small", Path(), users, videos, log, {}, RejectLog())


@pytest.fixture(scope="session")
def retrieval(dataset: Dataset) -> RetrievalModel:
    config = RetrievalConfig(
        embedding_dim=8,
        query=QueryConfig(history_length=6),
        candidate=CandidateConfig(separate_history=True, graph="lightgcn"),
    )
    batches = RetrievalBatches(dataset.interactions, 6, 16, 16, 0, 1)
    model = RetrievalModel(config, dataset, ContentFeatures({}, {}), batches)
    model.compute_loss(next(iter(batches.epoch(0))))
    return randomise(model, 1)


@pytest.fixture(scope="session")
def model(dataset: Dataset, retrieval: RetrievalModel) -> ServingModel:
    return make_serving_model(dataset, retrieval)


def make_serving_model(dataset: Dataset, retrieval: RetrievalModel, content_dim: int = 0) -> ServingModel:
    """Six events of history, slates of up to 10 out of 20 candidates; the weights of the ranker are random.

    With a content block, cold videos and histories have random numbers in it.
    """
    learned, is_cold = retrieval.embed_catalogue(), dataset.interactions.train_counts == 0
    block = np.random.default_rng(3).normal(size=(NUM_VIDEOS, content_dim)).astype(np.float32)
    candidates = np.concatenate([block * is_cold[:, None], learned], axis=1)
    history = np.concatenate([block, retrieval.history_embeddings(learned)], axis=1)
    ranking = RankingModel(RankingConfig(hidden_units=[8]), dataset, retrieval, candidates, history)
    log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 6)
    query = log.latest(tf.constant([0, 1]), tf.constant([1, 1], tf.int64))
    events = tf.gather(ranking.video_embeddings, tf.maximum(query.history, 0))
    asked = retrieval.embed_queries(query, ranking.history_embeddings)
    ranking.probabilities(query, asked, events, tf.zeros([len(query.user), 2], tf.int32))
    randomise(ranking, 2, scale=0.1)
    return ServingModel(
        user_ids=dataset.users.ids,
        video_ids=dataset.videos.ids,
        query_tower=retrieval.query_tower,
        video_embeddings=ranking.video_embeddings,
        history_embeddings=ranking.history_embeddings,
        is_cold=is_cold,
        ranking=ranking,
        index=ExactIndex(ranking.video_embeddings.numpy()),
        history_length=6,
        log_end=int(dataset.interactions.timestamp.max()),
        temperature=0.5,
        config=ExportConfig(max_k=10, num_candidates=20, retrieval_exponent=0.5, max_similarity=1.0),
        layout=ranking.layout,
    )


@pytest.fixture(scope="session")
def recommender(model: ServingModel) -> Recommender:
    return Recommender(model)


@pytest.fixture(scope="session")
def saved(recommender: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "1"
    save_recommender(recommender, folder)
    return folder


@pytest.fixture(scope="session")
def loaded(saved: Path) -> Any:
    return tf.saved_model.load(str(saved))


def randomise(model: tf.keras.Model, seed: int, scale: float = 0.5) -> tf.keras.Model:
    """Gives a model random weights, and returns it."""
    draw = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(scale=scale, size=variable.shape))
    return model
