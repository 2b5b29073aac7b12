"""Towers over one modality each: from cached content features to an adapter's output.

A tower takes the features of some videos and how many steps each has (0 = the modality is missing), and gives one vector
per video. `make_tower` is where a new kind of modality is registered.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrec.config import CandidateConfig
from tfrec.features.content import Modality
from tfrec.layers.acceleration import Dense
from tfrec.layers.dropout import Dropout
from tfrec.layers.pooling import AttentionPooling, masked_deviation, masked_mean
from tfrec.layers.spec_augment import SpecAugment
from tfrec.layers.temporal_convolution import TemporalConvolution


class Standardisation(tf.keras.layers.Layer):
    """Brings each dimension to mean 0 and deviation 1 over the catalogue.

    Args:
        modality: the features measured, those present.
        sample: rows measured at most.
    """

    def __init__(self, modality: Modality, sample: int = 20_000) -> None:
        super().__init__()
        rows = np.flatnonzero(modality.lengths)[:: max(1, len(modality.lengths) // sample)]
        values = np.asarray(modality.values[rows], np.float32).reshape(-1, modality.dim)
        if modality.is_sequence:
            steps = np.arange(modality.values.shape[1]) < modality.lengths[rows, None]
            values = values[steps.reshape(-1)]
        mean, deviation = (values.mean(0), values.std(0)) if len(values) else (np.zeros(modality.dim),) * 2
        self.mean = self._constant("mean", mean)
        # What (almost) never varies in the catalogue says nothing, and must not shout in a new video in which it does.
        varies = deviation > 1e-3 * deviation.max()
        self.scale = self._constant("scale", np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0))

    def _constant(self, name: str, value: np.ndarray) -> tf.Variable:  # type: ignore[type-arg]
        return self.add_weight(name, value.shape, initializer=tf.constant_initializer(value), trainable=False)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """Any leading shape; the last axis is standardised."""
        return (tf.cast(values, tf.float32) - self.mean) * self.scale


class VectorTower(tf.keras.layers.Layer):
    """An adapter over one vector per video: text, generation metadata, embeddings the user brought.

    Args:
        modality: its features.
        units: width of the output.
        dropout: in training.
    """

    def __init__(self, modality: Modality, units: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardisation(modality)
        self.adapter = tf.keras.Sequential([Dropout(dropout), Dense(units, activation="gelu")])

    def call(self, values: tf.Tensor, lengths: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From `[B, dim]` and int32 `[B]` to `[B, units]`."""
        return self.adapter(self.standardise(values), training=training)


class SequenceTower(tf.keras.layers.Layer):
    """Temporal convolutions (kernel 3, stride 2) over a sequence, then pooling.

    Args:
        modality: its features.
        units: width of the output.
        dropout: in training.
        num_convolutions: each halves the steps.
        pooling: `mean` or `attention`.
        augment: masks the sequence in training, if given.
    """

    def __init__(
        self,
        modality: Modality,
        units: int,
        dropout: float,
        num_convolutions: int,
        pooling: str,
        augment: SpecAugment | None = None,
    ) -> None:
        super().__init__()
        self.standardise = Standardisation(modality)
        self.augment = augment
        self.dropout = Dropout(dropout)
        self.convolutions = [TemporalConvolution(units) for _ in range(num_convolutions)]
        self.pool = AttentionPooling() if pooling == "attention" else masked_mean
        # What does not change over time needs no convolution.
        self.shortcut = Dense(units)

    def call(self, values: tf.Tensor, lengths: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From `[B, T, dim]` and int32 `[B]` to `[B, units]`."""
        values = self.standardise(values)
        if self.augment is not None:
            values = self.augment(values, lengths, training=training)
        mean = masked_mean(values, tf.sequence_mask(lengths, tf.shape(values)[1]))
        hidden = self.dropout(values, training=training)
        for convolution in self.convolutions:
            hidden, lengths = convolution(hidden, lengths)
        pooled = self.pool(hidden, tf.sequence_mask(lengths, tf.shape(hidden)[1]))
        return tf.nn.gelu(pooled + self.shortcut(self.dropout(mean, training=training)))


class StatisticsTower(tf.keras.layers.Layer):
    """An adapter over the mean and the deviation of a sequence's steps; it does not see their order.

    Args:
        modality: its features.
        units: width of the output.
        dropout: in training.
        augment: masks the sequence in training, if given.
    """

    def __init__(self, modality: Modality, units: int, dropout: float, augment: SpecAugment | None = None) -> None:
        super().__init__()
        self.standardise = Standardisation(modality)
        self.augment = augment
        self.adapter = tf.keras.Sequential([Dropout(dropout), Dense(units, activation="gelu")])

    def call(self, values: tf.Tensor, lengths: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From `[B, T, dim]` and int32 `[B]` to `[B, units]`."""
        values = self.standardise(values)
        if self.augment is not None:
            values = self.augment(values, lengths, training=training)
        mask = tf.sequence_mask(lengths, tf.shape(values)[1])
        statistics = tf.concat([masked_mean(values, mask), masked_deviation(values, mask)], axis=1)
        return self.adapter(statistics, training=training)


def make_tower(name: str, modality: Modality, config: CandidateConfig, dropout: float) -> tf.keras.layers.Layer:
    """The tower of a modality.

    Args:
        name: of the modality.
        modality: its features.
        config: width of the output, and what the towers of frames and sound are like.
        dropout: in training.

    Returns:
        A layer from (values, lengths) to `[B, adapter_units]`.
    """
    units = config.adapter_units
    if not modality.is_sequence:
        return VectorTower(modality, units, dropout)
    if name != "audio":
        return SequenceTower(modality, units, dropout, num_convolutions=1, pooling=config.frame_pooling)
    masked = config.audio_time_mask or config.audio_coefficient_mask
    augment = SpecAugment(config.audio_time_mask, config.audio_coefficient_mask) if masked else None
    if config.audio_tower == "statistics":
        return StatisticsTower(modality, units, dropout, augment)
    return SequenceTower(modality, units, dropout, num_convolutions=2, pooling="mean", augment=augment)
