"""Waveforms to MFCC sequences of bounded length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import AudioConfig
from tfrec.layers.deltas import delta
from tfrec.layers.mfcc import MFCC


class AudioEncoder(tf.Module):
    """MFCC windows, averaged down to at most `num_steps`, in the graph and in bulk.

    Args:
        config: of the MFCC and the number of steps.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__(name="audio_encoder")
        self._config = config
        self.mfcc = MFCC(
            config.sample_rate_hz,
            config.num_coefficients,
            config.window_samples,
            config.hop_samples,
            config.num_mel_bands,
            config.top_db,
            config.lowest_hz,
            config.highest_hz,
        )
        signature = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)]
        self._encode = tf.function(self.__call__, input_signature=signature)

    @property
    def version(self) -> str:
        """Changes whenever the same waveform may get other numbers."""
        config = self._config
        numbers = (
            config.sample_rate_hz,
            config.num_coefficients,
            config.window_samples,
            config.hop_samples,
            config.num_steps,
        )
        version = f"mfcc-{'-'.join(map(str, numbers))}-{config.max_seconds:g}s"
        rarer = {
            name: getattr(config, name) for name in ("num_mel_bands", "lowest_hz", "highest_hz", "top_db", "deltas")
        }
        changed = [f"-{name}-{value:g}" for name, value in rarer.items() if value != getattr(AudioConfig(), name)]
        if config.decoder != "av":
            changed.append(f"-{config.decoder}")
        return version + "".join(changed)  # what was encoded before these options existed stays valid

    def __call__(self, waveforms: tf.Tensor, num_samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the sequences.

        Args:
            waveforms: float32 `[batch, samples]`.
            num_samples: int32 `[batch]`, samples before the padding; 0 where there is no sound track.

        Returns:
            float32 `[batch, num_steps, dim]`, 0 past the end, and int32 `[batch]` lengths; `dim` numbers are the coefficients,
            then their deltas. A waveform of no more than `num_steps` windows keeps them; of a longer one, each step is the mean
            of an equal share.
        """
        coefficients = self.mfcc(waveforms, num_samples)
        num_windows = self.mfcc.num_windows(num_samples)
        changes = [delta(coefficients, num_windows, order) for order in range(1, self._config.deltas + 1)]
        return mean_steps(tf.concat([coefficients, *changes], axis=2), num_windows, self._config.num_steps)

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """`__call__` on waveforms of any lengths: `[num_waveforms, num_steps, dim]`, `[num_waveforms]`."""
        num_samples = np.array([len(waveform) for waveform in waveforms], np.int32)
        padded = np.zeros((len(waveforms), num_samples.max(initial=1)), np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        steps, lengths = self._encode(padded, num_samples)
        return steps.numpy(), lengths.numpy()


def mean_steps(windows: tf.Tensor, num_windows: tf.Tensor, num_steps: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Averages sequences down to at most `num_steps`.

    Args:
        windows: float32 `[batch, windows, dim]`.
        num_windows: int32 `[batch]`.
        num_steps: most steps.

    Returns:
        float32 `[batch, num_steps, dim]`, 0 past the end, and int32 `[batch]` lengths.
    """
    batch, longest, dim = tf.unstack(tf.shape(windows))
    lengths = tf.minimum(num_windows, num_steps)
    place = tf.range(longest)[tf.newaxis]
    step = place * lengths[:, tf.newaxis] // tf.maximum(num_windows, 1)[:, tf.newaxis]
    # Padding goes into one more step, which is cut off.
    step = tf.where(place < num_windows[:, tf.newaxis], step, num_steps)
    segment = step + (num_steps + 1) * tf.range(batch)[:, tf.newaxis]
    means = tf.math.unsorted_segment_mean(
        tf.reshape(windows, [-1, dim]), tf.reshape(segment, [-1]), batch * (num_steps + 1)
    )
    steps = tf.reshape(means, [batch, num_steps + 1, dim])[:, :num_steps]
    return tf.ensure_shape(steps, [None, num_steps, windows.shape[-1]]), lengths
