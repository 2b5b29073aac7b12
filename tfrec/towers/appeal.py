"""How much a video appeals to anybody at a given time: its trend and its freshness.

Which videos are watched changes with time more than who likes what. So the retrieval score of a training event has a part
that depends on the video and the time of the event alone: how often the video was watched lately, seen from then, and how
new it was then. When embeddings are published, that part is computed for the time of publication and goes into the last
dimension of the candidate embeddings; no query pays for it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import SECONDS_PER_DAY
from tfrec.data.schema import Interactions, Part
from tfrec.layers.attention import TimeEncoding
from tfrec.layers.pooling import MASKED

NUM_PERIODS = 64
"""Resolution in time: the training log is cut into as many periods of equal length."""

HALF_LIVES = (np.inf, 1 / 8, 1 / 40)
"""Of the counts, as shares of the length of the training log."""

RECENT = 1
"""Which of these tells what is watched lately."""


class Appeal(tf.keras.layers.Layer):
    """The part of a score that depends on video and time alone.

    Args:
        interactions: the log, of which the training part counts.
        created_at: int64 `[num_videos]` Unix seconds, 0 where unknown.
        trends: without them appeal is the same at all times, as it is in a log without times.

    Attributes:
        recency: what the trend of half-life `HALF_LIVES[RECENT]` counts besides its learned weight once the log has ended. What
            each video's learned appeal says of its popularity is true of the log as a whole: a number that is chosen on the
            validation part makes up for that. Where appeal is the same at all times, the trend is that of all events.
    """

    def __init__(self, interactions: Interactions, created_at: NDArray[np.int64], trends: bool = True) -> None:
        super().__init__()
        rows = interactions.rows(Part.TRAIN)
        times, videos = interactions.timestamp[rows], interactions.video[rows]
        first, last = int(times.min()), int(times.max())
        self.num_periods = NUM_PERIODS if trends and last > first else 1
        ends = np.linspace(first, last, self.num_periods + 1)[1:].astype(np.int64)
        counts = np.zeros((self.num_periods, interactions.num_videos), np.float32)
        np.add.at(counts, (np.minimum(np.searchsorted(ends, times), self.num_periods - 1), videos), 1)
        first_watch = np.full(interactions.num_videos, last, np.int64)
        np.minimum.at(first_watch, videos, times)
        self.period_ends = tf.constant(ends)
        # Before each period, and after the last one. A video is one row, and whether it is absent one more trend: a batch takes
        # all of it with one gather and one product.
        counted = np.empty((interactions.num_videos, self.num_periods + 1, len(HALF_LIVES) + 1), np.float16)
        for place, half_life in enumerate(HALF_LIVES):
            _write_trend(counted[:, :, place], counts, half_life)
        exists_from = np.minimum(np.where(created_at > 0, created_at, first_watch), first_watch)
        counted[:, :-1, -1] = exists_from[:, None] > ends
        self.trends, self.last_trends = tf.constant(counted[:, :-1]), tf.constant(counted[:, -1, :-1].T)
        self.trend_weights = self.add_weight("trend_weights", (len(HALF_LIVES),), initializer=_first_is_one)
        self.created_at = tf.constant(created_at, tf.int64) if created_at.any() and self.has_trends else None
        self.freshness = TimeEncoding(1)
        self.recency = 0.0

    def call(self, timestamp: tf.Tensor, videos: tf.Tensor) -> tf.Tensor:
        """Appeal of each video at the time of each request.

        Args:
            timestamp: int64 `[B]` Unix seconds.
            videos: int32 `[C]` row numbers.

        Returns:
            float32 `[B, C]`; `MASKED` for a video that did not exist yet, which is no negative then.
        """
        if not self.has_trends:
            return self._last(videos)[None]
        period = tf.searchsorted(self.period_ends, timestamp)
        return tf.gather(tf.transpose(self._at_periods(videos)), tf.minimum(period, self.num_periods - 1))

    def of_targets(self, timestamp: tf.Tensor, videos: tf.Tensor) -> tf.Tensor:
        """Appeal of one video at the time of each request: float32 `[B]`; arguments as `call`, int32 `[B]` videos."""
        if not self.has_trends:
            return self._last(videos)
        period = tf.minimum(tf.searchsorted(self.period_ends, timestamp), self.num_periods - 1)
        return tf.gather(self._at_periods(videos), period, batch_dims=1)

    def published(self, videos: tf.Tensor, now: int) -> tf.Tensor:
        """Appeal after the training part: float32 `[C]` for int32 `[C]` row numbers at `now`, Unix seconds."""
        trend = self._last(videos) + self.recency * tf.cast(tf.gather(self.last_trends[RECENT], videos), tf.float32)
        if self.created_at is None:
            return trend
        return trend + self._fresh(tf.gather(self.created_at, videos), tf.constant([now], tf.int64))[0]

    def _last(self, videos: tf.Tensor) -> tf.Tensor:
        """float32 `[C]`: what the trends make of int32 `[C]` row numbers by all counts there are."""
        trends = tf.cast(tf.gather(self.last_trends, videos, axis=1), tf.float32)
        return tf.einsum("h,hc->c", self.trend_weights, trends)

    @property
    def has_trends(self) -> bool:
        """Whether it changes with time."""
        return self.num_periods > 1

    def recent(self) -> NDArray[np.float32]:
        """Float32 `[num_videos]`: what `recency` is the weight of."""
        return np.asarray(self.last_trends[RECENT], np.float32)

    def of_unwatched(self, created_at: tf.Tensor, now: int) -> tf.Tensor:
        """Appeal after the training part, float32 `[B]`, of videos that nobody has watched.

        Args:
            created_at: int64 `[B]` Unix seconds, 0 where unknown.
            now: Unix seconds.
        """
        if self.created_at is None:
            return tf.zeros(tf.shape(created_at))
        return self._fresh(created_at, tf.constant([now], tf.int64))[0]

    def _at_periods(self, videos: tf.Tensor) -> tf.Tensor:
        """float32 `[C, num_periods]`: by the counts before each period."""
        trends = tf.cast(tf.gather(self.trends, videos), tf.float32)
        weights = tf.concat([self.trend_weights, [MASKED]], axis=0)
        appeal = tf.matmul(tf.reshape(trends, [-1, weights.shape[0]]), weights[:, None])
        appeal = tf.reshape(appeal, [-1, self.num_periods])
        if self.created_at is None:
            return appeal
        return appeal + tf.transpose(self._fresh(tf.gather(self.created_at, videos), self.period_ends))

    def _fresh(self, created: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        """float32 `[times, C]`, 0 where the date of creation is unknown."""
        days = tf.cast(tf.maximum(times[:, None] - created, 0), tf.float32) / SECONDS_PER_DAY
        return tf.where(created > 0, self.freshness(days)[:, :, 0], 0.0)


def _first_is_one(shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
    """Training starts at the popularity ranking."""
    return tf.one_hot(0, shape[0], dtype=dtype)


def _write_trend(trend: NDArray[np.float16], counts: NDArray[np.float32], half_life: float) -> None:
    """Log of the decayed counts before each period, and after the last one.

    Args:
        trend: `[num_videos, num_periods + 1]`, overwritten.
        counts: `[num_periods, num_videos]` training events.
        half_life: as a share of all periods.
    """
    decay = 0.5 ** (1 / (half_life * len(counts)))
    total = np.zeros_like(counts[0])
    for place, period in enumerate(counts):
        trend[:, place] = np.log1p(total)
        total = total * decay + period
    trend[:, -1] = np.log1p(total)
