"""Directions of content, short enough for an index: what content-kNN goes by, as a block of the embeddings.

Learned maps from content to tastes blur what sets one video apart from the next. Where few users teach them, nearness of the
contents themselves finds more of what is watched (docs/cold-start.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.features.content import ContentFeatures, Modality
from tfrec.layers.pooling import masked_mean

BATCH = 4096
"""Videos whose directions are computed at once."""


class ContentBlock:
    """From content features to unit vectors.

    Each modality is pooled to one vector, seen from the mean of the catalogue, and brought to length 1; those that a video has
    stand side by side, as one unit vector. So where videos have the same modalities, the inner product is the mean of their
    cosines. Principal components shorten it.

    Args:
        content: of the catalogue.
        names: modalities that count.
        dim: width at most.
    """

    def __init__(self, content: ContentFeatures, names: Sequence[str], dim: int) -> None:
        self.names = tuple(names)
        modalities = {name: content.modalities[name] for name in names}
        self._means = {name: tf.constant(_mean(modality)) for name, modality in modalities.items()}
        size = len(next(iter(modalities.values())).lengths)
        directions = np.concatenate([self._rows(modalities, start) for start in range(0, size, BATCH)])
        self._components = tf.constant(_principal_components(directions, dim))
        self.catalogue: NDArray[np.float32] = directions @ self._components.numpy()
        """float32 `[num_videos, dim]`: zeros for a video that has none of the modalities."""

    @property
    def dim(self) -> int:
        """Width."""
        return int(self._components.shape[1])

    def embed(self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """float32 `[B, dim]` of videos that may be in no catalogue; arguments as `ContentTower.embed`."""
        return self._directions(values, lengths) @ self._components

    def _rows(self, modalities: Mapping[str, Modality], start: int) -> NDArray[np.float32]:
        rows = slice(start, start + BATCH)
        values = {name: tf.constant(modality.values[rows]) for name, modality in modalities.items()}
        lengths = {name: tf.constant(modality.lengths[rows]) for name, modality in modalities.items()}
        return np.asarray(self._directions(values, lengths))

    def _directions(self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor]) -> tf.Tensor:
        parts, count = [], tf.zeros([])
        for name, mean in self._means.items():
            value = tf.cast(values[name], tf.float32)
            if value.shape.rank == 3:
                value = masked_mean(value, tf.sequence_mask(lengths[name], tf.shape(value)[1]))
            present = tf.cast(lengths[name] > 0, tf.float32)[:, None]
            parts.append(tf.nn.l2_normalize(value - mean, axis=1) * present)
            count += present
        return tf.concat(parts, axis=1) / tf.sqrt(tf.maximum(count, 1.0))


def _mean(modality: Modality) -> NDArray[np.float32]:
    present = modality.lengths > 0
    pooled = modality.pooled()
    return pooled[present].mean(axis=0) if present.any() else np.zeros(modality.dim, np.float32)


def _principal_components(directions: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """float32 `[width, dim]` of float32 `[n, width]`: orthonormal, and no projection keeps inner products better."""
    width = directions.shape[1]
    if width <= dim:
        return np.eye(width, dtype=np.float32)
    _, vectors = np.linalg.eigh((directions.T @ directions).astype(np.float64))
    return np.ascontiguousarray(vectors[:, ::-1][:, :dim], np.float32)
