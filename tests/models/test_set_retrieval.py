"""Learning from users cut in two: the loss in NumPy, and that it finds who watches what."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.data.sets import SetBatches
from tfrec.errors import TfrecError
from tfrec.features.content import ContentFeatures
from tfrec.models.set_retrieval import SetRetrievalModel

CONFIG = RetrievalConfig(
    embedding_dim=5,
    query=QueryConfig(encoder="mean", history_length=8, network=False, user_id_dropout=0.0),
    candidate=CandidateConfig(id_dropout=0.0, separate_history=True),
    training="sets",
    temperature=0.5,
    dropout=0.0,
    ensemble_size=2,
    batch_size=16,
)


@pytest.fixture(scope="module")
def sets(dataset):
    """The small platform without its times."""
    log = dataset.interactions
    return replace(dataset, interactions=replace(log, timestamp=np.zeros_like(log.timestamp)))


def make(sets, num_negatives: int) -> tuple[SetRetrievalModel, SetBatches]:
    config = replace(CONFIG, num_uniform_negatives=num_negatives)
    events = RetrievalBatches(sets.interactions, 8, 16, num_negatives, 0, 1)
    tf.keras.utils.set_random_seed(1)
    model = SetRetrievalModel(config, sets, ContentFeatures({}, {}), events)
    batches = SetBatches(sets.interactions, 8, 16, num_negatives, 1)
    model.compute_loss(next(iter(batches.epoch(0))))
    return model, batches


@pytest.mark.parametrize("num_negatives", [5, 100])
def test_loss_equals_numpy(sets, num_negatives):
    model, batches = make(sets, num_negatives)
    draw = np.random.default_rng(3)
    for weight in model.trainable_variables:
        weight.assign(draw.normal(scale=0.5, size=weight.shape))
    batch = next(iter(batches.epoch(0)))
    query, targets = batch["query"], batch["targets"].numpy()
    table, watched = (
        tower(tf.range(model.num_videos)).numpy() for tower in (model.candidate_tower, model.history_tower)
    )
    asked = model.query_tower(query, tf.gather(watched, tf.maximum(query.history, 0))).numpy()
    candidates = np.union1d(batch["negatives"], targets[targets >= 0])
    appeal = model.appeal(query.timestamp, tf.range(model.num_videos)).numpy() * np.ones(model.num_videos)
    num_warm = int((sets.interactions.train_counts > 0).sum())
    assert (num_negatives < num_warm) == (model.frequency is not None)
    member_losses = []
    for dimensions in (slice(0, 2), slice(2, 4)):
        losses = []
        for row, user_targets in enumerate(targets):
            scores = (
                2 * table[:, dimensions] @ asked[row, dimensions] + table[:, -1] + appeal.ravel()[-model.num_videos :]
            )
            scores /= model.config.temperature
            if model.frequency is not None:
                missed = (1 - model.frequency.numpy()) ** (targets >= 0).sum() * (1 - 1 / num_warm) ** num_negatives
                scores = scores - np.log(1 - missed)
            allowed = np.setdiff1d(candidates, query.history[row])
            total = np.logaddexp.reduce(scores[allowed])
            losses += [total - scores[target] for target in user_targets[user_targets >= 0]]
        member_losses.append(np.mean(losses))
    assert float(model.compute_loss(batch)) == pytest.approx(np.mean(member_losses), rel=1e-4)


def test_it_finds_the_taste(sets, kinds):
    """Users watch mostly videos of their own kind; somebody who was never seen is known by the history."""
    model, batches = make(sets, 100)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.03))
    for epoch in range(30):
        model.fit(batches.epoch(epoch), verbose=0)
    table = model.tables(model.embed_catalogue())
    query = next(iter(batches.epoch(0)))["query"]
    odd, even = np.arange(1, 24, 2), np.arange(0, 24, 2)
    history = tf.constant([[*odd[:4], -1, -1, -1, -1], [*even[:4], -1, -1, -1, -1]], tf.int32)
    strangers = query._replace(
        user=tf.constant([-1, -1]), timestamp=query.timestamp[:2], history=history,
        history_kind=tf.cast(history >= 0, tf.int32), history_age=tf.zeros([2, 8]),
    )  # fmt: skip
    scores = model.embed_queries(strangers, tf.constant(table.history)).numpy() @ table.videos.T
    assert (scores[0, odd[4:], None] > scores[0, even]).mean() > 0.75
    assert (scores[1, even[4:], None] > scores[1, odd]).mean() > 0.75


@pytest.mark.parametrize("wrong", [{"loss": "bpr"}, {"query": QueryConfig(encoder="gru"), "ensemble_size": 1}])
def test_what_does_not_go_with_sets(wrong):
    with pytest.raises(TfrecError, match="where `training` is sets"):
        replace(CONFIG, **wrong)
