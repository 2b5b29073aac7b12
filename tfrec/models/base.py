"""What the trained models have in common."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs


class Model(tfrs.Model):
    """A model whose training step is traced as it stands.

    AutoGraph, which Keras would send it through, finds no loop or branch over tensors here, and takes five times as long.
    """

    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: Any) -> dict[str, tf.Tensor]:
        """One step of training; see `tfrs.Model`."""
        return super().train_step(inputs)
