"""MFCC in the graph against librosa."""

import librosa
import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.mfcc import MFCC, mel_bands
from tfrec.media.audio import read_audio


def waveform(num_samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(num_samples)
    loudness = np.sin(time / 3_000) ** 2  # with passages that fall below the dynamic range
    return (loudness * (np.sin(time / 3) + 0.3 * random.normal(size=num_samples))).astype(np.float32)


@pytest.mark.parametrize("num_samples", [160_000, 16_001, 2_048, 300])
@pytest.mark.filterwarnings("ignore:n_fft")
def test_agrees_with_librosa(num_samples):
    sound = waveform(num_samples)
    expected = librosa.feature.mfcc(y=sound, sr=16_000, n_mfcc=40)
    result = MFCC()(sound[np.newaxis])[0].numpy().T
    assert np.abs(expected).max() > 100
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_agrees_with_librosa_for_other_parameters():
    sound = waveform(22_050)
    options = {"n_mfcc": 13, "n_fft": 512, "hop_length": 160, "n_mels": 64}
    expected = librosa.feature.mfcc(y=sound, sr=22_050, **options)
    layer = MFCC(22_050, num_coefficients=13, window_samples=512, hop_samples=160, num_mel_bands=64)
    np.testing.assert_allclose(layer(sound[np.newaxis])[0].numpy().T, expected, atol=1e-3)


def test_agrees_with_librosa_between_two_frequencies_and_in_another_range():
    sound = waveform(16_000)
    power = librosa.feature.melspectrogram(y=sound, sr=16_000, n_mels=40, fmin=60, fmax=7_000)
    expected = librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=30), n_mfcc=20)
    layer = MFCC(num_coefficients=20, num_mel_bands=40, top_db=30, lowest_hz=60, highest_hz=7_000)
    np.testing.assert_allclose(layer(sound[np.newaxis])[0].numpy().T, expected, atol=1e-3)


def test_agrees_with_librosa_on_the_sound_of_films(shared):
    films = sorted((shared / "data" / "clips" / "videos").glob("av*.mp4"))[:3]
    assert films
    for film in films:
        sound = read_audio([film], 16_000, 10.0)
        assert len(sound) > 16_000
        expected = librosa.feature.mfcc(y=sound, sr=16_000, n_mfcc=40)
        result = MFCC()(sound[np.newaxis])[0].numpy().T
        np.testing.assert_allclose(result, expected, atol=1e-3)


def test_silence():
    expected = librosa.feature.mfcc(y=np.zeros(4_000, np.float32), sr=16_000, n_mfcc=40)
    np.testing.assert_allclose(MFCC()(tf.zeros([1, 4_000]))[0].numpy().T, expected, atol=1e-3)


def test_padding_changes_nothing():
    layer = MFCC()
    sounds = [waveform(length, length) for length in (1, 5_000, 20_000, 511, 512)]
    batch = np.full((6, 24_000), 9.0, np.float32)  # what lies in the padding must not count
    for row, sound in zip(batch, sounds, strict=False):
        row[: len(sound)] = sound
    lengths = tf.constant([*map(len, sounds), 0])
    result = layer(batch, lengths).numpy()
    windows = layer.num_windows(lengths).numpy()
    np.testing.assert_array_equal(windows, [1, 10, 40, 1, 2, 0])
    for row, sound, count in zip(result, sounds, windows, strict=False):
        alone = layer(sound[np.newaxis]).numpy()[0]
        assert len(alone) == count
        np.testing.assert_allclose(row[:count], alone, atol=1e-3)
        np.testing.assert_array_equal(row[count:], 0)
    np.testing.assert_array_equal(result[-1], 0)


def test_mel_bands_are_those_of_librosa():
    expected = librosa.filters.mel(sr=44_100, n_fft=1024, n_mels=80).T
    np.testing.assert_allclose(mel_bands(44_100, 1024, 80), expected, atol=1e-7)


def test_survives_saving(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Input([None]), MFCC(num_coefficients=20)])
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras", custom_objects={"MFCC": MFCC})
    sound = waveform(3_000)[np.newaxis]
    np.testing.assert_array_equal(loaded(sound), model(sound))
    assert loaded(sound).shape == (1, 6, 20)


def test_more_coefficients_than_bands_are_refused():
    with pytest.raises(ValueError, match="between 1 and `num_mel_bands`"):
        MFCC(num_coefficients=41, num_mel_bands=40)
