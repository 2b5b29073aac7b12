"""Time-aware attention over a history."""

from __future__ import annotations

import tensorflow as tf

from tfrec.layers.acceleration import Dense
from tfrec.layers.gathered import Gathered
from tfrec.layers.pooling import masked_softmax


class TimeEncoding(tf.keras.layers.Layer):
    """The age of an event as a vector: its logarithm through bumps that cover minutes to years.

    Args:
        units: width of the encoding.
        num_bumps: Gaussian bumps over the logarithm of the age.
        initializer: of their projection.
    """

    def __init__(self, units: int, num_bumps: int = 16, initializer: str = "glorot_uniform") -> None:
        super().__init__()
        self.num_bumps = num_bumps
        self.projection = tf.keras.layers.Dense(units, use_bias=False, kernel_initializer=initializer)

    def call(self, age: tf.Tensor) -> tf.Tensor:
        """From float `[B, T]` days to `[B, T, units]`."""
        centres = tf.linspace(0.0, 1.0, self.num_bumps)
        # log1p of the age in minutes, scaled so that ten years are 1.
        position = tf.math.log1p(age * 1440.0) / 15.5
        return self.projection(tf.exp(-tf.square((position[:, :, None] - centres) * self.num_bumps)))


class TimeAwareAttention(tf.keras.layers.Layer):
    """Pools a history with weights from a softmax over a score of event and time (`DESIGN` formula of the articles).

    Each head has its share of the dimensions: it scores every event by a small network over the event's embedding, its age
    and its rank from the end, and takes the weighted mean of its dimensions. So the result lies in the space of the events.

    Args:
        units: width of events and of the result.
        num_heads: sets of weights; divides `units`.
        length: longest history.
    """

    def __init__(self, units: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.hidden = Dense(units)
        self.time = TimeEncoding(units)
        self.rank = tf.keras.layers.Embedding(length + 1, units, embeddings_initializer="zeros")
        self.score = tf.keras.layers.Dense(num_heads, use_bias=False)

    def call(self, events: tf.Tensor | Gathered, mask: tf.Tensor, age: tf.Tensor, ordered: bool) -> tf.Tensor:
        """Pools the history.

        Args:
            events: float `[B, T, units]`, perhaps not gathered yet; oldest first, padding at the end.
            mask: bool `[B, T]`.
            age: float `[B, T]`, days.
            ordered: whether age and order mean anything; a set has neither.

        Returns:
            `[B, units]`, zeros for an empty history.
        """
        events = Gathered.of(events)
        hidden = events.map(self.hidden).rows()
        if ordered:
            remaining = tf.reverse(tf.cumsum(tf.reverse(tf.cast(mask, tf.int32), [1]), axis=1), [1])
            hidden += self.time(age) + self.rank(remaining)
        weights = masked_softmax(self.score(tf.nn.tanh(hidden)), mask[:, :, None])
        heads = zip(tf.split(events.table, self.num_heads, axis=-1), tf.unstack(weights, axis=2), strict=True)
        return tf.concat([Gathered(table, events.places).weighted_sum(share, mask) for table, share in heads], axis=1)
