"""The two-tower model: its loss in NumPy, and what it learns."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.schema import Part
from tfrec.features.content import ContentFeatures
from tfrec.layers.pooling import MASKED
from tfrec.layers.sampled_softmax import positives_mask
from tfrec.models.retrieval import RetrievalModel, batch_candidates

NO_CONTENT = ContentFeatures({}, {})


def own_taste_share(dataset, scores: np.ndarray) -> float:
    """Share of a user's own kind among the four best warm videos that the user has not watched."""
    log = dataset.interactions
    rows, scores = log.rows(Part.TRAIN), scores.copy()
    scores[log.user[rows], log.video[rows]] = -np.inf
    scores[:, log.train_counts == 0] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :4]
    return float((best % 2 == np.arange(len(scores))[:, None] % 2).mean())


def query_all(model: RetrievalModel, dataset, users: np.ndarray) -> np.ndarray:
    log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 8)
    now = tf.fill([dataset.interactions.num_users], int(dataset.interactions.timestamp.max()))
    query = log.latest(tf.range(dataset.interactions.num_users), tf.cast(now, tf.int64))
    return model.embed_queries(query._replace(user=tf.constant(users, tf.int32)), model.embed_catalogue()).numpy()


def test_learns_tastes_that_popularity_does_not_know(dataset, retrieval):
    users = np.arange(dataset.interactions.num_users)
    published = retrieval.publish(retrieval.embed_catalogue(), int(dataset.interactions.timestamp.max()))
    popularity = np.tile(dataset.interactions.train_counts.astype(float), (len(users), 1))
    assert own_taste_share(dataset, popularity) < 0.6
    assert own_taste_share(dataset, query_all(retrieval, dataset, users) @ published.T) > 0.85
    # The history alone tells the taste of a user that the model has never seen.
    assert own_taste_share(dataset, query_all(retrieval, dataset, np.full(len(users), -1)) @ published.T) > 0.85


def test_cold_videos_are_placed_by_their_content(dataset, retrieval, kinds):
    users = np.arange(dataset.interactions.num_users)
    rows = tf.range(len(kinds))
    embeddings = retrieval.candidate_tower.embed_content(rows).numpy()
    scores = query_all(retrieval, dataset, users) @ embeddings.T
    cold = dataset.interactions.train_counts == 0
    own = users[:, None] % 2 == kinds
    assert scores[own & cold].mean() > scores[~own & cold].mean() + 0.5


@pytest.fixture
def calm() -> RetrievalConfig:
    """Nothing is random in training."""
    return RetrievalConfig(
        embedding_dim=4,
        query=QueryConfig(history_length=3, user_id_dropout=0.0),
        candidate=CandidateConfig(id_dropout=0.0),
        num_uniform_negatives=5,
        temperature=0.5,
        dropout=0.0,
        weight_decay=0.1,
        batch_size=16,
    )


def randomised(config, dataset, batches) -> RetrievalModel:
    model = RetrievalModel(config, dataset, NO_CONTENT, batches)
    model.compute_loss(next(iter(batches.epoch(0))))
    draw = np.random.default_rng(3)
    for weight in model.trainable_variables:
        weight.assign(draw.normal(scale=0.7, size=weight.shape))
    return model


def numpy_loss(model, batch, counts, num_uniform, corrected=True, temperature=0.5, weight_decay=0.1) -> float:
    query, targets = batch["query"], batch["video"].numpy()
    candidates = np.unique(np.concatenate([targets, batch["negatives"]]))
    table = model.candidate_tower(tf.range(model.num_videos)).numpy()
    watched = model.history_tower(tf.range(model.num_videos)).numpy()
    queries = model.query_tower(query, tf.gather(watched, tf.maximum(query.history, 0))).numpy()
    logits = queries @ table[candidates].T + model.appeal(query.timestamp, candidates.astype(np.int32)).numpy()
    logits /= temperature
    if corrected:
        share = (counts / counts.sum())[candidates]
        missed = (1 - share) ** len(targets) * (1 - 1 / (counts > 0).sum()) ** num_uniform
        logits -= np.log(1 - missed)
    losses = []
    for row, target, positives in zip(logits, targets, batch["positives"].numpy(), strict=True):
        others = np.isin(candidates, positives) & (candidates != target)
        assert others.any()
        kept = np.where(others, MASKED, row)
        losses.append(np.log(np.exp(kept - kept.max()).sum()) + kept.max() - kept[candidates == target][0])
    towers = {model.candidate_tower, model.history_tower, model.query_tower}
    tables = [tower.ids.embeddings for tower in towers]
    return float(np.mean(losses) + weight_decay * sum((table.numpy() ** 2).sum() / 2 for table in tables))


