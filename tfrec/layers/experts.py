"""What stands between the features of a pair and the heads of the tasks."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfrec.layers.acceleration import Dense
from tfrec.layers.dropout import Dropout


class Network(tf.keras.layers.Layer):
    """Dense layers with dropout before each.

    Args:
        units: their widths.
        dropout: share zeroed in training.
    """

    def __init__(self, units: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.hidden = [Dense(width, activation="relu") for width in units]
        self.dropout = Dropout(dropout)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 `[n, units[-1]]` from float32 `[n, D]`."""
        for layer in self.hidden:
            inputs = layer(self.dropout(inputs, training=training))
        return inputs


class GatedExperts(tf.keras.layers.Layer):
    """Networks that all tasks share, weighed for each task by a gate of its own (MMoE).

    References:
        Ma et al., Modeling task relationships in multi-task learning with multi-gate mixture-of-experts, KDD 2018.

    Args:
        num_tasks: gates.
        num_experts: networks.
        units: widths of each.
        dropout: share zeroed in training.
    """

    def __init__(self, num_tasks: int, num_experts: int, units: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.experts = [Network(units, dropout) for _ in range(num_experts)]
        # Every task begins with the mean of the experts.
        self.gates = tf.keras.layers.Dense(num_tasks * num_experts, kernel_initializer="zeros")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 `[n, num_tasks, units[-1]]` from float32 `[n, D]`."""
        opinions = tf.stack([expert(inputs, training=training) for expert in self.experts], axis=1)
        gates = tf.reshape(self.gates(inputs), [-1, self.num_tasks, len(self.experts)])
        return tf.matmul(tf.nn.softmax(gates), opinions)
