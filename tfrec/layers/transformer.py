"""Causal self-attention over a sequence: each step sees itself and the steps before it.

So one pass gives, at every step, the output that the sequence would have had if it had ended there. Padding stands at the end,
where no earlier step sees it; no mask is needed.
"""

from __future__ import annotations

import tensorflow as tf

from tfrec.layers.acceleration import Dense, product
from tfrec.layers.dropout import Dropout
from tfrec.layers.pooling import MASKED

AGE_BUCKETS = 24
"""None, under a minute, and from there on doubling, to more than four years."""


class CausalTransformer(tf.keras.layers.Layer):
    """Pre-norm transformer blocks, and a normalisation behind them.

    References:
        Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018.

    Args:
        units: width of the steps.
        num_blocks: attention and a feed-forward network each.
        num_heads: of the attention; divides `units`.
        hidden_units: width inside the feed-forward networks.
        max_distance: steps further apart than this count as being so far apart.
        dropout: on what each part adds.
        age_bias: whether attention also has a learned bias per head and age, in buckets (as Raffel et al., JMLR 2020, have
            for distances, and Zhai et al., ICML 2024, for times).
    """

    def __init__(
        self,
        units: int,
        num_blocks: int,
        num_heads: int,
        hidden_units: int,
        max_distance: int,
        dropout: float,
        age_bias: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = [
            _Block(units, num_heads, hidden_units, max_distance, dropout, age_bias) for _ in range(num_blocks)
        ]
        self.normalise = RootMeanSquareNormalization()

    def call(self, steps: tf.Tensor, ages: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Reads sequences.

        Args:
            steps: float32 `[B, T, units]`.
            ages: float32 `[B, T, T]`, where there is an age bias: how many days step j (last axis) lies back at the moment
                that step i answers for; below 0 where a step has no time.
            training: whether dropout is on.

        Returns:
            float32 `[B, T, units]`.
        """
        place = tf.range(tf.shape(steps)[1])
        distance = place[:, None] - place[None, :]
        buckets = None if ages is None else age_buckets(ages)
        for block in self.blocks:
            steps = block(steps, distance, buckets, training=training)
        return self.normalise(steps)


def age_buckets(ages: tf.Tensor) -> tf.Tensor:
    """int32 numbers of the buckets of float32 ages in days: 0 below 0, else one per power of two of minutes."""
    doublings = tf.math.log1p(tf.maximum(ages, 0.0) * 1440.0) / tf.math.log(2.0)
    return tf.where(ages < 0, 0, tf.minimum(1 + tf.cast(doublings, tf.int32), AGE_BUCKETS - 1))


class RootMeanSquareNormalization(tf.keras.layers.Layer):
    """Scales each vector to a root mean square of 1, then each dimension by a learned factor.

    References:
        Zhang and Sennrich, Root mean square layer normalization, NeurIPS 2019.
    """

    def build(self, shape: tf.TensorShape) -> None:
        """Makes the factors."""
        self.scale = self.add_weight("scale", (shape[-1],), initializer="ones")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Same shape as `inputs`."""
        return inputs * tf.math.rsqrt(tf.reduce_mean(tf.square(inputs), axis=-1, keepdims=True) + 1e-6) * self.scale


class _Block(tf.keras.layers.Layer):
    """Self-attention, with a learned bias per head and distance, and a feed-forward network; arguments as above."""

    def __init__(
        self, units: int, num_heads: int, hidden_units: int, max_distance: int, dropout: float, age_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.max_distance = num_heads, max_distance
        self.before_attention = RootMeanSquareNormalization()
        self.before_hidden = RootMeanSquareNormalization()
        self.projections = Dense(3 * units, use_bias=False)
        self.distance_bias = self.add_weight("distance_bias", (num_heads, max_distance + 1), initializer="zeros")
        self.age_bias = None
        if age_bias:
            self.age_bias = self.add_weight("age_bias", (num_heads, AGE_BUCKETS), initializer="zeros")
        self.joined = Dense(units)
        self.hidden = Dense(hidden_units, activation="gelu")
        self.out = Dense(units)
        self.dropout = Dropout(dropout)

    def call(
        self, steps: tf.Tensor, distance: tf.Tensor, buckets: tf.Tensor | None, training: bool = False
    ) -> tf.Tensor:
        attended = self.joined(self._attend(self.before_attention(steps), distance, buckets))
        steps += self.dropout(attended, training=training)
        return steps + self.dropout(self.out(self.hidden(self.before_hidden(steps))), training=training)

    def _attend(self, steps: tf.Tensor, distance: tf.Tensor, buckets: tf.Tensor | None) -> tf.Tensor:
        shape, units = tf.shape(steps), steps.shape[-1]
        width = units // self.num_heads
        parts = tf.reshape(self.projections(steps), [shape[0], shape[1], 3, self.num_heads, width])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        # A bias is subtracted negated: XLA on CPUs would have oneDNN add it within the product, for which it has no fast kernel.
        penalty = tf.gather(-self.distance_bias, tf.clip_by_value(distance, 0, self.max_distance), axis=1)
        penalty -= tf.where(distance < 0, MASKED, 0.0)
        if self.age_bias is not None:
            penalty += tf.transpose(tf.gather(-self.age_bias, buckets, axis=1), [1, 0, 2, 3])
        weights = tf.nn.softmax(product(query * width**-0.5, key, transpose_b=True) - penalty)
        return tf.reshape(tf.transpose(product(weights, value), [0, 2, 1, 3]), [shape[0], shape[1], units])
