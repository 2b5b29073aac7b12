"""Towers over one modality: standardised over what is present, blind to padding."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig
from tfrec.features.content import Modality
from tfrec.layers.spec_augment import SpecAugment
from tfrec.towers.modality import SequenceTower, Standardisation, StatisticsTower, VectorTower, make_tower

FOUR = CandidateConfig(adapter_units=4)


@pytest.fixture
def vectors() -> Modality:
    return Modality(np.array([[1, 10], [3, 10], [0, 0], [5, 10]], np.float16), np.array([1, 1, 0, 1], np.int32))


@pytest.fixture(scope="module")
def sequences() -> Modality:
    draw = np.random.default_rng(0)
    return Modality(draw.normal(size=(6, 8, 3)).astype(np.float32), np.array([8, 5, 0, 1, 2, 7], np.int32))


def test_standardises_over_the_videos_that_have_the_modality(vectors):
    standard = Standardisation(vectors)(vectors.values[[0, 1, 3]])
    deviation = np.sqrt(8 / 3)  # of 1, 3, 5
    np.testing.assert_allclose(standard, [[-2 / deviation, 0], [0, 0], [2 / deviation, 0]], rtol=1e-3)


def test_standardises_over_the_steps_present():
    values = np.array([[[2.0], [4.0], [99.0]], [[9.0], [77.0], [88.0]]], np.float32)
    standard = Standardisation(Modality(values, np.array([2, 1], np.int32)))(values[:, :1])
    deviation = np.sqrt((9 + 1 + 16) / 3)  # of 2, 4, 9, whose mean is 5
    np.testing.assert_allclose(standard[:, 0, 0], [-3 / deviation, 4 / deviation], rtol=1e-5)


def test_modality_that_no_video_has():
    nobody = Modality(np.zeros((3, 2), np.float32), np.zeros(3, np.int32))
    np.testing.assert_array_equal(Standardisation(nobody)(nobody.values), np.zeros((3, 2)))


def test_sample_of_a_large_catalogue():
    values = np.tile(np.array([[0.0], [2.0], [4.0]], np.float32), (100, 1))
    standard = Standardisation(Modality(values, np.ones(300, np.int32)), sample=60)
    assert abs(float(standard.mean[0]) - 2) < 0.2


@pytest.mark.parametrize(("pooling", "num_convolutions"), [("mean", 2), ("attention", 1)])
def test_sequence_tower_ignores_padding(sequences, pooling, num_convolutions):
    tower = SequenceTower(sequences, 4, 0.0, num_convolutions, pooling)
    values, lengths = sequences.values, sequences.lengths
    expected = tower(values, lengths).numpy()
    present = (np.arange(8) < lengths[:, None])[:, :, None]
    np.testing.assert_allclose(tower(np.where(present, values, 50).astype(np.float32), lengths), expected, atol=1e-5)
    longer = np.concatenate([values, np.full((6, 3, 3), 50, np.float32)], axis=1)
    np.testing.assert_allclose(tower(longer, lengths), expected, atol=1e-5)
    np.testing.assert_allclose(tower(values[1:2, :5], lengths[1:2]), expected[1:2], atol=1e-5)


def test_sequence_tower_sees_order_and_level(sequences):
    tower = SequenceTower(sequences, 4, 0.0, 1, "attention")
    values = sequences.values[:1]
    result = tower(values, tf.constant([8])).numpy()
    assert np.abs(tower(values[:, ::-1], tf.constant([8])) - result).max() > 1e-3
    assert np.abs(tower(values + 1, tf.constant([8])) - result).max() > 1e-3


def test_one_vector_or_many(vectors, sequences):
    assert isinstance(make_tower("text", vectors, FOUR, 0.0), VectorTower)
    assert make_tower("text", vectors, FOUR, 0.0)(vectors.values, vectors.lengths).shape == (4, 4)
    audio, video = (make_tower(name, sequences, FOUR, 0.0) for name in ("audio", "video"))
    assert isinstance(audio, SequenceTower)
    assert isinstance(video, SequenceTower)
    assert audio(sequences.values, sequences.lengths).shape == (6, 4)


def test_dropout_in_training_only(vectors, sequences):
    for tower, modality in (
        (make_tower("text", vectors, CandidateConfig(), 0.5), vectors),
        (make_tower("audio", sequences, CandidateConfig(), 0.5), sequences),
        (make_tower("audio", sequences, CandidateConfig(audio_tower="statistics"), 0.5), sequences),
    ):
        calm = tower(modality.values, modality.lengths).numpy()
        np.testing.assert_array_equal(tower(modality.values, modality.lengths), calm)
        assert np.abs(tower(modality.values, modality.lengths, training=True) - calm).max() > 1e-3


def test_statistics_over_the_steps_present(sequences):
    tower = make_tower("audio", sequences, CandidateConfig(adapter_units=4, audio_tower="statistics"), 0.0)
    assert isinstance(tower, StatisticsTower)
    values, lengths = sequences.values, sequences.lengths
    result = tower(np.where((np.arange(8) < lengths[:, None])[:, :, None], values, 50).astype(np.float32), lengths)
    standard = tower.standardise(values).numpy()
    steps = [standard[row, :length] for row, length in enumerate(lengths) if length]
    statistics = tf.constant([[*part.mean(axis=0), *part.std(axis=0)] for part in steps], tf.float32)
    np.testing.assert_allclose(np.asarray(result)[lengths > 0], tower.adapter(statistics), atol=3e-3)


def test_statistics_of_a_single_step_have_a_gradient(sequences):
    tower = StatisticsTower(sequences, 4, 0.0)
    values = tf.constant(sequences.values[3:4])
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_sum(tower(values, tf.constant([1])))
    assert np.isfinite(tape.gradient(loss, values)).all()


def test_frames_are_pooled_by_a_plain_mean_where_it_is_asked_for(sequences):
    tower = make_tower("video", sequences, CandidateConfig(adapter_units=4, frame_pooling="mean"), 0.0)
    lengths = tf.constant([2])  # one step after the convolution, beside padding that has to be left out
    tower(tf.constant(sequences.values[:1]), lengths)
    standard = tower.standardise(sequences.values[:1])
    hidden = tower.convolutions[0](standard, lengths)[0][:, 0]
    expected = tf.nn.gelu(hidden + tower.shortcut(tf.reduce_mean(standard[:, :2], axis=1)))
    np.testing.assert_allclose(tower(tf.constant(sequences.values[:1]), lengths), expected, atol=1e-5)
    attentive = make_tower("video", sequences, CandidateConfig(adapter_units=4), 0.0)
    inputs = (tf.constant(sequences.values), tf.constant(sequences.lengths))
    tower(*inputs), attentive(*inputs)
    assert len(attentive.trainable_variables) > len(tower.trainable_variables)


@pytest.mark.parametrize("kind", ["convolution", "statistics"])
def test_sound_is_masked_in_training_where_it_is_asked_for(sequences, kind):
    config = CandidateConfig(adapter_units=4, audio_tower=kind, audio_time_mask=0.6)
    masked, plain = (
        make_tower("audio", sequences, options, 0.0)
        for options in (config, CandidateConfig(adapter_units=4, audio_tower=kind))
    )
    assert isinstance(masked.augment, SpecAugment)
    assert plain.augment is None
    values, lengths = sequences.values, sequences.lengths
    calm = masked(values, lengths).numpy()
    assert np.abs(masked(values, lengths, training=True) - calm).max() > 1e-3
    np.testing.assert_array_equal(plain(values, lengths, training=True), plain(values, lengths))
