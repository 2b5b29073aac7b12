"""Side columns as vectors."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.data.schema import CategoricalColumn, FeatureColumns, NumericColumn
from tfrec.layers.columns import ColumnEmbedding, embedding_width

COLUMNS = FeatureColumns(
    categorical={"gender": CategoricalColumn(np.array([1, 2, 0], np.int32), ("f", "m"))},
    lists={"tags": CategoricalColumn(np.array([[1, 3], [2, 0], [0, 0]], np.int32), ("a", "b", "c"))},
    numeric={"age": NumericColumn(np.array([-1.0, 1.0, 0.0], np.float32), np.array([True, True, False]), 30.0, 5.0)},
)


@pytest.fixture(scope="module")
def layer() -> ColumnEmbedding:
    layer = ColumnEmbedding(COLUMNS)
    layer(tf.constant([0]))
    return layer


def test_categories_lists_and_numbers(layer):
    gender, tags = (layer.tables[name].embeddings.numpy() for name in ("gender", "tags"))
    expected = [
        np.concatenate([gender[1], (tags[1] + tags[3]) / 2, [-1, 1]]),
        np.concatenate([gender[2], tags[2], [1, 1]]),
        np.concatenate([gender[0], np.zeros(tags.shape[1]), [0, 0]]),
    ]
    np.testing.assert_allclose(layer(tf.constant([0, 1, 2])), expected, rtol=1e-6)


def test_unknown_row_equals_a_row_of_missing_values(layer):
    unknown, missing = layer(tf.constant([-1, 2])).numpy()
    np.testing.assert_array_equal(unknown, missing)


def test_numbers_alone():
    layer = ColumnEmbedding(FeatureColumns({}, {}, COLUMNS.numeric))
    np.testing.assert_array_equal(layer(tf.constant([1, -1])), [[1, 1], [0, 0]])


def test_width_grows_with_the_fourth_root():
    assert [embedding_width(size) for size in (0, 1, 16, 256, 10_000_000)] == [4, 6, 12, 24, 32]