@pytest.mark.parametrize("corrected", [True, False])
def test_loss_equals_numpy(dataset, calm, corrected):
    batches = RetrievalBatches(dataset.interactions, 3, 16, 5, 0, seed=1)
    model = randomised(replace(calm, log_q_correction=corrected), dataset, batches)
    counts = dataset.interactions.train_counts
    for batch in list(batches.epoch(0))[:2]:
        expected = numpy_loss(model, batch, counts, 5, corrected)
        for training in (True, False):
            np.testing.assert_allclose(model.compute_loss(batch, training=training), expected, rtol=1e-3)


@pytest.mark.parametrize("graph", ["none", "lightgcn"])
def test_histories_may_have_a_tower_of_their_own(dataset, calm, graph):
    batches = RetrievalBatches(dataset.interactions, 3, 16, 5, 0, seed=1)
    candidate = replace(calm.candidate, separate_history=True, graph=graph)
    model = randomised(replace(calm, candidate=candidate), dataset, batches)
    batch = next(iter(batches.epoch(0)))
    expected = numpy_loss(model, batch, dataset.interactions.train_counts, 5)
    np.testing.assert_allclose(model.compute_loss(batch), expected, rtol=1e-3)
    embeddings = model.embed_catalogue()
    watched = model.history_embeddings(embeddings)
    assert np.abs(watched - embeddings).max() > 0.1
    events = tf.gather(watched, tf.maximum(batch["query"].history, 0))
    asked = model.query_tower(batch["query"], events)
    np.testing.assert_allclose(model.embed_queries(batch["query"], watched), asked, rtol=1e-3, atol=1e-4)


def test_one_table_where_histories_have_no_tower_of_their_own(retrieval):
    embeddings = retrieval.embed_catalogue()
    assert retrieval.history_embeddings(embeddings) is embeddings


