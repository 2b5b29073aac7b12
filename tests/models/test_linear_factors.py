"""Factors of EASE: with all of them its very scores, with few the nearest to them."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import RankingBatches
from tfrec.data.schema import Part
from tfrec.errors import TfrecError
from tfrec.evaluation.evaluate import positives_matrix
from tfrec.models import linear_factors
from tfrec.models.baselines import EASE, tuned
from tfrec.models.linear_factors import LinearFactors
from tfrec.models.ranking import RankingModel


@pytest.fixture(scope="module")
def truth(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Watched, and EASE's scores, of every user."""
    log = dataset.interactions
    train = positives_matrix(log, log.rows(Part.TRAIN))
    return train.toarray(), tuned("ease", train, None, 0)[0].scores(train)


def scores(factors: LinearFactors, watched: np.ndarray) -> np.ndarray:
    """Of all videos, for every row of bool `[U, num_videos]`, whose history is padded to 30."""
    history = np.full((len(watched), 30), -1, np.int32)
    for row, videos in enumerate(watched):
        found = np.flatnonzero(videos)
        history[row, : len(found)] = found
    everything = np.tile(np.arange(watched.shape[1], dtype=np.int32), (len(watched), 1))
    return factors(tf.constant(history), tf.constant(everything)).numpy()


def test_all_factors_are_ease_itself(dataset, truth):
    watched, expected = truth
    factors = LinearFactors.fitted(dataset.interactions, 40)
    np.testing.assert_allclose(scores(factors, watched), expected, atol=1e-4)
    cold = dataset.interactions.train_counts == 0
    assert not factors.offered.numpy()[cold].any()


def test_few_factors_are_the_nearest_of_their_rank(dataset, truth):
    watched, expected = truth
    answer = scores(LinearFactors.fitted(dataset.interactions, 3), watched)
    left, values, right = np.linalg.svd(expected)
    np.testing.assert_allclose(answer, (left[:, :3] * values[:3]) @ right[:3], atol=1e-3)


def test_the_ranker_takes_the_score_for_a_feature(dataset, retrieval):
    """What the towers cannot know: videos drawn as linear model and labels have it."""
    config = RankingConfig(hidden_units=[8], linear_dim=4, dropout=0.0, batch_size=64)
    events = np.flatnonzero(dataset.interactions.part == Part.VALIDATION)
    batch = next(iter(RankingBatches(dataset.interactions, events, (Part.TRAIN,), 8, 64, 4, seed=1).in_order()))
    model = RankingModel(config, dataset, retrieval, retrieval.embed_catalogue())
    model.compute_loss(batch)
    assert not {id(table) for table in model.linear.variables} & {id(table) for table in model.trainable_variables}
    kernel, bias = model.heads.get_weights()
    kernel[-1] = 2.0  # the last feature, whatever else is zero
    before = model._batch_logits(batch, False)
    model.heads.set_weights([kernel, bias])
    after = model._batch_logits(batch, False)
    mean, variance = model.normalise.moving_mean[-1], model.normalise.moving_variance[-1]
    expected = 2 * (model.linear(batch["query"].history, batch["candidates"]) - mean) / tf.sqrt(variance + 1e-3)
    np.testing.assert_allclose((after - before)[:, :, 0], expected, atol=1e-4)


def test_a_catalogue_too_large_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(linear_factors.EASE, "unavailable", lambda *_: "inverts too much")
    with pytest.raises(TfrecError, match=r"`ranking.linear_dim` inverts too much. Set it to 0."):
        LinearFactors.fitted(replace(dataset.interactions), 4)
    assert EASE.name == "ease"
