"""Fusion of the modalities that a video has."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.features.content import ContentFeatures, Modality
from tfrec.towers.fusion import ContentTower

UNITS = 4


@pytest.fixture(scope="module")
def content() -> ContentFeatures:
    """Four videos: with both modalities, text alone, audio alone, none."""
    draw = np.random.default_rng(0)
    has_text, has_audio = np.array([1, 1, 0, 0], np.int32), np.array([5, 0, 3, 0], np.int32)
    text = draw.normal(size=(4, 3)) * has_text[:, None]
    audio = draw.normal(size=(4, 5, 2)) * (np.arange(5) < has_audio[:, None])[:, :, None]
    return ContentFeatures(
        {"text": Modality(text.astype(np.float32), has_text), "audio": Modality(audio.astype(np.float32), has_audio)},
        {},
    )


@pytest.fixture(scope="module")
def tower(content) -> ContentTower:
    tower = ContentTower(content, UNITS, dropout=0.0, modality_dropout=0.3)
    tower(tf.constant([0]))
    draw = np.random.default_rng(1)
    for weight in tower.trainable_variables:
        weight.assign(draw.normal(scale=0.5, size=weight.shape))
    return tower


def contribution(tower: ContentTower, content: ContentFeatures, name: str, row: int) -> np.ndarray:
    modality = content.modalities[name]
    output = tower.towers[name](modality.values[row : row + 1], modality.lengths[row : row + 1]).numpy()
    (gate, gate_bias), (kernel, bias) = tower.gates[name].get_weights(), tower.maps[name].get_weights()
    return ((output @ kernel + bias) / (1 + np.exp(-(output @ gate + gate_bias))))[0]


def test_gated_sum_over_the_modalities_present(tower, content):
    text = [contribution(tower, content, "text", row) for row in (0, 1)]
    audio = [contribution(tower, content, "audio", row) for row in (0, 2)]
    expected = [text[0] + audio[0], text[1], audio[1], np.zeros(UNITS)]
    np.testing.assert_allclose(tower(tf.constant([0, 1, 2, 3])), expected, atol=1e-5)


def test_values_of_a_missing_modality_do_not_matter(tower, content):
    values, lengths = tower.features(tf.constant([0, 1, 2, 3]))
    expected = tower.embed(values, lengths).numpy()
    noisy = {
        name: np.where((lengths[name].numpy() > 0).reshape(-1, *[1] * (value.shape.rank - 1)), value, 30)
        for name, value in values.items()
    }
    np.testing.assert_allclose(tower.embed(noisy, lengths), expected, atol=1e-5)
    assert np.isfinite(expected).all()


def test_modality_dropout_hides_whole_modalities(tower, content):
    tower.hide.generator.reset_from_seed(0)
    text, audio = (contribution(tower, content, name, 0) for name in ("text", "audio"))
    results = tower(tf.zeros([4000], tf.int32), training=True).numpy()
    shares = {
        label: np.isclose(results, value, atol=1e-4).all(axis=1).mean()
        for label, value in (("both", text + audio), ("text", text), ("audio", audio), ("none", 0 * text))
    }
    expected = {"both": 0.49, "text": 0.21, "audio": 0.21, "none": 0.09}
    assert shares == pytest.approx(expected, abs=0.03)
