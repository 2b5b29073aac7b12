"""What stands beside the learned score: how much of it is chosen, and that scores are then the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import ColdStartConfig, EvaluationConfig, QueryConfig, RetrievalConfig, TrainConfig
from tfrec.data.schema import Dataset, Interactions, Part
from tfrec.features.content import ContentFeatures
from tfrec.models.baselines import tuned
from tfrec.models.linear_factors import Factors
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import LINEAR_WEIGHTS, Stages
from tfrec.run import RunFolder
from tfrec.towers.space import Layout

NUM_USERS, NUM_VIDEOS, NUM_KINDS, DIM = 60, 120, 4, 8


@pytest.fixture(scope="module")
def kinds(make_interactions: Callable[..., Interactions], make_dataset: Callable[..., Dataset]) -> Dataset:
    """Every user watches videos of one of four kinds, ten in training and five in the validation part."""
    draw, events, parts = np.random.default_rng(0), [], []
    for user in range(NUM_USERS):
        of_kind = np.arange(user % NUM_KINDS, NUM_VIDEOS, NUM_KINDS)
        events += [(user, video, 1000 * step) for step, video in enumerate(draw.choice(of_kind, 15, replace=False))]
        parts += [Part.TRAIN] * 10 + [Part.VALIDATION] * 5
    return make_dataset(make_interactions(events, parts, num_videos=NUM_VIDEOS))


@pytest.fixture(scope="module")
def stages(kinds: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    config = TrainConfig(
        retrieval=RetrievalConfig(
            embedding_dim=DIM,
            linear_dim=NUM_VIDEOS,
            query=QueryConfig(history_length=10),
            num_uniform_negatives=8,
            batch_size=64,
        ),
        cold_start=ColdStartConfig(enabled=False),
        evaluation=EvaluationConfig(bootstrap_samples=1),
    )
    return Stages(config, RunFolder(tmp_path_factory.mktemp("run"), "any", False), kinds, ContentFeatures({}, {}))


@pytest.fixture
def untrained(stages: Stages, kinds: Dataset) -> RetrievalModel:
    tf.keras.utils.set_random_seed(0)
    model = RetrievalModel(stages.config.retrieval, kinds, stages.content, stages.retrieval_batches)
    draw = np.random.default_rng(1)
    model.embed_catalogue()
    model.candidate_tower.ids.embeddings.assign(draw.normal(size=(NUM_VIDEOS, DIM - 1)))
    return model


def scores(stages: Stages, retrieval: RetrievalModel) -> tuple[np.ndarray, Layout]:
    """Of the final part's requests."""
    tables = stages.embed_videos(retrieval, None)
    return stages._embed(retrieval, stages.queries(stages.final_task()), tables) @ tables.videos.T, tables.layout


def test_scores_are_the_sum_of_what_was_learned_and_what_was_chosen(stages, untrained, kinds):
    """Towers that know nothing, and linear models that know nothing, or who watches what: of the sum the last decides."""
    task = stages.final_task()
    learned, _ = scores(stages, untrained)
    before = stages._evaluate(task, *embedded(stages, untrained))["retrieval"]["recall@20"]
    ease = Factors.fitted(kinds.interactions, NUM_VIDEOS, stages.config.seed)
    noise = Factors(*np.random.default_rng(2).normal(size=(2, NUM_VIDEOS, NUM_VIDEOS)).astype(np.float32))
    blended = stages._blended(untrained, {"noise": noise, "ease": ease, "more noise": noise})
    recency = blended.appeal.recency
    answer, layout = scores(stages, blended)
    warm = kinds.interactions.train_counts > 0
    assert layout == Layout(int(warm.sum()))
    ease = tuned("ease", task.seen, None, stages.config.seed)[0].scores(task.seen) / 10  # every history has ten videos
    rest = answer - learned - recency * blended.appeal.recent()
    unit = learned[:, warm].std(axis=1).mean() / ease[:, warm].std(axis=1).mean()
    weight = np.sum(rest * ease) / np.sum(ease * ease) / unit
    np.testing.assert_allclose(rest, weight * unit * ease, atol=1e-3)
    assert min(abs(weight - tried) for tried in LINEAR_WEIGHTS) < 0.1
    after = stages._evaluate(task, *embedded(stages, blended))["retrieval"]["recall@20"]
    assert after > before + 0.2


def embedded(stages: Stages, retrieval: RetrievalModel) -> tuple:
    tables = stages.embed_videos(retrieval, None)
    return stages._embed(retrieval, stages.queries(stages.final_task()), tables), tables


def test_what_finds_no_more_is_left_out(stages, untrained, monkeypatch):
    monkeypatch.setattr(Stages, "_recall", lambda *_: 0.5)
    learned, _ = scores(stages, untrained)
    blended = stages._blended(untrained, stages._linear_models())
    assert blended.linear is None
    assert blended.appeal.recency == 0.0
    answer, layout = scores(stages, blended)
    assert layout == Layout()
    np.testing.assert_array_equal(answer, learned)


@pytest.mark.parametrize(
    ("trends", "sign", "chosen"), [(True, 1, 2.0), (True, -1, 0.0), (False, 1, 0.0), (False, -1, -0.5), (False, 0, 0.0)]
)
def test_where_there_is_no_lately_popularity_may_count_less(stages, kinds, monkeypatch, trends, sign, chosen):
    """What is published rises or sinks with the counts; more is found by one or by the other, or nothing changes."""
    monkeypatch.setattr(
        Stages, "_recall", lambda _, task, asked, tables, block: sign * float(tables.videos[:, -1].sum())
    )
    config = replace(stages.config.retrieval, trends=trends)
    retrieval = RetrievalModel(config, kinds, stages.content, stages.retrieval_batches)
    counts = np.log1p(kinds.interactions.train_counts)
    blended = stages._blended(retrieval, {})
    assert blended.appeal.recency == chosen
    published = blended.publish(np.zeros((NUM_VIDEOS, DIM), np.float32), 0)[:, -1]
    if not trends:
        np.testing.assert_allclose(published, (1 + chosen) * counts, rtol=1e-3)
