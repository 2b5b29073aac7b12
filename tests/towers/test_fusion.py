"""Fusion of the modalities that a video has, by every strategy."""

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, Fusion
from tfrec.export.ops import foreign, function_ops
from tfrec.features.content import ContentFeatures, Modality
from tfrec.layers.alignment import alignment_loss
from tfrec.towers.fusion import ContentTower

UNITS = 4
ROWS = tf.range(4)
STRATEGIES = get_args(Fusion)


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
def towers(content) -> dict[str, ContentTower]:
    return {strategy: make_tower(content, strategy) for strategy in STRATEGIES}


def make_tower(content: ContentFeatures, strategy: Fusion) -> ContentTower:
    config = CandidateConfig(adapter_units=UNITS, modality_dropout=0.3, fusion=strategy)
    tower = ContentTower(content, config, dropout=0.0)
    tower(tf.constant([0]))
    draw = np.random.default_rng(1)
    for weight in tower.trainable_variables:
        weight.assign(draw.normal(scale=0.5, size=weight.shape))
    return tower


def output(tower: ContentTower, content: ContentFeatures, name: str) -> np.ndarray:
    """What a modality's tower gives for the four videos."""
    return tower.towers[name](content.modalities[name].values, content.modalities[name].lengths).numpy()


def affine(layer: tf.keras.layers.Dense, values: np.ndarray) -> np.ndarray:
    kernel, bias = layer.get_weights()
    return values @ kernel + bias


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_gated_sum_over_the_modalities_present(towers, content):
    fusion = towers["gated"].fusion
    outputs = {name: output(towers["gated"], content, name) for name in ("text", "audio")}
    text, audio = (
        affine(fusion.maps[name], value) / (1 + np.exp(-affine(fusion.gates[name], value)))
        for name, value in outputs.items()
    )
    expected = [text[0] + audio[0], text[1], audio[2], np.zeros(UNITS)]
    np.testing.assert_allclose(towers["gated"](ROWS), expected, atol=1e-5)


def test_weights_are_a_softmax_over_the_modalities_present(towers, content):
    tower = towers["weighted"]
    text, audio = (affine(tower.fusion.maps[name], output(tower, content, name)) for name in ("text", "audio"))
    weights = softmax(tower.fusion.logits.numpy())
    assert abs(weights[0] - weights[1]) > 0.05
    expected = [weights[0] * text[0] + weights[1] * audio[0], text[1], audio[2], np.zeros(UNITS)]
    np.testing.assert_allclose(tower(ROWS), expected, atol=1e-5)


def test_concatenation_shows_what_is_missing(towers, content):
    tower = towers["concat"]
    text, audio = (output(tower, content, name) for name in ("text", "audio"))
    nothing = np.zeros(UNITS)
    rows = [[*text[0], *audio[0], 1, 1], [*text[1], *nothing, 1, 0], [*nothing, *audio[2], 0, 1]]
    np.testing.assert_allclose(tower(ROWS)[:3], affine(tower.fusion.joint, np.array(rows)), atol=1e-5)


def test_attention_across_the_modalities_present(towers, content):
    tower, fusion = towers["attention"], towers["attention"].fusion
    tokens = [affine(fusion.maps[name], output(tower, content, name)) for name in ("text", "audio")]
    expected = [
        attention_by_hand(fusion, np.array(shown))
        for shown in ([tokens[0][0], tokens[1][0]], [tokens[0][1]], [tokens[1][2]])
    ]
    np.testing.assert_allclose(tower(ROWS)[:3], expected, atol=1e-5)


