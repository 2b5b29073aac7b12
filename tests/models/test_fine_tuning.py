"""Encoders trained with the towers, on the project's small modules."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, ImageConfig, QueryConfig, RetrievalConfig, TextConfig
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.data.schema import Part
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.small_bert import build_small_bert
from tfrec.encoders.small_cnn import build_small_cnn
from tfrec.encoders.text import TextEncoder
from tfrec.features.content import ContentFeatures, Modality
from tfrec.features.tuning import TunableFrames, TunableTexts, save_tuned
from tfrec.models.fine_tuning import FineTunedRetrieval
from tfrec.models.retrieval import RetrievalModel

NUM_USERS, NUM_VIDEOS, NUM_FRAMES, SIZE = 24, 12, 2, 24
WORDS = ("red cat", "blue car")
TEXTS = [f"{WORDS[row % 2]} number {row}" if row != 5 else "" for row in range(NUM_VIDEOS)]
LENGTHS = np.where(np.arange(NUM_VIDEOS) == 3, 0, 2).astype(np.int32)
CONFIG = RetrievalConfig(
    embedding_dim=8,
    query=QueryConfig(history_length=4),
    candidate=CandidateConfig(adapter_units=8, id_dropout=0.0),
    num_uniform_negatives=4,
    batch_size=8,
)


@pytest.fixture(scope="module")
def dataset(make_interactions, make_dataset):
    """Users watch what has their word in its text."""
    draw = np.random.default_rng(0)
    events = [(user, 2 * draw.integers(NUM_VIDEOS // 2) + user % 2, 100 + time)
              for user in range(NUM_USERS) for time in range(6)]  # fmt: skip
    return make_dataset(make_interactions(events, Part.TRAIN, NUM_USERS, NUM_VIDEOS))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tuple(map(str, build_small_bert(tmp_path_factory.mktemp("bert"), [text for text in TEXTS if text] * 3)))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (NUM_VIDEOS, NUM_FRAMES, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def cnn(frames, tmp_path_factory):
    return str(build_small_cnn(tmp_path_factory.mktemp("cnn") / "module", frames.reshape(-1, SIZE, SIZE, 3)))


def texts_of(pair, training="top_layers", trainable_layers=1):
    config = TextConfig(*pair, training=training, trainable_layers=trainable_layers)
    return TunableTexts(TextEncoder(*pair, config), TEXTS, config)


def frames_of(cnn, frames, training="top_layers"):
    config = ImageConfig(cnn, image_size=SIZE, num_frames=NUM_FRAMES, training=training)
    return TunableFrames(ImageEncoder(cnn, config), frames, LENGTHS, config)


def content_of(**encoders):
    """What the encoders make of the catalogue now."""
    modalities = {}
    for name, encoder in encoders.items():
        lengths = LENGTHS if name == "video" else np.array([bool(text) for text in TEXTS], np.int32)
        values = encoder(tf.range(NUM_VIDEOS)).numpy()
        values[lengths == 0] = 0
        modalities[name] = Modality(values.astype(np.float16), lengths)
    return ContentFeatures(modalities, dict.fromkeys(modalities, "v"))


def model_of(dataset, encoders, run_eagerly=True):
    batches = RetrievalBatches(dataset.interactions, 4, CONFIG.batch_size, CONFIG.num_uniform_negatives, 0, 1)
    tf.keras.utils.set_random_seed(1)
    model = FineTunedRetrieval(CONFIG, dataset, content_of(**encoders), batches, encoders, 1e-3)
    model.compile(tf.keras.optimizers.Adam(1e-2), run_eagerly=run_eagerly)  # tracing takes longer than these few steps
    return model, batches


def values_of(encoder):
    return {variable.name: variable.numpy() for variable in encoder.module.variables}


@pytest.mark.parametrize(
    ("training", "changed"),
    [("top_layers", lambda name: name.startswith("layer_1/")), ("full", lambda name: True)],
)
def test_training_changes_exactly_the_variables_it_should(dataset, pair, training, changed):
    text = texts_of(pair, training)
    model, batches = model_of(dataset, {"text": text}, run_eagerly=training == "full")
    before = values_of(text)
    losses = model.fit(batches.epoch(0).take(6), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = values_of(text)
    assert len(before) == 3 + 2 * 7
    for name, value in before.items():
        assert np.array_equal(value, after[name]) != changed(name), name


def test_frames_are_trained_too(dataset, pair, cnn, frames):
    encoders = {"text": texts_of(pair), "video": frames_of(cnn, frames)}
    model, batches = model_of(dataset, encoders)
    before = values_of(encoders["video"])
    model.fit(batches.epoch(0).take(2), verbose=0)
    after = values_of(encoders["video"])
    differ = {name for name in before if not np.array_equal(before[name], after[name])}
    assert differ == {"layer_2/kernels:0", "layer_2/bias:0", "centre:0", "components:0"}


def test_without_learning_the_loss_is_that_of_frozen_features(dataset, pair, cnn, frames):
    """Fresh features of the candidates, stored ones of the histories: the same numbers, as long as nothing has changed."""
    encoders = {"text": texts_of(pair), "video": frames_of(cnn, frames)}
    model, batches = model_of(dataset, encoders)
    batch = next(iter(batches.epoch(0)))
    loss = model.compute_loss(batch)
    frozen = RetrievalModel(CONFIG, dataset, content_of(**encoders), batches)
    frozen.compute_loss(batch)
    for new, old in zip(frozen.trainable_variables, towers_of(model), strict=True):
        assert new.shape == old.shape
        new.assign(old)
    np.testing.assert_allclose(loss, frozen.compute_loss(batch), rtol=2e-3)  # stored features are float16
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    assert all(gradient is not None for gradient in tape.gradient(loss, model.encoder_variables))


def towers_of(model):
    encoders = {id(variable) for variable in model.encoder_variables}
    return [variable for variable in model.trainable_variables if id(variable) not in encoders]


def test_refresh_encodes_the_catalogue_anew_and_the_saved_module_agrees(dataset, pair, tmp_path):
    text = texts_of(pair, "full")
    model, batches = model_of(dataset, {"text": text})
    content = content_of(text=text)
    model.fit(batches.epoch(0).take(2), verbose=0)
    stale = model.tuned_content(content, {"text": "v-tuned"}).modalities["text"].values
    np.testing.assert_array_equal(stale, content.modalities["text"].values)
    model.refresh()
    tuned = model.tuned_content(content, {"text": "v-tuned"})
    assert dict(tuned.encoders) == {"text": "v-tuned"}
    values = tuned.modalities["text"].values
    assert not values[5].any()  # no text, no features
    assert np.abs(values - stale).max() > 1e-3
    save_tuned(text, tmp_path / "tuned")
    handles = (pair[0], str(tmp_path / "tuned"))
    present = [row for row in range(NUM_VIDEOS) if TEXTS[row]]
    loaded = TextEncoder(*handles, TextConfig(*handles))
    np.testing.assert_allclose(loaded.encode([TEXTS[row] for row in present]), values[present], atol=2e-3)
    assert len(loaded.encoder.trainable_variables) == len(text.variables)


def test_a_checkpoint_holds_the_trained_encoder(dataset, pair, tmp_path):
    text = texts_of(pair)
    model, batches = model_of(dataset, {"text": text})
    model.fit(batches.epoch(0).take(2), verbose=0)
    model.refresh()
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "model"))
    again = texts_of(pair)
    other, _ = model_of(dataset, {"text": again})
    other.compute_loss(next(iter(batches.epoch(0))))
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    for name, value in values_of(text).items():
        np.testing.assert_array_equal(values_of(again)[name], value)
    np.testing.assert_array_equal(other.embed_catalogue(), model.embed_catalogue())


def test_histories_read_stored_features(dataset, pair):
    """What is in no candidate's place does not reach the encoder: its stored features can be anything."""
    model, batches = model_of(dataset, {"text": texts_of(pair)})
    batch = next(iter(batches.epoch(0)))
    nobody = batch | {"query": batch["query"]._replace(history=-tf.ones_like(batch["query"].history))}
    with_history, without = model.compute_loss(batch), model.compute_loss(nobody)
    table = model.candidate_tower.content.values["text"]
    table.assign(table + tf.cast(tf.random.stateless_normal(table.shape, [1, 2]), table.dtype))
    # The padding of an empty history is row 0, which is masked.
    np.testing.assert_allclose(model.compute_loss(nobody), without, rtol=1e-6)
    assert abs(model.compute_loss(batch) - with_history) > 1e-6
