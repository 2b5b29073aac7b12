"""MFCC sequences of bounded length."""

import librosa
import numpy as np
import tensorflow as tf

from tfrec.config import AudioConfig
from tfrec.features.audio import AudioEncoder, mean_steps


def test_windows_are_averaged_down_in_equal_shares():
    windows = tf.constant([[[1.0], [3], [5], [7], [9]], [[2.0], [4], [0], [0], [0]], [[0.0]] * 5])
    steps, lengths = mean_steps(windows, tf.constant([5, 2, 0]), 2)
    np.testing.assert_array_equal(lengths, [2, 2, 0])
    # five windows: the first three (places 0, 1, 2 -> 0) and the last two
    np.testing.assert_allclose(steps[..., 0], [[3, 8], [2, 4], [0, 0]])


def test_short_sounds_keep_their_windows():
    steps, lengths = mean_steps(tf.constant([[[1.0, 2.0], [3.0, 4.0]]]), tf.constant([2]), 4)
    np.testing.assert_array_equal(lengths, [2])
    np.testing.assert_array_equal(steps, [[[1, 2], [3, 4], [0, 0], [0, 0]]])


def test_a_batch_equals_each_sound_alone():
    random = np.random.default_rng(0)
    sounds = [random.normal(size=size).astype(np.float32) for size in (30_000, 800, 0, 5)]
    encoder = AudioEncoder(AudioConfig(num_steps=6))
    steps, lengths = encoder.encode(sounds)
    assert steps.shape == (4, 6, 40)
    np.testing.assert_array_equal(lengths, [6, 2, 0, 1])
    for row, sound in enumerate(sounds):
        alone, length = encoder.encode([sound])
        assert length[0] == lengths[row]
        np.testing.assert_allclose(alone[0], steps[row], atol=1e-3)


def test_deltas_stand_beside_the_coefficients():
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    coefficients = librosa.feature.mfcc(y=sound, sr=16_000, n_mfcc=13)
    parts = [coefficients, *(librosa.feature.delta(coefficients, order=order) for order in (1, 2))]
    config = AudioConfig(num_coefficients=13, deltas=2, num_steps=40)
    steps, lengths = AudioEncoder(config).encode([sound, sound[:2000]])
    assert steps.shape == (2, 40, config.dim) == (2, 40, 39)
    np.testing.assert_array_equal(lengths, [32, 4])
    np.testing.assert_allclose(steps[0, :32], np.concatenate(parts).T, atol=1e-3)
    np.testing.assert_array_equal(steps[1, :, 13:], 0)  # too short to tell


def test_versions_tell_settings_apart():
    versions = {
        AudioEncoder(config).version
        for config in (
            AudioConfig(),
            AudioConfig(num_steps=3),
            AudioConfig(8_000),
            AudioConfig(deltas=1),
            AudioConfig(highest_hz=4_000),
            AudioConfig(lowest_hz=40),
            AudioConfig(top_db=40),
            AudioConfig(num_mel_bands=40),
        )
    }
    assert len(versions) == 8
