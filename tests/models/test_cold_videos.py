"""Head and content together: how they share a score, how much of each is chosen, and that warm videos feel nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import (
    CandidateConfig,
    ColdStartConfig,
    EvaluationConfig,
    QueryConfig,
    RankingConfig,
    RetrievalConfig,
    TrainConfig,
)
from tfrec.data.schema import Dataset, Interactions, Part
from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.cold_start import LEAST_LOG_VARIANCE, ColdStartModel
from tfrec.models.cold_videos import CONTENT_SHARES, ColdVideos
from tfrec.models.content_block import ContentBlock
from tfrec.models.linear_factors import Factors
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import Stages
from tfrec.run import RunFolder
from tfrec.towers.space import Layout, block_scale

SHARE, SCALE, LEVEL = 0.25, 3.0, -2.0
NUM_USERS, NUM_WARM, NUM_VIDEOS, NUM_KINDS = 60, 24, 96, 6


def make_stages(folder: Path, dataset: Dataset, content: ContentFeatures, resume: bool = False) -> Stages:
    config = TrainConfig(
        retrieval=RetrievalConfig(
            embedding_dim=8,
            query=QueryConfig(history_length=8),
            candidate=CandidateConfig(adapter_units=8),
            num_uniform_negatives=8,
            batch_size=64,
            steps_per_execution=1,
        ),
        cold_start=ColdStartConfig(hidden_units=8, batch_size=64, epochs=1),
        evaluation=EvaluationConfig(bootstrap_samples=2),
    )
    return Stages(config, RunFolder(folder, "the same", resume), dataset, content)


@pytest.fixture
def stages(tmp_path: Path, dataset: Dataset, content: ContentFeatures) -> Stages:
    return make_stages(tmp_path, dataset, content)


@pytest.fixture(scope="module")
def head(retrieval: RetrievalModel, content: ContentFeatures) -> ColdStartModel:
    tf.keras.utils.set_random_seed(0)
    head = ColdStartModel(ColdStartConfig(hidden_units=8), retrieval, content, retrieval.embed_catalogue(), 1)
    head.embed_videos(np.arange(2))
    draw = np.random.default_rng(0)
    for variable in (*head.moments.trainable_variables, *head.correction.trainable_variables):
        variable.assign(draw.normal(scale=0.5, size=variable.shape))
    return head


@pytest.fixture(scope="module")
def cold_videos(head: ColdStartModel, content: ContentFeatures) -> ColdVideos:
    return ColdVideos(head, ContentBlock(content, ["text"], 16), SHARE, SCALE, LEVEL)


def test_a_score_is_shared_by_head_and_cosine(cold_videos, head):
    rows = np.arange(24, 30)
    query = np.random.default_rng(1).normal(size=(3, 4 + 8)).astype(np.float32)
    learned, cosine = query[:, 4:] @ head.embed_videos(rows).T, query[:, :4] @ cold_videos.block.catalogue[rows].T
    expected = (1 - SHARE) * learned + SHARE * (SCALE * cosine + query[:, -1:] * LEVEL)
    assert cold_videos.layout == Layout(4)
    np.testing.assert_allclose(query @ cold_videos.embed_videos(rows).T, expected, rtol=1e-4, atol=1e-4)


def test_videos_in_no_catalogue_get_the_same(cold_videos, retrieval):
    rows = np.array([3, 27])
    features = retrieval.candidate_tower.content.features(tf.constant(rows, tf.int32))
    embeddings, log_variance = cold_videos.embed(*features)
    np.testing.assert_allclose(embeddings, cold_videos.embed_videos(rows), atol=1e-5)
    assert log_variance.shape == embeddings.shape == (2, 12)
    assert (log_variance.numpy()[:, :4] == LEAST_LOG_VARIANCE).all()


@pytest.mark.parametrize("with_block", [False, True])
def test_lengths_and_exploration(cold_videos, head, with_block):
    """Tastes are scaled; appeal rises by the mean deviation of the latent, whatever the share of content."""
    rows = np.arange(24, 30)
    plain = cold_videos if with_block else ColdVideos(head)
    changed = replace(plain, taste_scale=2.0, exploration_weight=0.5).embed_videos(rows)
    before, taste = plain.embed_videos(rows), slice(plain.layout.block_dim, -1)
    np.testing.assert_allclose(changed[:, taste], 2 * before[:, taste], rtol=1e-5)
    deviation = np.exp(0.5 * head.embed_rows(rows)[1]).mean(axis=1)
    np.testing.assert_allclose(changed[:, -1], before[:, -1] + 0.5 * deviation, rtol=1e-5, atol=1e-5)


def test_without_a_block_the_head_is_alone(head):
    alone, rows = ColdVideos(head), np.arange(24, 30)
    assert alone.layout == Layout()
    np.testing.assert_array_equal(alone.embed_videos(rows), head.embed_videos(rows))


def test_scale_makes_cosines_vary_as_much_as_scores():
    queries = np.array([[1, 0, 2], [0, 1, 4]], np.float32)  # two dimensions of content, one learned
    learned = np.array([[0], [3]], np.float32)  # scores 0, 6 and 0, 12: deviations 3 and 6
    directions = np.array([[1, 0], [0, 1]], np.float32)  # cosines 1, 0 and 0, 1: deviations 0.5
    assert block_scale(queries, learned, directions) == pytest.approx(4.5 / 0.5)
    assert block_scale(queries, learned, np.zeros((2, 2), np.float32)) == 1.0


def test_a_linear_model_says_nothing_of_cold_videos(cold_videos, head):
    """Its columns stand between the content and what was learned, and a cold video holds zeros in them."""
    rows = np.arange(24, 30)
    plain, beside = cold_videos.embed_videos(rows), replace(cold_videos, linear_dim=3).embed_videos(rows)
    np.testing.assert_array_equal(beside, np.insert(plain, [4] * 3, 0.0, axis=1))
    np.testing.assert_array_equal(ColdVideos(head, linear_dim=3).embed_videos(rows)[:, 3:], head.embed_videos(rows))


def test_content_and_a_linear_model_stand_side_by_side(stages, retrieval, dataset, cold_videos, monkeypatch):
    factors = Factors.fitted(dataset.interactions, 3)
    monkeypatch.setattr(retrieval, "linear", factors)
    beside = replace(cold_videos, linear_dim=3)
    tables = stages._unpublished(retrieval, beside, cold := np.flatnonzero(dataset.interactions.train_counts == 0))
    warm = np.setdiff1d(np.arange(len(tables.videos)), cold)
    assert tables.layout == beside.layout == Layout(4 + 3)
    assert not tables.videos[warm, :4].any()
    np.testing.assert_array_equal(tables.videos[warm, 4:7], factors.offered[warm])
    np.testing.assert_array_equal(tables.videos[cold], beside.embed_videos(cold))
    np.testing.assert_array_equal(tables.history[:, :4], cold_videos.block.catalogue)
    np.testing.assert_array_equal(tables.history[:, 4:7], factors.watched)
    np.testing.assert_array_equal(tables.history[warm, 7:], tables.videos[warm, 7:])


@pytest.fixture(scope="module")
def both(retrieval, dataset, content, cold_videos, tmp_path_factory):
    """Stages, and their tables without a head and with head and block."""
    stages = make_stages(tmp_path_factory.mktemp("run"), dataset, content)
    return stages, stages.embed_videos(retrieval, None), stages.embed_videos(retrieval, cold_videos)


def test_warm_videos_feel_nothing_of_head_and_block(both, retrieval, dataset):
    stages, without, with_block = both
    warm = dataset.interactions.train_counts > 0
    assert with_block.layout == Layout(4)
    np.testing.assert_array_equal(with_block.videos[warm, 4:], without.videos[warm])
    assert not with_block.videos[warm, :4].any()
    assert with_block.videos[~warm, :4].any(axis=1).all()
    task = stages.final_task()
    asked = [stages._embed(retrieval, stages.queries(task), tables) for tables in (without, with_block)]
    np.testing.assert_array_equal(asked[1][:, 4:], asked[0])
    scores = [tables.layout.scores(queries, tables.videos) for queries, tables in zip(asked, both[1:], strict=True)]
    np.testing.assert_array_equal(scores[1][:, warm], scores[0][:, warm])
    measured = [stages._evaluate(task, queries, tables) for queries, tables in zip(asked, both[1:], strict=True)]
    assert measured[0]["warm"] == measured[1]["warm"]
    assert (scores[1][:, ~warm] != scores[0][:, ~warm]).any()


def test_the_ranker_sees_of_the_block_what_it_adds_to_the_score(both, retrieval, dataset, batches):
    """The same weights answer the same for warm candidates, and something else for cold ones."""
    query = next(iter(batches.epoch(0)))["query"]
    candidates = tf.tile(tf.range(30)[None], [tf.size(query.user), 1])
    logits = []
    for tables in both[1:]:
        tf.keras.utils.set_random_seed(3)
        ranking = RankingModel(RankingConfig(hidden_units=[8]), dataset, retrieval, tables.videos, tables.history)
        events = tf.gather(ranking.video_embeddings, tf.maximum(query.history, 0))
        asked = retrieval.embed_queries(query, ranking.history_embeddings)
        logits.append(ranking.logits(query, asked, events, candidates).numpy())
        score = tf.matmul(asked, tables.videos, transpose_b=True)
        np.testing.assert_allclose(ranking._matches(query, asked, events, tf.gather(tables.videos, candidates))[0][:, 0],
                                   tf.reshape(score, [-1]), rtol=1e-3, atol=1e-3)  # fmt: skip
    np.testing.assert_array_equal(logits[0][:, :24], logits[1][:, :24])
    assert np.abs(logits[0][:, 24:] - logits[1][:, 24:]).max() > 1e-3


@pytest.fixture(scope="module")
def many_cold(make_interactions: Callable[..., Interactions], make_dataset: Callable[..., Dataset]) -> Dataset:
    """Every user watches videos of one of six kinds: warm ones in training, cold ones in the validation part."""
    draw, events, parts = np.random.default_rng(0), [], []
    for user in range(NUM_USERS):
        of_kind = np.arange(user % NUM_KINDS, NUM_VIDEOS, NUM_KINDS)
        for part, videos in (
            (Part.TRAIN, of_kind[of_kind < NUM_WARM]),
            (Part.VALIDATION, of_kind[of_kind >= NUM_WARM]),
        ):
            events += [(user, video, 0) for video in draw.choice(videos, 3, replace=False)]
            parts += [part] * 3
    return make_dataset(make_interactions(events, parts, num_videos=NUM_VIDEOS))


def kinds_and_noise(noise: float) -> ContentFeatures:
    draw = np.random.default_rng(1)
    kinds = np.eye(NUM_KINDS)[np.arange(NUM_VIDEOS) % NUM_KINDS]
    present = np.ones(NUM_VIDEOS, np.int32)
    modalities = {
        "noise": Modality(draw.normal(size=(NUM_VIDEOS, 8)).astype(np.float32), present),
        "kinds": Modality((kinds + noise * draw.normal(size=kinds.shape)).astype(np.float32), present),
    }
    return ContentFeatures(modalities, {})


def test_content_counts_where_it_finds_more_cold_videos(tmp_path, many_cold):
    """The head of a model that was not trained knows nothing, the kinds everything; noise is no help."""
    content = kinds_and_noise(0.1)
    stages = make_stages(tmp_path, many_cold, content)
    tf.keras.utils.set_random_seed(0)
    retrieval = RetrievalModel(stages.config.retrieval, many_cold, content, stages.retrieval_batches)
    cold_videos = stages.train_cold_start(retrieval)
    assert cold_videos.content_share in CONTENT_SHARES[1:]
    tables = stages.embed_videos(retrieval, cold_videos)
    task = stages.final_task()
    asked = stages._embed(retrieval, stages.queries(task), tables)
    found = stages._evaluate(task, asked, tables)["cold_start"]["recall@20"]
    assert found > 0.9
    # A run that is resumed chooses the same, without training.
    stages.run.close()
    resumed = make_stages(tmp_path, many_cold, content, resume=True)
    assert resumed.run.finished("cold_start")
    repeated = resumed.embed_videos(retrieval, resumed.train_cold_start(retrieval))
    np.testing.assert_array_equal(repeated.videos, tables.videos)


def test_no_block_where_it_finds_no_more(stages, retrieval):
    """All of the six cold videos are among the first twenty anyway."""
    assert stages.train_cold_start(retrieval).block is None


def test_warm_videos_are_taken_for_cold_where_too_few_users_tell(tmp_path_factory, stages, many_cold):
    """Each user's last event is to be found here: hardly a video is cold, so some of the warm ones stand in."""
    part = np.where(np.arange(len(many_cold.interactions.user)) % 6 == 5, Part.VALIDATION, Part.TRAIN).astype(np.int8)
    log = replace(many_cold.interactions, part=part)
    folder = tmp_path_factory.mktemp("other")
    task = make_stages(folder, replace(many_cold, interactions=log), kinds_and_noise(0.1))._cold_task()
    taken = task.train_counts == 0
    assert 2 <= taken.sum() <= 20  # a tenth of 96
    assert log.train_counts[taken].any()
    assert ((task.relevant @ taken) > 0).all()
    assert len(task) > 0
    real = stages._cold_task()
    np.testing.assert_array_equal(real.train_counts, stages.dataset.interactions.train_counts)
