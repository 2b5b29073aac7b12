"""Side columns of a table as one vector per row."""

from __future__ import annotations

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
        parts = [self._embed(name, tf.gather(codes, safe), known) for name, codes in self.codes.items()]
        if self.numbers is not None:
            parts.append(tf.gather(self.numbers, safe) * tf.cast(known, tf.float32)[:, None])
        return tf.concat(parts, axis=1)

    def missing(self) -> tf.Tensor:
        """float32 `[1, width]` of a row with every value missing; an exported graph of it holds no catalogue."""
        none = tf.zeros([1, 1], tf.int32)
        parts = [
            masked_mean(table(none), none > 0) if name in self.list_names else table(none[0])
            for name, table in self.tables.items()
        ]
        if self.numbers is not None:
            parts.append(tf.zeros([1, self.numbers.shape[1]]))
        return tf.concat(parts, axis=1)

    def _embed(self, name: str, codes: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        if name in self.list_names:
            codes = tf.where(known[:, None], codes, 0)
            return masked_mean(self.tables[name](codes), codes > 0)
        return self.tables[name](tf.where(known, codes, 0))
