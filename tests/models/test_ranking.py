"""The ranker: its loss in NumPy, calibration, padding, cold videos and unknown users."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import HistoryLog, RankingBatches
from tfrec.data.schema import Part
from tfrec.models.ranking import RankingModel

CONFIG = RankingConfig(hidden_units=[16], num_cross_layers=1, dropout=0.0, learning_rate=0.01, batch_size=64)


def ranking_batches(dataset, events) -> RankingBatches:
    return RankingBatches(dataset.interactions, np.asarray(events), (Part.TRAIN,), 8, 64, 4, seed=1)


@pytest.fixture(scope="module")
def validation(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Events after the training part: of two thirds of the users, and of the rest, who are held out."""
    events = np.flatnonzero(dataset.interactions.part == Part.VALIDATION)
    held_out = dataset.interactions.user[events] % 6 >= 4
    return events[~held_out], events[held_out]


@pytest.fixture(scope="module")
def trained(dataset, retrieval, validation):
    """Trained for 12 epochs and calibrated; with what retrieval was before."""
    before = [variable.numpy() for variable in retrieval.variables]
    training, holdout = (ranking_batches(dataset, events) for events in validation)
    tf.keras.utils.set_random_seed(3)
    model = RankingModel(CONFIG, dataset, retrieval, retrieval.embed_catalogue())
    model.compile(optimizer=tf.keras.optimizers.Adam(CONFIG.learning_rate))
    for epoch in range(12):
        model.fit(training.epoch(epoch), verbose=0)
    # Logits twice too sure, and moved: what calibration is there to mend.
    weights, bias = model.heads.get_weights()
    model.heads.set_weights([2 * weights, 2 * bias + 1])
    model.calibrate(holdout)
    return model, before


@pytest.fixture(scope="module")
def model(trained) -> RankingModel:
    return trained[0]


@pytest.fixture(scope="module")
def request_of(dataset, retrieval, model):
    """Makes the arguments of `logits` for given users, their candidates still open."""

    def make(users, known_as=None):
        log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 8)
        now = tf.fill([len(users)], tf.reduce_max(log.timestamp))
        query = log.latest(tf.constant(users), now)
        query = query._replace(user=tf.constant(users if known_as is None else known_as))
        events = tf.gather(model.video_embeddings, tf.maximum(query.history, 0))
        return query, retrieval.query_tower(query, events), events

    return make


def test_loss_equals_numpy(dataset, model, request_of):
    """Where a label is missing, it costs nothing."""
    query, asked, events = request_of([0, 1])
    candidates = tf.constant([[3, 4, 5], [6, 7, 8]])
    labels = {
        "click": np.array([[1, 0, 0], [0, -1, 1]], np.float32),
        "like": np.array([[0, -1, -1], [-1, -1, 1]], np.float32),
    }
    logits = model.logits(query, asked, events, candidates).numpy()
    expected = 0.0
    for column, name in enumerate(("click", "like")):
        probability, label = 1 / (1 + np.exp(-logits[:, :, column])), labels[name]
        losses = -np.log(np.where(label == 1, probability, 1 - probability))
        expected += losses[label >= 0].mean()
    inputs = {"query": query, "candidates": candidates, "labels": labels}
    np.testing.assert_allclose(model.compute_loss(inputs), expected, rtol=1e-4)


def test_loss_without_known_labels(model, request_of):
    unknown = {name: tf.fill([1, 2], -1.0) for name in ("click", "like")}
    inputs = {"query": request_of([0])[0], "candidates": tf.constant([[1, 2]]), "labels": unknown}
    assert float(model.compute_loss(inputs)) == 0


def test_mean_loss_covers_every_event_once(dataset, model, validation):
    """As `compute_loss` of a single batch of all events, though the last of several batches is filled up."""
    events = validation[1]
    whole = RankingBatches(dataset.interactions, events, (Part.TRAIN,), 8, len(events), 4, seed=1)
    expected = float(model.compute_loss(next(iter(whole.in_order()))))
    assert len(events) % 64
    assert model.mean_loss(ranking_batches(dataset, events)) == pytest.approx(expected, rel=1e-4)


