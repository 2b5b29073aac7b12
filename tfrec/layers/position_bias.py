"""How much more a video is clicked for where it was shown."""

from __future__ import annotations

import tensorflow as tf

NUM_POSITIONS = 100
"""What lies further down counts as the last of them."""


class PositionBias(tf.keras.layers.Layer):
    """A shallow tower over the position alone, which training adds to the logits and serving leaves out.

    The rest of the model need not explain then what the position explains. In serving all candidates of a request have no
    position, so their order is that of an equal one; the calibration, fitted without positions too, sees to the level.

    References:
        Zhao et al., Recommending what video to watch next: a multitask ranking system, RecSys 2019.

    Args:
        num_tasks: biases per position.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.table = tf.keras.layers.Embedding(NUM_POSITIONS + 1, num_tasks, embeddings_initializer="zeros")

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        """float32 `[..., num_tasks]` for int32 positions from 1, exactly 0 for 0: shown nowhere, or unknown where."""
        known = tf.cast(positions > 0, tf.float32)[..., None]
        return known * self.table(tf.clip_by_value(positions, 0, NUM_POSITIONS))
