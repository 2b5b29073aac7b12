"""Search by free text: the catalogue's text embeddings against that of the query."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrec.data.schema import FloatArray
from tfrec.export.ops import foreign, function_ops


class TextSearch:
    """Exact cosine over all texts.

    Args:
        encoder: `TextEncoder`, or another trackable that turns strings `[B]` into float32 `[B, dim]`.
        embeddings: float `[num_videos, dim]` of the catalogue's texts by the same encoder, zeros where there is none.
    """

    def __init__(self, encoder: Callable[[tf.Tensor], tf.Tensor], embeddings: FloatArray) -> None:
        self.encoder = encoder
        traced = tf.function(encoder).get_concrete_function(tf.TensorSpec([None], tf.string))
        self.foreign_ops = foreign(function_ops(traced))
        """Ops of the encoder that a stock server lacks: where there are any, search cannot be exported."""
        lengths = np.linalg.norm(np.asarray(embeddings, np.float32), axis=1, keepdims=True)
        directions = embeddings / np.maximum(lengths, 1e-12)
        self._directions = tf.Variable(directions, trainable=False, dtype=tf.float32, name="text_directions")
        self._present = tf.Variable(lengths[:, 0] > 0, trainable=False, name="has_text")

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        """Float32 `[B, num_videos]` cosines of string `[B]`; -inf for a video without text, and for an empty query."""
        cosine = tf.matmul(tf.math.l2_normalize(self.encoder(queries), axis=1), self._directions, transpose_b=True)
        return tf.where(self._present & (queries != "")[:, None], cosine, -np.inf)