def test_predictions_belong_to_their_events(dataset, retrieval, model, validation):
    log, events = dataset.interactions, validation[1]
    predictions = model.predict_events(ranking_batches(dataset, events))
    assert set(predictions) == {"click", "like"}
    for name, predicted in predictions.items():
        known = events[log.labels[name][events] >= 0]
        np.testing.assert_array_equal(predicted.labels, log.labels[name][known])
        np.testing.assert_array_equal(predicted.users, log.user[known])
        assert len(predicted.logits) == len(predicted.probabilities) == len(predicted.retrieval_scores) == len(known)
    # One event by hand.
    row = events[5]
    history = HistoryLog.of(log, (Part.TRAIN,), 8)
    end = tf.constant([np.searchsorted(history.rows, row)], tf.int64)
    query = history.before(tf.constant([log.user[row]]), end, tf.constant([log.timestamp[row]], tf.int64))
    events_embedded = tf.gather(model.video_embeddings, tf.maximum(query.history, 0))
    asked = retrieval.query_tower(query, events_embedded)
    logit = model.logits(query, asked, events_embedded, tf.constant([[log.video[row]]]))[0, 0, 0]
    click = predictions["click"]
    assert click.logits[5] == pytest.approx(float(logit), abs=1e-3)
    score = tf.tensordot(asked[0], model.video_embeddings[log.video[row]], 1)
    assert click.retrieval_scores[5] == pytest.approx(float(score), abs=1e-3)
    calibrated = 1 / (1 + np.exp(-(model.scale[0] * logit + model.shift[0])))
    assert click.probabilities[5] == pytest.approx(float(calibrated), abs=1e-3)


def test_ranks_clicks_first_with_probabilities_that_hold(dataset, model, validation):
    predicted = model.predict_events(ranking_batches(dataset, validation[1]))["click"]
    clicked, not_clicked = (predicted.logits[predicted.labels == label] for label in (1, 0))
    assert (clicked[:, None] > not_clicked).mean() > 0.8  # the area under the ROC curve
    order = np.argsort(predicted.probabilities)
    for part in np.array_split(order, 3):
        assert predicted.probabilities[part].mean() == pytest.approx(predicted.labels[part].mean(), abs=0.15)
    assert predicted.probabilities.mean() == pytest.approx(predicted.labels.mean(), abs=0.01)
    raw = 1 / (1 + np.exp(-predicted.logits))
    assert abs(raw.mean() - predicted.labels.mean()) > 0.03


def test_served_probabilities_are_the_calibrated_ones(model, request_of):
    request = request_of([0, 1])
    candidates = tf.constant([[3, 4], [5, 6]])
    probabilities = model.probabilities(*request, candidates)
    logits = model.logits(*request, candidates).numpy()
    assert list(probabilities) == ["click", "like"]
    for column, name in enumerate(probabilities):
        calibrated = logits[:, :, column] * model.scale[column] + model.shift[column]
        np.testing.assert_allclose(probabilities[name], 1 / (1 + np.exp(-calibrated)), rtol=1e-4)
    assert model.scale[0] < 0.8
    assert model.shift[0] != 0


def test_padding_and_neighbours_are_harmless(model, request_of):
    expected = model.logits(*request_of([0, 7]), tf.constant([[3, 5], [9, 2]])).numpy()
    padded = model.logits(*request_of([0, 7]), tf.constant([[3, 5, -1, -1], [9, 2, -1, 4]])).numpy()
    np.testing.assert_allclose(padded[:, :2], expected, atol=1e-5)
    assert np.isfinite(padded).all()
    alone = model.logits(*request_of([7]), tf.constant([[2, 9]])).numpy()
    np.testing.assert_allclose(alone[0, ::-1], expected[1], atol=1e-5)


def test_id_embeddings_of_cold_videos_and_unknown_users_are_not_used(dataset, model, request_of):
    warm, cold = 3, int(np.flatnonzero(dataset.interactions.train_counts == 0)[0])
    candidates = tf.constant([[warm, cold]])
    known, unknown = request_of([4]), request_of([4], known_as=[-1])
    before = model.logits(*known, candidates).numpy()[0], model.logits(*unknown, candidates).numpy()[0]
    tables = {table: table.embeddings.numpy() for table in (model.video_ids, model.user_ids)}
    draw = np.random.default_rng(0)
    try:
        for table, value in tables.items():
            moved = value + draw.normal(size=value.shape).astype(np.float32)
            moved[0] = value[0]  # what stands for unknown
            table.embeddings.assign(moved)
        after = model.logits(*known, candidates).numpy()[0], model.logits(*unknown, candidates).numpy()[0]
    finally:
        for table, value in tables.items():
            table.embeddings.assign(value)
    np.testing.assert_array_equal(before[1][1], after[1][1])  # unknown user, cold video
    assert (before[0] != after[0]).all()
    assert (before[1][0] != after[1][0]).all()


def test_retrieval_stays_as_it_was(trained, retrieval):
    model, before = trained
    for variable, value in zip(retrieval.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    np.testing.assert_array_equal(model.video_embeddings, retrieval.embed_catalogue())
    assert model.history_embeddings is model.video_embeddings  # so that it is exported once
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in retrieval.variables}


