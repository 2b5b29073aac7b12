"""Side columns of a table as one vector per row."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tfrec.data.schema import FeatureColumns
from tfrec.layers.pooling import masked_mean


def embedding_width(vocabulary_size: int) -> int:
    """Width for a categorical column: the fourth root rule, between 4 and 32."""
    return int(min(32, max(4, round(6 * vocabulary_size**0.25))))


class ColumnEmbedding(tf.keras.layers.Layer):
    """Embeds the side columns of given rows: categories by tables, lists by the mean of theirs, numbers as they are.

    Args:
        columns: of the whole table; kept as constants, so that a model needs row numbers only.
    """

    def __init__(self, columns: FeatureColumns) -> None:
        super().__init__()
        self.codes = {
            name: tf.constant(column.codes) for name, column in {**columns.categorical, **columns.lists}.items()
        }
        self.tables = {
            name: tf.keras.layers.Embedding(len(column.vocabulary) + 1, embedding_width(len(column.vocabulary)))
            for name, column in {**columns.categorical, **columns.lists}.items()
        }
        self.list_names = frozenset(columns.lists)
        numbers = [part for column in columns.numeric.values() for part in (column.values, column.present)]
        self.numbers = tf.stack([tf.cast(part, tf.float32) for part in numbers], axis=1) if numbers else None

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """From int32 `[B]` row numbers, -1 unknown, to float32 `[B, width]`; an unknown row has every value missing."""
        known = rows >= 0
        safe = tf.maximum(rows, 0)
        codes = {name: tf.gather(codes, safe) for name, codes in self.codes.items()}
        codes = {
            name: tf.where(known[:, None] if code.shape.rank == 2 else known, code, 0) for name, code in codes.items()
        }
        numbers = None
        if self.numbers is not None:
            numbers = tf.gather(self.numbers, safe) * tf.cast(known, tf.float32)[:, None]
        return self.embed(codes, numbers)

    def missing(self) -> tf.Tensor:
        """float32 `[1, width]` of a row with every value missing; an exported graph of it holds no catalogue."""
        codes = {name: tf.zeros([1, 1] if name in self.list_names else [1], tf.int32) for name in self.tables}
        return self.embed(codes, None if self.numbers is None else tf.zeros([1, self.numbers.shape[1]]))

    def embed(self, codes: Mapping[str, tf.Tensor], numbers: tf.Tensor | None) -> tf.Tensor:
        """Embeds values that may be in no table.

        Args:
            codes: by column, 0 = missing: int32 `[B]` of a categorical one, `[B, length]` of a list.
            numbers: float32 `[B, 2 * num_numeric]`: each numeric column's standardised value, 0 where missing, and whether it is
                there; None where no column is numeric.

        Returns:
            float32 `[B, width]`.
        """
        parts = [
            masked_mean(table(codes[name]), codes[name] > 0) if name in self.list_names else table(codes[name])
            for name, table in self.tables.items()
        ]
        return tf.concat(parts if numbers is None else [*parts, numbers], axis=1)
