"""The VAE head: every term of its loss in NumPy, and what it does for cold videos."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import ColdStartConfig
from tfrec.models.cold_start import ColdStartModel
from tfrec.models.retrieval import batch_candidates

MEAN, LOG_VARIANCE, REBUILT = 0.3, -1.2, 0.25
STEPS = 10
CONFIG = ColdStartConfig(
    hidden_units=8,
    kl_weight=0.5,
    annealing_epochs=2,
    reconstruction_weight=0.7,
    alignment_weight=0.2,
    generation_share=0.0,
    dropout=0.0,
    learning_rate=0.01,
)


@pytest.fixture
def fixed(retrieval, content) -> ColdStartModel:
    """Sees nothing: every latent has the same moments, the decoder rebuilds one number, the correction is none."""
    model = ColdStartModel(CONFIG, retrieval, content, retrieval.embed_catalogue(), STEPS)
    model.moments.build([None, 8])
    model.moments.set_weights([np.zeros((8, 16)), np.array([MEAN] * 8 + [LOG_VARIANCE] * 8)])
    model.decoder.build([None, 8])
    model.decoder.layers[1].set_weights([np.zeros((8, 6)), np.full(6, REBUILT)])
    return model


@pytest.fixture(scope="module")
def batch(batches):
    return next(iter(batches.epoch(0)))


def loss_with(model: ColdStartModel, batch, training: bool = False, **weights: float) -> float:
    """With the weights that are not given at 0."""
    zero = {"kl_weight": 0.0, "reconstruction_weight": 0.0, "alignment_weight": 0.0}
    model.config = replace(CONFIG, **{**zero, **weights})
    return float(model.compute_loss(batch, training=training))


def standardised(content, name: str) -> np.ndarray:
    modality = content.modalities[name]
    present = modality.values[modality.lengths > 0]
    return (modality.values - present.mean(axis=0)) / present.std(axis=0)


def reconstruction_of(content, videos: np.ndarray, names: tuple[str, ...]) -> float:
    """Mean squared error of the one number over the dimensions of the modalities present."""
    errors = [
        (standardised(content, name)[video] - REBUILT) ** 2
        for name in names
        for video in videos
        if content.modalities[name].lengths[video]
    ]
    return float(np.concatenate(errors).mean())


def test_interaction_term_is_the_retrieval_loss_of_the_generated_embeddings(fixed, retrieval, batch):
    candidates, targets = batch_candidates(batch)
    table = retrieval.embed_catalogue()
    queries = retrieval.embed_queries(batch["query"], table)
    embeddings = retrieval.candidate_tower.embed_content(candidates)
    expected = retrieval.softmax_loss(queries, embeddings, candidates, targets, batch)
    assert loss_with(fixed, batch) == pytest.approx(float(expected), rel=1e-4)


def test_alignment_term(fixed, retrieval, batch):
    candidates, _ = batch_candidates(batch)
    difference = retrieval.candidate_tower.embed_content(candidates) - retrieval.embed_catalogue()[candidates]
    expected = 0.2 * (difference.numpy() ** 2).sum(axis=1).mean()
    assert loss_with(fixed, batch, alignment_weight=0.2) - loss_with(fixed, batch) == pytest.approx(expected, abs=1e-4)


def test_reconstruction_term_counts_modalities_present(fixed, content, batch):
    videos = batch_candidates(batch)[0].numpy()
    assert 0 in videos  # it has no text
    expected = 0.7 * reconstruction_of(content, videos, ("text", "generation"))
    difference = loss_with(fixed, batch, reconstruction_weight=0.7) - loss_with(fixed, batch)
    assert difference == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.25), (20, 1.0), (500, 1.0)])
def test_kl_term_rises_to_its_weight(fixed, batch, step, share):
    """Between N(0.3, exp(-1.2)) and N(0, 1) in eight dimensions; 20 steps are two epochs."""
    fixed.step.assign(step)
    kl = 8 * 0.5 * (MEAN**2 + np.exp(LOG_VARIANCE) - 1 - LOG_VARIANCE)
    difference = loss_with(fixed, batch, kl_weight=0.5) - loss_with(fixed, batch)
    assert difference == pytest.approx(0.5 * share * kl, abs=1e-4)


@pytest.mark.parametrize("free_bits", [0.5, 0.01])
def test_free_bits_are_not_paid_for(fixed, batch, free_bits):
    """Every one of the eight dimensions costs 0.3978 nats: less than half a nat is free, more is paid in full."""
    fixed.step.assign(100)
    each = 0.5 * (MEAN**2 + np.exp(LOG_VARIANCE) - 1 - LOG_VARIANCE)
    assert 0.01 < each < 0.5
    base = loss_with(fixed, batch)
    paid = loss_with(fixed, batch, kl_weight=0.5, free_bits=free_bits) - base
    assert paid == pytest.approx(0.5 * 8 * max(each, free_bits), abs=1e-4)


def test_prior_from_generation_metadata(retrieval, content, batch):
    """A prior that expects just what the encoder says of generated videos costs nothing for these."""
    config = replace(CONFIG, generation_prior=True)
    model = ColdStartModel(config, retrieval, content, retrieval.embed_catalogue(), STEPS)
    model.moments.build([None, 8])
    model.moments.set_weights([np.zeros((8, 16)), np.array([MEAN] * 8 + [LOG_VARIANCE] * 8)])
    model.step.assign(100)
    each = 0.5 * (MEAN**2 + np.exp(LOG_VARIANCE) - 1 - LOG_VARIANCE)
    first = loss_with(model, batch, kl_weight=0.5) - loss_with(model, batch)
    assert first == pytest.approx(0.5 * 8 * each, abs=1e-4)
    kernel = np.random.default_rng(0).normal(size=(2, 16))
    model.prior.set_weights([kernel])
    videos = batch_candidates(batch)[0].numpy()
    generated = content.modalities["generation"].lengths[videos] > 0
    moments = standardised(content, "generation")[videos] @ kernel * generated[:, None]
    mean, log_variance = moments[:, :8], moments[:, 8:]
    expected = 0.5 * (
        (MEAN - mean) ** 2 / np.exp(log_variance)
        + np.exp(LOG_VARIANCE - log_variance)
        - 1
        - (LOG_VARIANCE - log_variance)
    )
    assert generated.any()
    learned = loss_with(model, batch, kl_weight=0.5) - loss_with(model, batch)
    assert learned == pytest.approx(0.5 * expected.sum(axis=1).mean(), rel=1e-3)


def test_training_counts_steps_and_draws_from_the_latent(fixed, batch):
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(8, 6))
    fixed.decoder.layers[1].set_weights([kernel, np.zeros(6)])
    losses = [loss_with(fixed, batch, training=True, reconstruction_weight=0.7) for _ in range(3)]
    assert fixed.step.numpy() == 3
    assert len(set(losses)) == 3
    calm = [loss_with(fixed, batch, reconstruction_weight=0.7) for _ in range(2)]
    assert fixed.step.numpy() == 3
    assert calm[0] == calm[1]
    # Without variance, a draw is the mean: exp(-10 / 2) is the least deviation.
    fixed.moments.set_weights([np.zeros((8, 16)), np.array([MEAN] * 8 + [-99.0] * 8)])
    still = loss_with(fixed, batch, training=True, reconstruction_weight=0.7)
    assert abs(still - calm[0]) < np.ptp(losses)


def test_generation_share_hides_what_rendering_will_bring(retrieval, content, batch):
    """All of the videos with generation metadata are shown by these alone; the others keep their text."""
    config = replace(CONFIG, generation_share=1 - 1e-7)
    model = ColdStartModel(config, retrieval, content, retrieval.embed_catalogue(), STEPS)
    model.decoder.build([None, 8])
    model.decoder.layers[1].set_weights([np.zeros((8, 6)), np.full(6, REBUILT)])
    videos = batch_candidates(batch)[0].numpy()
    generated = content.modalities["generation"].lengths[videos] > 0
    rows = [
        reconstruction_of(content, videos[generated], ("generation",)),
        reconstruction_of(content, videos[~generated], ("text",)),
    ]
    sizes = [2 * generated.sum(), 4 * (~generated).sum()]
    model.config = replace(config, kl_weight=0.0, alignment_weight=0.0, reconstruction_weight=1.0)
    hidden = float(model.compute_loss(batch, training=True))
    model.config = replace(model.config, reconstruction_weight=0.0)
    assert hidden - float(model.compute_loss(batch, training=True)) == pytest.approx(
        np.average(rows, weights=sizes), abs=2e-3
    )


@pytest.fixture(scope="module")
def trained(retrieval, content, batches):
    """Trained for three epochs; with what retrieval was before."""
    before = [variable.numpy() for variable in retrieval.variables]
    tf.keras.utils.set_random_seed(2)
    config = replace(CONFIG, dropout=0.1, generation_share=0.2, kl_weight=0.001)
    model = ColdStartModel(config, retrieval, content, retrieval.embed_catalogue(), batches.steps_per_epoch)
    model.compile(optimizer=tf.keras.optimizers.Adam(config.learning_rate))
    for epoch in range(3):
        model.fit(batches.epoch(epoch), verbose=0)
    return model, before


def test_retrieval_stays_as_it_was(trained, retrieval):
    model, before = trained
    assert len(before) == len(retrieval.variables) > 10
    for variable, value in zip(retrieval.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in retrieval.variables}


def test_annealing_has_ended(trained, batches):
    assert trained[0].step.numpy() == 3 * batches.steps_per_epoch > trained[0].annealing_steps


def test_cold_videos_go_to_those_of_their_kind(trained, retrieval, dataset, kinds):
    model, _ = trained
    cold = np.flatnonzero(dataset.interactions.train_counts == 0)
    warm = retrieval.embed_catalogue()[:24]
    generated = model.embed_videos(cold)
    similarity = generated[:, :-1] @ warm[:, :-1].T
    same = kinds[cold][:, None] == kinds[:24]
    assert similarity[same].mean() > similarity[~same].mean() + 0.2


def test_embedding_of_videos_in_no_catalogue(trained, retrieval, content):
    model, _ = trained
    rows = np.array([3, 27])
    features = retrieval.candidate_tower.content.features(tf.constant(rows, tf.int32))
    embeddings, log_variance = model.embed(*features, tf.fill([2], -1))
    np.testing.assert_allclose(model.embed_videos(rows), embeddings, atol=1e-5)
    assert log_variance.shape == (2, 8)
    assert (np.abs(log_variance) <= 10).all()


def test_any_modality_may_be_missing(trained):
    model, _ = trained
    draw = np.random.default_rng(0)
    values = {
        "text": draw.normal(size=(4, 4)).astype(np.float32),
        "generation": draw.normal(size=(4, 2)).astype(np.float32),
    }
    lengths = {"text": tf.constant([1, 1, 0, 0]), "generation": tf.constant([1, 0, 1, 0])}
    embeddings, log_variance = model.embed(values, lengths, tf.fill([4], -1))
    assert np.isfinite(embeddings).all()
    assert np.isfinite(log_variance).all()
    # What is missing does not count; what is known before rendering does.
    other = {name: value + 1 for name, value in values.items()}
    changed = np.abs(model.embed(other, lengths, tf.fill([4], -1))[0] - embeddings).max(axis=1)
    assert (changed[:3] > 1e-4).all()
    assert changed[3] == 0
    text_only = {**values, "generation": values["generation"] + 1}
    np.testing.assert_array_equal(model.embed(text_only, lengths, tf.fill([4], -1))[0][1], embeddings[1])


def test_no_cold_videos(trained):
    assert trained[0].embed_videos(np.zeros(0, np.int64)).shape == (0, 8)
    np.testing.assert_allclose(
        trained[0].embed_videos(np.arange(30), batch_size=7), trained[0].embed_videos(np.arange(30)), atol=1e-5
    )
