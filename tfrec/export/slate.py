"""Which candidates fill the slots: good ones that are not all alike, and no two that are nearly the same.

Slots are filled one after the other. Each takes the candidate whose relevance, less its likeness to what is in the slate already,
is largest; one that is nearly the same as a video in the slate is never taken. What was taken is shown by score.

References:
    Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents, SIGIR 1998.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrec.export.candidates import widened

NOWHERE = 1 << 30
"""Place of what fills no slot: behind all places."""


class Slate(NamedTuple):
    """What is shown.

    Args:
        rows: int32 `[B, K]` row numbers, -1 for an empty slot.
        places: int32 `[B, K]` among the candidates.
    """

    rows: tf.Tensor
    places: tf.Tensor


class Likeness(tf.Module):
    """How alike videos are.

    Args:
        directions: float `[num_videos, d]` unit vectors, kept as float16; zeros for what is like no other.
    """

    def __init__(self, directions: tf.Tensor) -> None:
        super().__init__()
        self._directions = tf.Variable(tf.cast(directions, tf.float16), trainable=False, name="directions")

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[B, C, d]` for int32 `[B, C]` row numbers; zeros for -1."""
        gathered = tf.gather(tf.convert_to_tensor(self._directions), tf.maximum(rows, 0))
        return tf.where(rows[:, :, None] >= 0, tf.cast(gathered, tf.float32), 0.0)


class SlotFiller:
    """Fills slots.

    Args:
        likeness: of the videos.
        max_k: slots at most.
        max_similarity: cosine above which two videos are nearly the same and not shown together; 1 allows all.
    """

    def __init__(self, likeness: Likeness, max_k: int, max_similarity: float) -> None:
        self._likeness = likeness
        self._max_k = max_k
        self._max_similarity = max_similarity if max_similarity < 1 else np.inf

    def fill(self, rows: tf.Tensor, score: tf.Tensor, k: tf.Tensor, diversity: tf.Tensor) -> Slate:
        """The slate of each request, as wide as the largest `k`.

        Args:
            rows: int32 `[B, C]` candidates, -1 padding.
            score: float32 `[B, C]`, 0 or more.
            k: int32 `[B]` slots wanted.
            diversity: float32 `[B]` from 0 (score alone counts) to 1 (likeness alone).
        """
        k = tf.clip_by_value(k, 0, self._max_k)
        width = tf.maximum(tf.reduce_max(k), 1)
        score = tf.where(rows >= 0, score, -np.inf)
        ranked = tf.math.top_k(score, tf.shape(rows)[1])
        rows = tf.gather(rows, ranked.indices, batch_dims=1)
        places = tf.cond(
            tf.reduce_any(diversity > 0) | self._any_alike(rows[:, :width]),
            lambda: self._marginal(rows, ranked.values, width, diversity),
            lambda: tf.where(rows[:, :width] >= 0, tf.range(tf.shape(rows[:, :width])[1]), NOWHERE),
        )
        places = widened(places, width, NOWHERE)
        # Candidates are in the order of their scores, so slots in the order of their places are too.
        places = tf.sort(tf.where(tf.range(width) < k[:, None], places, NOWHERE), axis=1)
        filled = places < NOWHERE
        places = tf.where(filled, places, 0)
        shown = tf.where(filled, tf.gather(rows, places, batch_dims=1), -1)
        return Slate(shown, tf.gather(ranked.indices, places, batch_dims=1))

    def _any_alike(self, rows: tf.Tensor) -> tf.Tensor:
        """Bool scalar: in one of the requests, two of the videos int32 `[B, W]` are nearly the same."""
        directions = self._likeness.of(rows)
        cosine = tf.matmul(directions, directions, transpose_b=True)
        return tf.reduce_any(tf.linalg.set_diag(cosine, tf.zeros_like(directions[:, :, 0])) > self._max_similarity)

    def _marginal(self, rows: tf.Tensor, score: tf.Tensor, width: tf.Tensor, diversity: tf.Tensor) -> tf.Tensor:
        """int32 `[B, width]` places in the order in which they are taken, then `NOWHERE`; scores descend."""
        directions = self._likeness.of(rows)
        relevance = (1 - diversity)[:, None] * tf.math.divide_no_nan(score, score[:, :1])
        relevance = tf.where(rows >= 0, relevance, -np.inf)
        numbers = tf.range(tf.shape(rows)[1])

        def take(
            slot: tf.Tensor, relevance: tf.Tensor, likeness: tf.Tensor, taken: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.TensorArray]:
            worth = relevance - diversity[:, None] * likeness
            place = tf.argmax(worth, axis=1, output_type=tf.int32)
            is_left = tf.reduce_max(worth, axis=1) > -np.inf
            direction = tf.gather(directions, place, batch_dims=1)
            cosine = tf.squeeze(tf.matmul(directions, direction[:, :, None]), 2)
            out = (numbers == place[:, None]) | (cosine > self._max_similarity)
            taken = taken.write(slot, tf.where(is_left, place, NOWHERE))
            return slot + 1, tf.where(out, -np.inf, relevance), tf.maximum(likeness, cosine), taken

        taken = tf.TensorArray(tf.int32, width, element_shape=[None])
        start = (tf.constant(0), relevance, tf.zeros_like(relevance), taken)
        taken = tf.while_loop(lambda slot, *_: slot < width, take, start)[3]
        return tf.transpose(taken.stack())
