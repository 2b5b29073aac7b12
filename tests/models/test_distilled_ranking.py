"""The small ranker: its loss in NumPy, and that it learns from its teacher what no label tells."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import RankingBatches
from tfrec.data.schema import Part
from tfrec.models.distilled_ranking import LABEL_SHARE, DistilledRanker
from tfrec.models.ranking import RankingModel

CONFIG = RankingConfig(hidden_units=[16], distilled_units=[8], dropout=0.0, learning_rate=0.02, batch_size=64)


@pytest.fixture(scope="module")
def logged(dataset) -> RankingBatches:
    events = np.flatnonzero(dataset.interactions.part == Part.VALIDATION)
    return RankingBatches(dataset.interactions, events, (Part.TRAIN,), 8, 64, 4, seed=1)


@pytest.fixture(scope="module")
def teacher(dataset, retrieval, logged) -> RankingModel:
    tf.keras.utils.set_random_seed(3)
    model = RankingModel(CONFIG, dataset, retrieval, retrieval.embed_catalogue())
    model.compile(optimizer=tf.keras.optimizers.Adam(CONFIG.learning_rate))
    for epoch in range(6):
        model.fit(logged.epoch(epoch), verbose=0)
    return model


def make(dataset, teacher, retrieval) -> DistilledRanker:
    tf.keras.utils.set_random_seed(4)
    model = DistilledRanker(CONFIG, dataset, teacher, retrieval)
    model.compile(optimizer=tf.keras.optimizers.Adam(CONFIG.learning_rate))
    return model


def test_loss_equals_numpy(dataset, retrieval, teacher, logged):
    model, batch = make(dataset, teacher, retrieval), next(iter(logged.in_order()))
    state = model.generator.state.numpy()
    loss = float(model.compute_loss(batch))
    model.generator.state.assign(state)
    drawn = model.generator.uniform([64, 16], maxval=len(dataset.videos), dtype=tf.int32)
    query = batch["query"]
    events = tf.gather(model.video_embeddings, tf.maximum(query.history, 0))
    asked = retrieval.embed_queries(query, model.history_embeddings)
    pairs = tf.concat([batch["candidates"], drawn], axis=1)
    taught = 1 / (1 + np.exp(-teacher.logits(query, asked, events, pairs).numpy()))
    logits = model.logits(query, asked, events, pairs).numpy()
    probability = 1 / (1 + np.exp(-logits))
    imitation = -(taught * np.log(probability) + (1 - taught) * np.log(1 - probability))
    expected = (1 - LABEL_SHARE) * sum(imitation[:, :, column].mean() for column in range(2))
    for column, name in enumerate(("click", "like")):
        label, told = batch["labels"][name].numpy(), probability[:, : batch["candidates"].shape[1], column]
        losses = -np.log(np.where(label == 1, told, 1 - told))
        expected += LABEL_SHARE * losses[label >= 0].mean()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_it_learns_its_teachers_opinions(dataset, retrieval, teacher, logged):
    model = make(dataset, teacher, retrieval)
    before = [variable.numpy() for variable in teacher.variables]

    def distance() -> float:
        pairs = zip(model.predict_events(logged).values(), teacher.predict_events(logged).values(), strict=True)
        return float(np.mean([np.abs(small.logits - large.logits).mean() for small, large in pairs]))

    untrained = distance()
    for epoch in range(10):
        model.fit(logged.epoch(epoch), verbose=0)
    assert distance() < 0.6 * untrained
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert model.video_embeddings is teacher.video_embeddings  # stored once
    num_weights = [sum(int(tf.size(weights)) for weights in each.trainable_variables) for each in (model, teacher)]
    assert num_weights[0] < num_weights[1] / 5
    large = model.predict_events(logged)["click"]
    clicked, not_clicked = (large.logits[large.labels == label] for label in (1, 0))
    assert (clicked[:, None] > not_clicked).mean() > 0.75