def attention_by_hand(fusion, tokens: np.ndarray) -> np.ndarray:
    gamma, beta = fusion.norm.get_weights()
    normal = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5) * gamma + beta
    query, query_bias, key, key_bias, value, value_bias, out, out_bias = fusion.attention.get_weights()
    queries, keys, values = (
        np.einsum("td,dhk->htk", normal, kernel) + bias[:, None]
        for kernel, bias in ((query, query_bias), (key, key_bias), (value, value_bias))
    )
    heads = softmax(queries @ keys.transpose(0, 2, 1) / np.sqrt(query.shape[2])) @ values
    attended = tokens + np.einsum("htk,hkd->td", heads, out) + out_bias
    return softmax(affine(fusion.pool.score, attended)[:, 0]) @ attended


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_values_of_a_missing_modality_do_not_matter(towers, strategy):
    tower = towers[strategy]
    values, lengths = tower.features(ROWS)
    expected = tower.embed(values, lengths).numpy()
    noisy = {
        name: tf.constant(
            np.where((lengths[name].numpy() > 0).reshape(-1, *[1] * (value.shape.rank - 1)), value, 30), tf.float32
        )
        for name, value in values.items()
    }
    with tf.GradientTape() as tape:
        tape.watch(noisy)
        result = tower.embed(noisy, lengths)
        loss = tf.reduce_sum(result * tf.constant([1.0, -2, 3, 5]))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_array_equal(result[3], np.zeros(UNITS))
    for name, gradient in tape.gradient(loss, noisy).items():
        moved = np.abs(gradient.numpy().reshape(4, -1)).max(axis=1)
        np.testing.assert_array_equal(moved > 0, lengths[name].numpy() > 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_weight_learns(towers, strategy):
    tower = towers[strategy]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower(ROWS) * tf.constant([1.0, -2, 3, 5]))
    gradients = tape.gradient(loss, tower.trainable_variables)
    still = [v.name for v, g in zip(tower.trainable_variables, gradients, strict=True) if g is None or not np.any(g)]
    # A softmax does not see what is added to all its logits.
    assert all(name.endswith("bias:0") for name in still), still


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_modality_dropout_hides_whole_modalities(towers, strategy):
    tower = towers[strategy]
    tower.hide.generator.reset_from_seed(0)
    values, lengths = tower.features(tf.zeros([1], tf.int32))

    def shown(**present: int) -> np.ndarray:
        return tower.embed(values, {name: lengths[name] * present[name] for name in lengths}).numpy()

    results = tower(tf.zeros([4000], tf.int32), training=True).numpy()
    shares = {
        (text, audio): np.isclose(results, shown(text=text, audio=audio), atol=1e-4).all(axis=1).mean()
        for text in (0, 1)
        for audio in (0, 1)
    }
    expected = {(1, 1): 0.49, (1, 0): 0.21, (0, 1): 0.21, (0, 0): 0.09}
    assert shares == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stock_server_has_its_ops(towers, strategy):
    function = tf.function(towers[strategy], input_signature=[tf.TensorSpec([None], tf.int32)])
    assert not foreign(function_ops(function.get_concrete_function()))


@pytest.fixture(scope="module")
def three_views(content) -> ContentFeatures:
    """A third modality, which all videos show."""
    values = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    return ContentFeatures({**content.modalities, "given": Modality(values, np.ones(4, np.int32))}, {})


def test_alignment_compares_the_towers_of_videos_that_show_both(three_views):
    tower = ContentTower(three_views, CandidateConfig(adapter_units=UNITS), dropout=0.0)
    given = output(tower, three_views, "given")
    pairs = [
        (output(tower, three_views, name)[rows], given[rows]) for name, rows in (("text", [0, 1]), ("audio", [0, 2]))
    ]
    expected = np.mean([alignment_loss([(values, np.ones((2, 1), np.float32)) for values in pair]) for pair in pairs])
    assert float(tower.alignment_loss(ROWS)) == pytest.approx(expected, rel=1e-4)


def test_training_brings_the_modalities_of_a_video_together(three_views):
    tf.keras.utils.set_random_seed(0)
    tower = ContentTower(three_views, CandidateConfig(adapter_units=UNITS), dropout=0.0)
    start, optimizer = float(tower.alignment_loss(ROWS)), tf.keras.optimizers.SGD(0.05)
    for _ in range(15):
        with tf.GradientTape() as tape:
            loss = tower.alignment_loss(ROWS)
        gradients = tape.gradient(loss, tower.trainable_variables)
        learnt = [pair for pair in zip(gradients, tower.trainable_variables, strict=True) if pair[0] is not None]
        optimizer.apply_gradients(learnt)
    assert float(tower.alignment_loss(ROWS)) < 0.5 * start
