"""Factors of linear models: with all of them their very scores, with few the nearest to them; and the ranker that takes them."""

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
from tfrec.models.baselines import EASE, ItemKNN, tuned
from tfrec.models.linear_factors import Factors, LinearFactors, linear_models
from tfrec.models.ranking import RankingModel


@pytest.fixture(scope="module")
def truth(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Watched, and EASE's scores, of every user; the scores of warm videos have mean square 1."""
    log = dataset.interactions
    train = positives_matrix(log, log.rows(Part.TRAIN))
    expected = tuned("ease", train, None, 0)[0].scores(train)
    return train.toarray(), expected / np.sqrt(np.mean(expected[:, log.train_counts > 0] ** 2))


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
    factors = LinearFactors(Factors.fitted(dataset.interactions, 40))
    np.testing.assert_allclose(scores(factors, watched), expected, atol=1e-4)
    cold = dataset.interactions.train_counts == 0
    assert not factors.offered.numpy()[cold].any()


def test_every_setting_of_every_linear_model_is_one_to_choose(dataset):
    log = dataset.interactions
    train = positives_matrix(log, log.rows(Part.TRAIN))
    found = linear_models(log, 40)
    assert list(found) == [
        *("ease, l2 50", "ease, l2 200", "ease, l2 800"),
        *(f"item_knn, neighbours {count}" for count in (10, 20, 50, 200)),
    ]
    expected = ItemKNN(10).fit(train, None, 0).scores(train)
    expected /= np.sqrt(np.mean(expected[:, log.train_counts > 0] ** 2))
    answer = scores(LinearFactors(found["item_knn, neighbours 10"]), train.toarray())
    np.testing.assert_allclose(answer, expected, atol=1e-4)


def test_few_factors_are_the_nearest_of_their_rank(dataset, truth):
    watched, expected = truth
    answer = scores(LinearFactors(Factors.fitted(dataset.interactions, 3)), watched)
    left, values, right = np.linalg.svd(expected)
    np.testing.assert_allclose(answer, (left[:, :3] * values[:3]) @ right[:3], atol=1e-3)


@pytest.mark.parametrize("network", [True, False])
def test_the_ranker_starts_at_the_sum_of_both_scores(dataset, retrieval, network):
    config = RankingConfig(network=network, hidden_units=[8], linear_dim=4, dropout=0.0, batch_size=64)
    events = np.flatnonzero(dataset.interactions.part == Part.VALIDATION)
    batch = next(iter(RankingBatches(dataset.interactions, events, (Part.TRAIN,), 8, 64, 4, seed=1).in_order()))
    catalogue = retrieval.embed_catalogue()
    model = RankingModel(config, dataset, retrieval, catalogue)
    model.compute_loss(batch)
    assert not {id(table) for table in model.linear.variables} & {id(table) for table in model.trainable_variables}
    # Without a network: two weights, twice, and a bias per label, and scale and shift of the normalisation.
    assert network or sum(int(tf.size(table)) for table in model.trainable_variables) == 5 * len(model.labels) + 4
    query, candidates = batch["query"], batch["candidates"]
    asked = retrieval.embed_queries(query, model.history_embeddings).numpy()
    towers = np.einsum("bd,bcd->bc", asked, catalogue[candidates.numpy()])
    expected = towers + model.linear(query.history, candidates).numpy()
    # The moving averages are 0 and 1 as yet, and the normalisation adds 0.001 to the variance.
    np.testing.assert_allclose(model._batch_logits(batch, False)[:, :, 0], expected / np.sqrt(1.001), atol=1e-4)


def test_a_catalogue_too_large_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(linear_factors.EASE, "unavailable", lambda *_: "inverts too much")
    with pytest.raises(TfrecError, match=r"`linear_dim` inverts too much. Set it to 0."):
        Factors.fitted(replace(dataset.interactions), 4)
    assert EASE.name == "ease"