def test_score_is_the_mean_of_the_ensemble(dataset, calm):
    batches = RetrievalBatches(dataset.interactions, 3, 16, 5, 0, seed=1)
    model = randomised(replace(calm, ensemble_size=3, log_q_correction=False, weight_decay=0.0), dataset, batches)
    batch = next(iter(batches.epoch(0)))
    candidates, targets = batch_candidates(batch)
    table = model.candidate_tower(tf.range(model.num_videos))
    queries = model.query_tower(batch["query"], tf.gather(table, tf.maximum(batch["query"].history, 0))).numpy()
    offered = tf.gather(table, candidates).numpy()
    appeal = model.appeal(batch["query"].timestamp, candidates).numpy() + offered[:, -1]
    members = [3 * queries[:, [member]] @ offered[:, [member]].T + appeal for member in range(3)]
    np.testing.assert_allclose(np.mean(members, axis=0), queries @ offered.T + appeal - offered[:, -1], atol=1e-4)
    losses = []
    for logits in members:
        scores = logits / 0.5 + positives_mask(candidates, batch["positives"], targets, model.num_videos)
        losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, scores))
    np.testing.assert_allclose(model.compute_loss(batch), np.mean(losses), rtol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_pairwise_loss(dataset, calm, masked):
    batches = RetrievalBatches(dataset.interactions, 3, 16, 5, 0, seed=1)
    config = replace(calm, loss="bpr", mask_positives=masked, log_q_correction=False, weight_decay=0.0)
    model = randomised(config, dataset, batches)
    batch = next(iter(batches.epoch(0)))
    candidates, targets = (values.numpy() for values in batch_candidates(batch))
    table = model.candidate_tower(tf.range(model.num_videos))
    queries = model.query_tower(batch["query"], tf.gather(table, tf.maximum(batch["query"].history, 0)))
    logits = (queries @ tf.transpose(tf.gather(table, candidates))).numpy()
    logits = (logits + model.appeal(batch["query"].timestamp, candidates).numpy()) / 0.5
    losses = []
    for row, target, positives in zip(logits, targets, batch["positives"].numpy(), strict=True):
        others = np.isin(candidates, positives) if masked else np.arange(len(row)) == target
        exists = row > MASKED / 2
        negatives = row[exists & ~others & (np.arange(len(row)) != target)]
        losses.append(np.log1p(np.exp(negatives - row[target])).mean())
    np.testing.assert_allclose(model.compute_loss(batch), np.mean(losses), rtol=1e-4)


def test_no_correction_where_every_warm_video_is_a_candidate(dataset, calm):
    batches = RetrievalBatches(dataset.interactions, 3, 16, 1000, 0, seed=1)
    model = randomised(replace(calm, num_uniform_negatives=1000), dataset, batches)
    batch = next(iter(batches.epoch(0)))
    expected = numpy_loss(model, batch, dataset.interactions.train_counts, 1000, corrected=False)
    np.testing.assert_allclose(model.compute_loss(batch), expected, rtol=1e-3)


def test_correction_follows_the_batch_at_hand(dataset, calm):
    """The cold-start head trains through the same loss with batches of another size."""
    model = randomised(calm, dataset, RetrievalBatches(dataset.interactions, 3, 16, 5, 0, seed=1))
    batch = next(iter(RetrievalBatches(dataset.interactions, 3, 4, 5, 0, seed=1).epoch(0)))
    expected = numpy_loss(model, batch, dataset.interactions.train_counts, 5)
    np.testing.assert_allclose(model.compute_loss(batch), expected, rtol=1e-3)


def test_candidates_are_distinct_and_targets_are_found():
    candidates, targets = batch_candidates({"video": tf.constant([7, 3, 7, 5]), "negatives": tf.constant([5, 1, 7])})
    assert candidates.numpy().tolist() == [7, 3, 5, 1]
    assert tf.gather(candidates, targets).numpy().tolist() == [7, 3, 7, 5]


def test_published_embeddings_carry_the_appeal_in_their_last_dimension(dataset, retrieval):
    now = int(dataset.interactions.timestamp.max())
    embeddings = retrieval.embed_catalogue()
    before = embeddings.copy()
    published = retrieval.publish(embeddings, now)
    np.testing.assert_array_equal(embeddings, before)
    np.testing.assert_array_equal(published[:, :-1], embeddings[:, :-1])
    appeal = retrieval.appeal.published(tf.range(len(embeddings)), now)
    np.testing.assert_allclose(published[:, -1] - embeddings[:, -1], appeal, atol=1e-5)
    # Queries are 1 there, so the inner product is the personal score plus the appeal.
    queries = query_all(retrieval, dataset, np.arange(dataset.interactions.num_users))
    np.testing.assert_allclose(queries @ published.T, queries @ embeddings.T + appeal, atol=1e-4)


def test_catalogue_is_embedded_in_batches(retrieval):
    np.testing.assert_allclose(retrieval.embed_catalogue(batch_size=7), retrieval.embed_catalogue(), atol=1e-6)


def test_ids_alone_without_times(make_interactions, make_dataset, calm):
    draw = np.random.default_rng(0)
    events = np.unique(np.stack([draw.integers(9, size=60), draw.integers(7, size=60), np.zeros(60, int)], 1), axis=0)
    dataset = make_dataset(make_interactions(events))
    batches = RetrievalBatches(dataset.interactions, 3, 8, 100, 0, seed=1)
    model = RetrievalModel(calm, dataset, NO_CONTENT, batches)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.05))
    losses = [model.fit(batches.epoch(epoch), verbose=0).history["loss"][-1] for epoch in range(6)]
    assert losses[-1] < losses[0]
    assert np.isfinite(model.publish(model.embed_catalogue(), 0)).all()


def test_alignment_is_added_with_its_weight(dataset, batches, content, retrieval_config):
    aligned = replace(retrieval_config, candidate=replace(retrieval_config.candidate, alignment_weight=0.5))
    model = RetrievalModel(aligned, dataset, content, batches)
    batch = next(iter(batches.epoch(0)))
    loss = float(model.compute_loss(batch))
    alignment = float(model.candidate_tower.content.alignment_loss(tf.unique(batch["video"])[0]))
    model.config = retrieval_config
    assert alignment > 0.1
    assert loss - float(model.compute_loss(batch)) == pytest.approx(0.5 * alignment, rel=1e-3)
