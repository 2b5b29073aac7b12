"""Which videos may be shown: what the catalogue hides, and what a request forbids.

A video is *hidden* from a request that asks for more safety than it has; a blocked one has less than any request can ask for.
It is *forbidden* where its user has watched it, or the request excludes or blocks it. The rest is *allowed*.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class Filters(NamedTuple):
    """What requests may not be shown.

    Args:
        forbidden: int32 `[B, F]` row numbers, ascending; -1 is padding. `F` is at least 1.
        min_safety: float32 `[B]`, 0 or more.
    """

    forbidden: tf.Tensor
    min_safety: tf.Tensor

    @property
    def num_forbidden(self) -> tf.Tensor:
        """int32 scalar: the most that are forbidden in one request, repetitions counted."""
        return tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(self.forbidden >= 0, tf.int32), axis=1)), 0)

    def forbid(self, videos: tf.Tensor) -> tf.Tensor:
        """Bool `[B, C]` for int32 `[B, C]` row numbers: forbidden, or no video at all."""
        # A value is in a sorted row if the places before and behind it differ; this never builds [B, C, F].
        before = tf.raw_ops.LowerBound(sorted_inputs=self.forbidden, values=videos)
        after = tf.raw_ops.UpperBound(sorted_inputs=self.forbidden, values=videos)
        return (videos < 0) | (before < after)

    def of(self, requests: tf.Tensor) -> Filters:
        """The filters of int32 `[n]` requests."""
        return Filters(*(tf.gather(part, requests) for part in self))


class Safety(tf.Module):
    """What the catalogue hides.

    Args:
        safety: float32 `[num_videos]`, `BLOCKED` for what is never shown; None: every video is as safe as can be.
        num_videos: size of the catalogue.
    """

    def __init__(self, safety: NDArray[np.float32] | None, num_videos: int) -> None:
        super().__init__()
        self.num_videos = num_videos
        if safety is None:
            safety = np.ones(num_videos, np.float32)
        self.safety = tf.Variable(safety, trainable=False, name="safety")
        self.ascending = tf.Variable(np.sort(safety), trainable=False, name="ascending_safety")

    def hides(self, videos: tf.Tensor, filters: Filters) -> tf.Tensor:
        """Bool `[B, C]` for int32 `[B, C]` row numbers."""
        return tf.gather(tf.convert_to_tensor(self.safety), tf.maximum(videos, 0)) < filters.min_safety[:, None]

    def num_hidden(self, filters: Filters) -> tf.Tensor:
        """int32 `[B]`."""
        return tf.searchsorted(self.ascending, filters.min_safety)

    def num_allowed(self, filters: Filters) -> tf.Tensor:
        """int32 `[B]`: neither hidden nor forbidden."""
        rows = filters.forbidden
        repeated = rows == tf.pad(rows[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
        only_forbidden = (rows >= 0) & ~repeated & ~self.hides(rows, filters)
        return self.num_videos - self.num_hidden(filters) - tf.reduce_sum(tf.cast(only_forbidden, tf.int32), axis=1)

    def without_hidden(self, scores: tf.Tensor, filters: Filters) -> tf.Tensor:
        """float32 `[B, num_videos]` scores of the catalogue, -inf for what is hidden."""
        return tf.where(self.safety < filters.min_safety[:, None], -np.inf, scores)

    def allowed_only(self, scores: tf.Tensor, filters: Filters) -> tf.Tensor:
        """float32 `[B, num_videos]` scores of the catalogue, -inf for what is hidden or forbidden."""
        rows = filters.forbidden
        request = tf.broadcast_to(tf.range(tf.shape(rows)[0])[:, None], tf.shape(rows))
        places = tf.stack([request, tf.maximum(rows, 0)], axis=2)
        # The minimum with infinity changes nothing: so padding needs no column of its own.
        bound = tf.where(rows >= 0, -np.inf, np.inf)
        return tf.tensor_scatter_nd_min(self.without_hidden(scores, filters), places, bound)
