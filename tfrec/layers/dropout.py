"""Dropout whose random state is a variable, so that a restored checkpoint continues with the same draws."""

from __future__ import annotations

import random

import tensorflow as tf


class Dropout(tf.keras.layers.Layer):
    """Zeroes values in training and scales up the rest (Srivastava et al., JMLR 2014).

    Args:
        rate: share zeroed, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator = tf.random.Generator.from_seed(random.randrange(1 << 31))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Same shape as `inputs`."""
        if not training or not self.rate:
            return inputs
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed=self.generator.make_seeds()[:, 0])


class RandomMask(Dropout):
    """Hides whole rows in training: the id of a video, a modality, the name of a user."""

    def call(self, shape: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 of `shape`: 0 where hidden, else 1; all 1 outside training."""
        return tf.sign(super().call(tf.ones(shape), training=training))
