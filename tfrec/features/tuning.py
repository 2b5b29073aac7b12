"""Encoders in training: from row numbers of the catalogue to content features, with gradients.

What an encoder reads is kept ready: token ids in memory, frames as uint8 in a memory-mapped file (a video of 8 frames of 96 x 96
pixels takes 220 KB there). Dropout is off and batch normalisation uses what it has learned, as when features are
extracted, so a feature depends on the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import ImageConfig, TextConfig
from tfrec.encoders.blocks import trained_variables
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.text import INPUTS, TextEncoder

_TEXTS_PER_BATCH = 512


class TunableEncoder(Protocol):
    """An encoder of one modality that is trained.

    Attributes:
        variables: those that training changes.
        module: the loaded TF Hub module that holds them.
        batch_size: videos that may be encoded at once.
    """

    variables: list[tf.Variable]
    module: Any
    batch_size: int

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Features float32 `[B, dim]` or `[B, T, dim]` of int32 `[B]` row numbers."""
        ...


class TunableTexts:
    """Texts through a BERT encoder.

    Args:
        encoder: loaded for this purpose: training changes its variables.
        texts: `[num_videos]`.
        config: which variables are trained.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], config: TextConfig) -> None:
        self.module, self.batch_size = encoder.encoder, config.batch_size
        self.variables = trained_variables(encoder.handles[1], self.module, config.training, config.trainable_layers)
        self._encoder = encoder
        ids, lengths = _token_table(encoder, texts)
        self._ids, self._lengths = tf.constant(ids), tf.constant(lengths)

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """See `TunableEncoder`."""
        lengths = tf.gather(self._lengths, rows)
        longest = tf.reduce_max(lengths)
        ids = tf.gather(self._ids, rows)[:, :longest]
        mask = tf.sequence_mask(lengths, longest, tf.int32)
        vectors = self._encoder.encode_packed(dict(zip(INPUTS, (ids, mask, tf.zeros_like(ids)), strict=True)))
        return tf.ensure_shape(vectors, [None, self._encoder.dim])


class TunableFrames:
    """Frames through an image feature vector.

    Args:
        encoder: loaded for this purpose: training changes its variables.
        frames: uint8 `[num_videos, num_frames, image_size, image_size, 3]`, may be memory-mapped.
        lengths: int32 `[num_videos]`, frames present.
        config: which variables are trained.
    """

    def __init__(
        self, encoder: ImageEncoder, frames: NDArray[np.uint8], lengths: NDArray[np.int32], config: ImageConfig
    ) -> None:
        self.module, self.batch_size = encoder.module, max(1, config.batch_size // config.num_frames)
        self.variables = trained_variables(encoder.handle, self.module, config.training, config.trainable_layers)
        self._encoder = encoder
        self._frames, self._lengths = frames, tf.constant(lengths)

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """See `TunableEncoder`."""
        frames = tf.numpy_function(lambda places: self._frames[places], [rows], tf.uint8, stateful=False)
        frames = tf.ensure_shape(frames, [None, *self._frames.shape[1:]])
        present = tf.sequence_mask(tf.gather(self._lengths, rows), frames.shape[1])
        vectors = self._encoder(tf.boolean_mask(frames, present))
        places = tf.cast(tf.where(present), tf.int32)
        return tf.scatter_nd(places, vectors, [tf.size(rows), frames.shape[1], self._encoder.dim])


def save_tuned(encoder: TunableEncoder, folder: Path) -> None:
    """Writes the module with the weights it has now."""
    tf.saved_model.save(encoder.module, str(folder))


def _token_table(encoder: TextEncoder, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids, padded with 0 to the longest text, and how many each text has."""
    pack = tf.function(encoder.pack, input_signature=[tf.TensorSpec([None], tf.string)])
    starts = range(0, len(texts), _TEXTS_PER_BATCH)
    batches = [pack(tf.constant(texts[start : start + _TEXTS_PER_BATCH], tf.string)) for start in starts]
    lengths = np.concatenate([packed["input_mask"].numpy().sum(axis=1) for packed in batches]).astype(np.int32)
    ids = np.zeros((len(texts), int(lengths.max(initial=0))), np.int32)
    for start, packed in zip(starts, batches, strict=True):
        part = packed["input_word_ids"].numpy()[:, : ids.shape[1]]
        ids[start : start + len(part), : part.shape[1]] = part
    return ids, lengths
