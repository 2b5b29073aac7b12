"""Convolution over the time steps of a sequence that may be padded."""

from __future__ import annotations

import tensorflow as tf


class TemporalConvolution(tf.keras.layers.Layer):
    """A convolution over time that sees nothing of the padding.

    Args:
        units: width of the output.
        kernel_size: steps seen at once.
        stride: steps between outputs.
    """

    def __init__(self, units: int, kernel_size: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        # Keras would place "same" padding by the parity of T, and a longer padding would change the result.
        self.border = tf.keras.layers.ZeroPadding1D(((kernel_size - 1) // 2, kernel_size // 2))
        self.convolution = tf.keras.layers.Conv1D(units, kernel_size, strides=stride, activation="gelu")

    def call(self, inputs: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Convolves.

        Args:
            inputs: float `[B, T, dim]`.
            lengths: int32 `[B]`, steps present.

        Returns:
            float32 `[B, ceil(T / stride), units]` and its lengths, int32 `[B]`.
        """
        present = tf.sequence_mask(lengths, tf.shape(inputs)[1], tf.float32)
        padded = self.border(inputs * present[:, :, None])
        return self.convolution(padded), -(-lengths // self.stride)
