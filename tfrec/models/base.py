"""What the trained models have in common."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec.config import AccelerationConfig
from tfrec.layers.acceleration import accelerated


class Model(tfrs.Model):
    """A model whose training step is traced as it stands, on one replica or on many.

    A *replica* is a device that holds the whole model and computes its share of every batch. `compute_loss` is the mean over
    that share; the loss that is followed is the mean over the replicas, whose gradient is the sum of what each contributes.

    The step is traced as `acceleration` says; nothing else is.

    AutoGraph, which Keras would send the step through, finds no loop or branch over tensors here, and takes five times as long.
    """

    acceleration = AccelerationConfig()

    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: Any) -> dict[str, tf.Tensor]:
        """One step of training.

        Returns:
            `loss`: this replica's share. Keras adds up the shares.
        """
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with accelerated(self.acceleration), tf.GradientTape() as tape:
            loss = self.compute_loss(inputs, training=True) / num_replicas
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


def mean_over_replicas(values: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """A replica's part of a mean, such that the mean of the parts is the mean over the values of all replicas.

    The replicas need not hold equally many values.

    Args:
        values: float32 of any shape, those of this replica.
        weights: float32 of the same shape, 0 for what does not count; without them everything counts.

    Returns:
        float32; 0 where nothing counts.
    """
    context = tf.distribute.get_replica_context()
    is_alone = context is None or context.num_replicas_in_sync == 1
    if is_alone and weights is None:
        return tf.reduce_mean(values)
    weights = tf.ones_like(values) if weights is None else weights
    total, weight = tf.reduce_sum(values * weights), tf.reduce_sum(weights)
    if is_alone:
        return tf.math.divide_no_nan(total, weight)
    whole = context.all_reduce(tf.distribute.ReduceOp.SUM, weight)
    return tf.math.divide_no_nan(context.num_replicas_in_sync * total, whole)