def test_no_events(dataset, retrieval):
    fresh = RankingModel(CONFIG, dataset, retrieval, retrieval.embed_catalogue())
    empty = ranking_batches(dataset, np.zeros(0, np.int64))
    assert fresh.predict_events(empty) == {}
    assert fresh.mean_loss(empty) == 0
    fresh.calibrate(empty)
    np.testing.assert_array_equal(fresh.scale, [1, 1])
    np.testing.assert_array_equal(fresh.shift, [0, 0])


def fitted(config, dataset, retrieval, batches, epochs=12) -> RankingModel:
    tf.keras.utils.set_random_seed(3)
    model = RankingModel(config, dataset, retrieval, retrieval.embed_catalogue())
    model.compile(optimizer=tf.keras.optimizers.Adam(config.learning_rate))
    for epoch in range(epochs):
        model.fit(batches.epoch(epoch), verbose=0)
    return model


def test_every_task_weighs_the_experts_for_itself(dataset, retrieval, validation):
    training, holdout = (ranking_batches(dataset, events) for events in validation)
    model = fitted(replace(CONFIG, num_experts=3), dataset, retrieval, training)
    click = model.predict_events(holdout)["click"]
    clicked, not_clicked = (click.logits[click.labels == label] for label in (1, 0))
    assert (clicked[:, None] > not_clicked).mean() > 0.8
    gates = model.network.gates.kernel.numpy().reshape(-1, 2, 3)
    assert np.abs(gates[:, 0] - gates[:, 1]).max() > 0.01
    # A head reads its own task's mixture: without what comes from the experts, only the click changes.
    before = model.predict_events(holdout)
    weights, bias = model.heads.get_weights()
    weights[: CONFIG.hidden_units[-1], 0] = 0
    model.heads.set_weights([weights, bias])
    after = model.predict_events(holdout)
    assert not np.allclose(after["click"].logits, before["click"].logits)
    np.testing.assert_array_equal(after["like"].logits, before["like"].logits)


def test_position_explains_what_the_taste_does_not(dataset, retrieval):
    """Videos shown first are watched whatever they are; the ranker that is told so blames no video for its place."""
    log, draw = dataset.interactions, np.random.default_rng(0)
    position = draw.integers(1, 3, size=len(log)).astype(np.int32)
    shown = replace(
        dataset, interactions=replace(log, position=position, labels={"click": (position == 1).astype(np.int8)})
    )
    events = np.flatnonzero(log.part == Part.VALIDATION)
    batches = ranking_batches(shown, events)
    model = fitted(replace(CONFIG, position_bias=True, learning_rate=0.1), shown, retrieval, batches, epochs=20)
    biases = model.position(tf.constant([0, 1, 2])).numpy()[:, 0]
    assert biases[0] == 0
    assert biases[1] - biases[2] > 4
    predicted = model.predict_events(batches)["click"]
    np.testing.assert_allclose(predicted.position_biases, biases[position[events]])
    known = model.mean_loss(batches)
    logits = predicted.logits + predicted.position_biases
    np.testing.assert_allclose(known, np.mean(np.log1p(np.exp(logits)) - predicted.labels * logits), rtol=1e-4)
    assert known < 0.2
    # What is served knows no position.
    right = (predicted.logits > np.median(predicted.logits)) == predicted.labels
    assert 0.35 < right.mean() < 0.65
    model.calibrate(batches)
    assert model.predict_events(batches)["click"].probabilities.mean() == pytest.approx(0.5, abs=0.05)


def test_isotonic_probabilities_are_served_as_they_are_measured(dataset, retrieval, validation):
    training, holdout = (ranking_batches(dataset, events) for events in validation)
    model = fitted(replace(CONFIG, calibration="isotonic"), dataset, retrieval, training, epochs=2)
    model.calibrate(holdout)
    batch = next(iter(holdout.in_order()))
    events = tf.gather(model.video_embeddings, tf.maximum(batch["query"].history, 0))
    asked = retrieval.embed_queries(batch["query"], model.history_embeddings)
    served = model.probabilities(batch["query"], asked, events, batch["candidates"])["click"].numpy().ravel()
    predicted = model.predict_events(holdout)["click"]
    np.testing.assert_allclose(predicted.probabilities[: len(served)], served, atol=1e-5)
    assert predicted.probabilities.mean() == pytest.approx(predicted.labels.mean(), abs=0.01)
    platt = 1 / (1 + np.exp(-(predicted.logits * model.scale[0] + model.shift[0])))
    assert np.abs(platt - predicted.probabilities).max() > 0.02
