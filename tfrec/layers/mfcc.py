"""Mel-frequency cepstral coefficients of a waveform, in the graph.

A *window* is a stretch of `window_samples`, centred on a multiple of `hop_samples`; the waveform is taken as silent before its
start and after its end, so there are `1 + samples // hop_samples` windows. The numbers are those of
`librosa.feature.mfcc` 0.11 with its defaults: Hann window, power spectrum, Slaney mel bands of equal area, decibels
down to 80 below the example's loudest, orthonormal DCT-II.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_LINEAR_HZ_PER_MEL = 200 / 3  # Slaney: linear up to 1 kHz, then 27 mel per factor of 6.4
_LOG_START_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27
_SMALLEST_POWER = 1e-10


class MFCC(tf.keras.layers.Layer):
    """MFCC of a batch of waveforms, each as if it were alone.

    Args:
        sample_rate_hz: rate of the waveforms.
        num_coefficients: coefficients kept per window.
        window_samples: samples per window.
        hop_samples: samples between windows.
        num_mel_bands: mel bands.
        top_db: dynamic range in decibels.
        lowest_hz: where the lowest band begins.
        highest_hz: where the highest band ends; 0 means half the sample rate.

    References:
        Slaney, Auditory Toolbox, 1998. McFee et al., librosa, SciPy 2015.
    """

    def __init__(
        self,
        sample_rate_hz: int = 16_000,
        num_coefficients: int = 40,
        window_samples: int = 2048,
        hop_samples: int = 512,
        num_mel_bands: int = 128,
        top_db: float = 80.0,
        lowest_hz: float = 0.0,
        highest_hz: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not 0 < num_coefficients <= num_mel_bands:
            raise ValueError(
                f"`num_coefficients` must be between 1 and `num_mel_bands` ({num_mel_bands}). Received: {num_coefficients}."
            )
        super().__init__(**kwargs)
        self.sample_rate_hz = sample_rate_hz
        self.num_coefficients = num_coefficients
        self.window_samples = window_samples
        self.hop_samples = hop_samples
        self.num_mel_bands = num_mel_bands
        self.top_db = top_db
        self.lowest_hz, self.highest_hz = lowest_hz, highest_hz
        self._mel_bands = mel_bands(sample_rate_hz, window_samples, num_mel_bands, lowest_hz, highest_hz)

    def num_windows(self, num_samples: tf.Tensor) -> tf.Tensor:
        """Windows of a waveform with `num_samples`, same shape; none where there are no samples."""
        return tf.where(num_samples > 0, 1 + num_samples // self.hop_samples, 0)

    def call(self, waveforms: tf.Tensor, num_samples: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the coefficients.

        Args:
            waveforms: float32 `[batch, samples]`.
            num_samples: int32 `[batch]`, samples before the padding; without it all are real.

        Returns:
            float32 `[batch, 1 + samples // hop_samples, num_coefficients]`, 0 in windows past `num_windows(num_samples)`.
        """
        if num_samples is None:
            num_samples = tf.fill([tf.shape(waveforms)[0]], tf.shape(waveforms)[1])
        waveforms = tf.where(tf.sequence_mask(num_samples, tf.shape(waveforms)[1]), waveforms, 0.0)
        power = self._mel_power(waveforms)
        present = tf.sequence_mask(self.num_windows(num_samples), tf.shape(power)[1])[..., tf.newaxis]
        decibels = self._decibels(tf.where(present, power, 0.0))
        cepstrum = tf.signal.dct(decibels, type=2, norm="ortho")[..., : self.num_coefficients]
        return tf.where(present, cepstrum, 0.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return super().get_config() | {
            "sample_rate_hz": self.sample_rate_hz,
            "num_coefficients": self.num_coefficients,
            "window_samples": self.window_samples,
            "hop_samples": self.hop_samples,
            "num_mel_bands": self.num_mel_bands,
            "top_db": self.top_db,
            "lowest_hz": self.lowest_hz,
            "highest_hz": self.highest_hz,
        }

    def _mel_power(self, waveforms: tf.Tensor) -> tf.Tensor:
        """`[batch, windows, num_mel_bands]`."""
        half = self.window_samples // 2
        padded = tf.pad(waveforms, [[0, 0], [half, half]])
        spectrum = tf.signal.stft(padded, self.window_samples, self.hop_samples, fft_length=self.window_samples)
        return tf.tensordot(tf.square(tf.abs(spectrum)), self._mel_bands, 1)

    def _decibels(self, power: tf.Tensor) -> tf.Tensor:
        decibels = 10 / np.log(10) * tf.math.log(tf.maximum(power, _SMALLEST_POWER))
        return tf.maximum(decibels, tf.reduce_max(decibels, axis=[1, 2], keepdims=True) - self.top_db)


def mel_bands(
    sample_rate_hz: int, window_samples: int, num_bands: int, lowest_hz: float = 0.0, highest_hz: float = 0.0
) -> NDArray[np.float32]:
    """Triangular bands of equal area, evenly spaced in mel from `lowest_hz` to `highest_hz` (0: half the sample rate).

    Returns:
        float32 `[1 + window_samples // 2, num_bands]` weights of the spectrum's bins.
    """
    bins = np.linspace(0, sample_rate_hz / 2, 1 + window_samples // 2)
    limits = _to_mel(lowest_hz), _to_mel(highest_hz or sample_rate_hz / 2)
    edges = _to_hz(np.linspace(*limits, num_bands + 2))
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


def _to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_LOG_START_HZ / _LINEAR_HZ_PER_MEL + np.log(hz / _LOG_START_HZ) / _LOG_STEP)


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    log_start = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
    logarithmic = _LOG_START_HZ * np.exp(_LOG_STEP * (mel - log_start))
    return np.where(mel < log_start, mel * _LINEAR_HZ_PER_MEL, logarithmic)
