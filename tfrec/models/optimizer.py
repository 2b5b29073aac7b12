"""Adam that passes over each table once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

Gradients = Iterable[tuple[tf.Tensor | tf.IndexedSlices | None, tf.Variable]]


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam, with the same variables, checkpoints and results but for the last digits.

    Moments fade in rows without a gradient too, so sparse gradients save nothing: Keras makes their rows unique, and then takes
    eight passes over the whole table. Here they are summed into a dense one, and one op does the rest. On parameter servers, to
    which dense gradients would have to be sent, Keras' own is the better one.

    Args:
        learning_rate: or a schedule.
    """

    def __init__(self, learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule = 0.001) -> None:
        super().__init__(learning_rate)

    def apply_gradients(self, grads_and_vars: Gradients, *arguments: Any, **options: Any) -> Any:
        """As that of Keras."""
        pairs = [(_dense(gradient), variable) for gradient, variable in grads_and_vars]
        return super().apply_gradients(pairs, *arguments, **options)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """One step of one variable by a dense gradient of the same shape."""
        place = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].handle,
            v=self._velocities[place].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def _dense(gradient: tf.Tensor | tf.IndexedSlices | None) -> tf.Tensor | None:
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
