"""Rows of a table by their places: what a batch of histories holds, before it fills the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Gathered(NamedTuple):
    """Stands for the float32 `[B, T, D]` that a gather would make.

    A batch of histories names the same few videos many times. What is done to each row alone is done to the table instead, and a
    weighted sum over a history is a product of a sparse matrix with the table; both cost a fraction, backwards above all.

    Args:
        table: float32 `[V, D]`.
        places: int32 `[B, T]` rows of the table, any valid one for padding; None where the table is `[B, T, D]` already.
    """

    table: tf.Tensor
    places: tf.Tensor | None = None

    @classmethod
    def of(cls, rows: tf.Tensor | Gathered) -> Gathered:
        """Itself, or what stands for `[B, T, D]`."""
        return rows if isinstance(rows, Gathered) else cls(tf.convert_to_tensor(rows))

    def rows(self) -> tf.Tensor:
        """`[B, T, D]`."""
        return self.table if self.places is None else tf.gather(self.table, self.places)

    def map(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Gathered:
        """With every row changed by a function from `[..., D]` to `[..., E]`."""
        return Gathered(function(self.table), self.places)

    def weighted_sum(self, weights: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """float32 `[B, D]`: the sum over the steps that a bool `[B, T]` says are present, by weights `[B, T]`."""
        if self.places is None:
            # Element by element: one order of summation for every shape.
            present = weights * tf.cast(mask, tf.float32)
            return tf.reduce_sum(self.table * present[:, :, None], axis=1)
        cells = tf.where(mask)
        columns = tf.cast(tf.gather_nd(self.places, cells), tf.int64)
        shape = tf.cast(tf.stack([tf.shape(mask)[0], tf.shape(self.table)[0]]), tf.int64)
        matrix = tf.SparseTensor(tf.stack([cells[:, 0], columns], axis=1), tf.gather_nd(weights, cells), shape)
        return tf.sparse.sparse_dense_matmul(matrix, self.table)

    def sum_by_root(self, mask: tf.Tensor) -> tf.Tensor:
        """float32 `[B, D]`: the sum over the n steps present by the root of n, their mean times it; zeros without any."""
        if self.places is None:
            present = tf.cast(mask, tf.float32)
            count = tf.reduce_sum(present, axis=1, keepdims=True)
            return self.weighted_sum(present, mask) / tf.sqrt(tf.maximum(count, 1.0))
        # One more step in a row of its own: the gradient of no step at all is memory that nobody has written to.
        cells, num_rows = tf.where(mask), tf.shape(mask)[0]
        rows = tf.concat([tf.cast(cells[:, 0], tf.int32), num_rows[None]], axis=0)
        columns = tf.concat([tf.gather_nd(self.places, cells), tf.zeros([1], self.places.dtype)], axis=0)
        return tf.sparse.segment_sqrt_n(self.table, columns, rows, num_segments=num_rows + 1)[:-1]
