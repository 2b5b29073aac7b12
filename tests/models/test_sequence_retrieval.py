"""Learning from every step: the loss in NumPy, what it learns, and that a killed run continues as it would have."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.schema import Part
from tfrec.data.sequences import SequenceBatches
from tfrec.features.content import ContentFeatures
from tfrec.models.sequence_retrieval import SequenceRetrievalModel
from tfrec.models.training import Objective, fit

LENGTH, BATCH, ALL = 8, 16, 100
WEIGHT = "model/candidate_tower/ids/embeddings/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def config() -> RetrievalConfig:
    """Nothing is random in training."""
    return RetrievalConfig(
        embedding_dim=4,
        query=QueryConfig(encoder="transformer", history_length=LENGTH, hidden_units=8, user_id_dropout=0.0),
        candidate=CandidateConfig(id_dropout=0.0),
        training="sequences",
        num_uniform_negatives=ALL,
        temperature=0.5,
        dropout=0.0,
        batch_size=BATCH,
    )


def streams(dataset, config: RetrievalConfig) -> tuple[RetrievalBatches, SequenceBatches]:
    log, negatives = dataset.interactions, config.num_uniform_negatives
    return RetrievalBatches(log, LENGTH, 16, negatives, 0, 1), SequenceBatches(log, LENGTH, BATCH, negatives, 1)


def make_model(dataset, config: RetrievalConfig, random: bool = True) -> SequenceRetrievalModel:
    events, sequences = streams(dataset, config)
    model = SequenceRetrievalModel(config, dataset, ContentFeatures({}, {}), events)
    model.compute_loss(next(iter(sequences.epoch(0))))
    draw = np.random.default_rng(3)
    for weight in model.trainable_variables if random else []:
        weight.assign(draw.normal(scale=0.5, size=weight.shape))
    return model


def softplus(values: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, values)


def numpy_losses(model, batch, config: RetrievalConfig, counts: np.ndarray) -> list[float]:
    """The loss of each target by the definition, one at a time."""
    query, table = batch["query"], model.candidate_tower(tf.range(model.num_videos)).numpy()
    steps = model.query_tower.every_step(query, tf.gather(table, tf.maximum(query.history, 0))).numpy()
    negatives, num_warm = np.unique(batch["negatives"]), (counts > 0).sum()
    losses = []
    for row, place in np.argwhere(batch["targets"].numpy() >= 0):
        target, now = batch["targets"].numpy()[row, place], batch["timestamps"][row, place]
        appeal = model.appeal(now[None], tf.range(model.num_videos)).numpy()[0]
        scores = (table @ steps[row, place] + appeal) / config.temperature
        others = scores[negatives[negatives != target]]
        if config.loss == "gbce":
            rate = len(negatives) / (num_warm - 1) if config.num_uniform_negatives < num_warm else 1.0
            power = rate * (config.gbce_calibration * (1 - 1 / rate) + 1 / rate)
            base = model.base_rate.numpy()
            losses.append(power * softplus(-scores[target] - base) + softplus(others + base).sum())
            continue
        if config.num_uniform_negatives < num_warm:
            others = others - np.log(1 - (1 - 1 / num_warm) ** config.num_uniform_negatives)
        losses.append(np.logaddexp.reduce([scores[target], *others]) - scores[target])
    return losses


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
@pytest.mark.parametrize("num_negatives", [6, ALL])
@pytest.mark.parametrize("trends", [True, False])
def test_loss_equals_numpy(dataset, config, loss, num_negatives, trends):
    config = replace(config, loss=loss, num_uniform_negatives=num_negatives, trends=trends)
    model = make_model(dataset, config)
    for batch in list(streams(dataset, config)[1].epoch(0))[:2]:
        losses = numpy_losses(model, batch, config, dataset.interactions.train_counts)
        assert len(losses) > BATCH
        for training in (True, False):
            np.testing.assert_allclose(model.compute_loss(batch, training=training), np.mean(losses), rtol=1e-3)


def test_order_tells_what_comes_next(make_interactions, make_dataset, config):
    """Everybody goes round in a circle of nine videos: only the last event tells the next one."""
    steps = [(user, (user + step) % 9, 1 + step) for user in range(40) for step in range(4 + user % 4)]
    dataset = make_dataset(make_interactions(steps))
    config = replace(config, embedding_dim=8, trends=False, query=replace(config.query, num_heads=1, user_ids=False))
    tf.keras.utils.set_random_seed(1)
    model = make_model(dataset, config, random=False)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
    for epoch in range(15):
        model.fit(streams(dataset, config)[1].epoch(epoch), verbose=0)
    log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), LENGTH)
    query = log.latest(tf.range(40), tf.fill([40], tf.constant(9, tf.int64)))
    scores = model.embed_queries(query, model.embed_catalogue()).numpy() @ model.publish(model.embed_catalogue(), 9).T
    last = np.array([(user + 3 + user % 4) % 9 for user in range(40)])
    assert (scores.argmax(axis=1) == (last + 1) % 9).mean() > 0.95


def test_killed_run_continues_as_it_would_have(dataset, config, tmp_path):
    config = replace(config, dropout=0.3, num_uniform_negatives=6)

    def train(folder: str, epochs: int) -> np.ndarray:
        tf.keras.utils.set_random_seed(1)
        model = make_model(dataset, config, random=False)
        model.compile(optimizer=tf.keras.optimizers.Adam(0.01))
        batches = streams(dataset, config)[1]
        fit(model, batches.epoch, lambda: {"score": 1.0}, Objective("score", True, 9), epochs, tmp_path / folder)
        return tf.train.load_variable(tf.train.latest_checkpoint(tmp_path / folder / "last"), WEIGHT)

    train("killed", 1)
    np.testing.assert_array_equal(train("killed", 2), train("undisturbed", 2))


def test_gbce_starts_at_the_shares_of_the_videos(dataset, config):
    model = make_model(dataset, replace(config, loss="gbce", trends=False), random=False)
    counts = dataset.interactions.train_counts
    logits = model.appeal.published(tf.range(model.num_videos), 0).numpy() + model.base_rate.numpy()
    np.testing.assert_allclose(np.exp(logits), (1 + counts) / counts.sum(), rtol=1e-2)
