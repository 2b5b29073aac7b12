"""Cells of `videos.csv` in a request: what `tfrec/data` makes of a row of the table, in the graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrec.data.columns import MAX_LIST_LENGTH
from tfrec.data.schema import FeatureColumns
from tfrec.export.request import row_table

_MISSING = "nan|NaN|NA|N/A|n/a|null|NULL|None|none"
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


class Cells:
    """The cells of some rows.

    Args:
        columns: string `[B, C]`, names of columns.
        values: string `[B, C]`, a cell each, as the table has it; "" is missing.
    """

    def __init__(self, columns: tf.Tensor, values: tf.Tensor) -> None:
        self._columns, self._values = columns, values

    def __getitem__(self, name: str) -> tf.Tensor:
        """String `[B]`: the cells of a column, "" where missing or where there is no such column."""
        is_here = self._columns == name
        is_first = is_here & (tf.cumsum(tf.cast(is_here, tf.int32), axis=1) == 1)
        cells = tf.strings.strip(tf.strings.reduce_join(tf.where(is_first, self._values, ""), axis=1))
        return tf.where(tf.strings.regex_full_match(cells, _MISSING), "", cells)


class ColumnInput(tf.Module):
    """Side columns from cells, with the vocabularies and scales of a catalogue.

    Args:
        columns: of the catalogue.
    """

    def __init__(self, columns: FeatureColumns) -> None:
        super().__init__(name="column_input")
        self._lists = tuple(columns.lists)
        self._tables = {
            name: row_table(np.array(column.vocabulary, object))
            for name, column in {**columns.categorical, **columns.lists}.items()
        }
        self._scales = {name: (column.mean, column.deviation) for name, column in columns.numeric.items()}

    def __call__(self, cells: Cells) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """Codes and numbers as `ColumnEmbedding.embed` takes them."""
        codes = {name: self._codes(name, cells[name]) for name in self._tables}
        numbers = [part for name in self._scales for part in self._number(name, cells[name])]
        return codes, tf.stack(numbers, axis=1) if numbers else None

    def _codes(self, name: str, cells: tf.Tensor) -> tf.Tensor:
        table = self._tables[name]
        if name not in self._lists:
            return table.lookup(cells) + 1
        codes = tf.ragged.map_flat_values(lambda words: table.lookup(words) + 1, split_list(cells))
        known = tf.ragged.boolean_mask(codes, codes > 0)[:, :MAX_LIST_LENGTH]
        # A list needs a place to be empty in.
        return tf.pad(known.to_tensor(0), [[0, 0], [0, 1]])

    def _number(self, name: str, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, deviation = self._scales[name]
        present = tf.strings.regex_full_match(cells, _NUMBER)
        numbers = tf.strings.to_number(tf.where(present, cells, "0"), tf.float64)
        standardised = tf.cast((numbers - mean) / deviation, tf.float32)
        return tf.where(present, standardised, 0.0), tf.cast(present, tf.float32)


def split_list(cells: tf.Tensor) -> tf.RaggedTensor:
    """Words of list cells, string `[B, (words)]`: separated by |, or a JSON list of words without commas in them."""
    is_json = tf.strings.regex_full_match(cells, r"(?s)\[.*\]")
    bare = tf.strings.regex_replace(cells, r"""^\[\s*["']?|["']?\s*\]$""", "")
    bare = tf.strings.regex_replace(bare, r"""["']?\s*,\s*["']?""", "|")
    words = tf.strings.strip(tf.strings.split(tf.where(is_json, bare, cells), "|"))
    return tf.ragged.boolean_mask(words, words != "")


def join_texts(parts: list[tf.Tensor]) -> tf.Tensor:
    """The parts that are there, as sentences: string `[B]` of some string `[B]`."""
    trimmed = [tf.strings.regex_replace(tf.strings.strip(part), r"\.+$", "") for part in parts]
    text, *rest = trimmed
    for part in rest:
        both = (text != "") & (part != "")
        text = tf.strings.join([text, tf.where(both, ". ", ""), part])
    return text
