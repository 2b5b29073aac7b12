"""Cells of a request beside what `tfrec/data` reads of a table."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tfrec.data.columns import MAX_LIST_LENGTH, encode_lists, split_list
from tfrec.data.schema import CategoricalColumn, FeatureColumns, NumericColumn
from tfrec.export import column_input
from tfrec.export.column_input import Cells, ColumnInput, join_texts

NOTHING = np.zeros(0, np.int32)
LISTS = ("a|b", " b | a|", '["b", "c d"]', "['a']", "[]", "", "a", "unheard of|c d", "|".join("ab" * MAX_LIST_LENGTH))


def cells(**columns: list[str]) -> Cells:
    values = tf.transpose(tf.constant(list(columns.values()), tf.string))
    return Cells(tf.tile(tf.constant([list(columns)], tf.string), [len(values), 1]), values)


def test_categories_and_numbers():
    columns = FeatureColumns(
        {"colour": CategoricalColumn(NOTHING, ("red", "blue"))},
        {},
        {"size": NumericColumn(np.zeros(0), np.zeros(0, bool), mean=10.0, deviation=4.0)},
    )
    asked = cells(colour=["blue", " red", "green", "None"], other=["x"] * 4, size=["12", "-2e0", "many", ""])
    codes, numbers = ColumnInput(columns)(asked)
    np.testing.assert_array_equal(codes["colour"], [2, 1, 0, 0])
    np.testing.assert_allclose(numbers, [[0.5, 1], [-3, 1], [0, 0], [0, 0]])


def test_a_column_that_is_not_sent_is_missing():
    columns = FeatureColumns({"colour": CategoricalColumn(NOTHING, ("red",))}, {}, {})
    codes, numbers = ColumnInput(columns)(Cells(tf.zeros([2, 0], tf.string), tf.zeros([2, 0], tf.string)))
    assert numbers is None
    np.testing.assert_array_equal(codes["colour"], [0, 0])


def test_lists_are_split_and_coded_as_in_the_table():
    column = encode_lists(pa.array(LISTS), 2)
    assert [[word.decode() for word in words] for words in column_input.split_list(tf.constant(LISTS)).to_list()] == [
        split_list(cell) for cell in LISTS
    ]
    codes, _ = ColumnInput(FeatureColumns({}, {"tags": column}, {}))(cells(tags=list(LISTS)))
    np.testing.assert_array_equal(codes["tags"][:, : column.codes.shape[1]], column.codes)
    assert not codes["tags"][:, column.codes.shape[1] :].numpy().any()


@pytest.mark.parametrize(
    ("parts", "joined"),
    [(["a.", " b ", "c"], "a. b. c"), (["", "b", ""], "b"), (["a", "", "c.."], "a. c"), (["", "", ""], "")],
)
def test_texts_are_joined_as_in_the_catalogue(parts, joined):
    assert join_texts([tf.constant([part]) for part in parts]).numpy().tolist() == [joined.encode()]
