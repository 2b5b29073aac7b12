from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tfrec.config import ColumnKind, DataConfig
from tfrec.data.columns import (
    SideColumns,
    encode_categories,
    encode_lists,
    encode_numbers,
    infer_kind,
    read_side_columns,
    split_list,
    without_missing_words,
)
from tfrec.data.entities import Entities
from tfrec.data.parse import parse_numbers
from tfrec.data.rejects import RejectLog


def side_columns(
    columns: dict[str, list[str | None]], rejects: RejectLog | None = None, **options: object
) -> SideColumns:
    """Reads `columns` as those of a CSV table of videos."""
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    size = len(next(iter(arrays.values())))
    ids = pa.array([f"v{row}" for row in range(size)])
    table = Entities("videos.csv", np.arange(size) + 2, np.arange(size), size, ids, arrays)
    log = RejectLog() if rejects is None else rejects
    return read_side_columns(table, list(arrays), DataConfig(**options), log, fixed={"tags": "list"})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([str(number) for number in range(21)], "numeric"),
        ([str(number % 20) for number in range(90)], "categorical"),
        (["1", "2.5"], "numeric"),
        (["1.0", "2.0", None], "categorical"),
        (["1", "2", "x"], "categorical"),
        (["comedy", "drama", "comedy"], "categorical"),
        (["a|b", "a", "b", "c"], "list"),
        (['["a", "b"]', "[]"], "list"),
        (["A man walks his dog along the shore.", "Two friends meet again after a long war."], "text"),
        ([f"title {number}" for number in range(50)], "text"),
        ([f"title {number}" for number in range(49)], "categorical"),
    ],
)
def test_inferred_kind(values: list[str | None], kind: ColumnKind) -> None:
    assert infer_kind(pa.array(values, pa.string())) == kind


def test_words_for_missing() -> None:
    values = without_missing_words(pa.array(["a", "nan", " ", "NULL", "None", None, "no"]))
    assert values.to_pylist() == ["a", None, None, None, None, None, "no"]


def test_categories_by_falling_count_then_value() -> None:
    column = encode_categories(pa.array(["b", "c", "a", "c", None, "a", "d"]), min_count=1)
    assert column.vocabulary == ("a", "c", "b", "d")
    assert column.codes.tolist() == [3, 2, 1, 2, 0, 1, 4]
    assert column.codes.dtype == np.int32


def test_rare_categories_are_unknown() -> None:
    column = encode_categories(pa.array(["b", "c", "a", "c", None, "a", "d"]), min_count=2)
    assert column.vocabulary == ("a", "c")
    assert column.codes.tolist() == [0, 2, 1, 2, 0, 1, 0]


def test_lists_are_padded() -> None:
    column = encode_lists(pa.array(["a|b", None, "b", " c | a|| b"]), min_count=1)
    assert column.vocabulary == ("b", "a", "c")
    assert column.codes.tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 0], [3, 2, 1]]


def test_rare_values_leave_no_gap_in_a_list() -> None:
    column = encode_lists(pa.array(["rare|a|b", "b|a"]), min_count=2)
    assert column.vocabulary == ("a", "b")
    assert column.codes.tolist() == [[1, 2], [2, 1]]


def test_long_lists_are_cut_after_eight() -> None:
    column = encode_lists(pa.array(["|".join("abcdefghij"), "a"]), min_count=1)
    assert column.codes.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, []),
        ("a", ["a"]),
        ("a| b", ["a", "b"]),
        ('["a", "b|c"]', ["a", "b|c"]),
        ("['a', 'b']", ["a", "b"]),
        ("[1, 2]", ["1", "2"]),
        ('["a", null]', ["a"]),
        ("[]", []),
        ("[live] concert", ["[live] concert"]),
    ],
)
def test_split_list(cell: str | None, words: list[str]) -> None:
    assert split_list(cell) == words


def test_numbers_are_standardised() -> None:
    column = encode_numbers(parse_numbers(pa.array(["1", None, "3"])))
    assert column.values.tolist() == [-1, 0, 1]
    assert column.present.tolist() == [True, False, True]
    assert (column.mean, column.deviation) == (2, 1)


def test_a_table() -> None:
    columns = side_columns(
        {
            "genre": ["x", "y", "x"],
            "length": ["1.5", "2.5", "nan"],
            "tags": ["a|b", "b", None],
            "plot": ["A long story of a man and his dog by the sea.", None, None],
            "same": ["1", "1", "1"],
            "nothing": [None, "nan", ""],
        }
    )
    assert columns.features.names == ("genre", "tags", "length")
    assert list(columns.texts) == ["plot"]
    assert columns.kinds == {
        "genre": "categorical (inferred)",
        "length": "numeric (inferred)",
        "tags": "list (by contract)",
        "plot": "text (inferred)",
    }
    assert columns.ignored == {"same": "constant", "nothing": "no values"}


def test_declared_kinds_win() -> None:
    columns = side_columns({"tags": ["a|b", "c"], "year": ["1", "2"]}, kinds={"tags": "categorical", "year": "numeric"})
    assert columns.categorical["tags"].vocabulary == ("a|b", "c")
    assert columns.numeric["year"].values.tolist() == [-1, 1]
    assert columns.kinds == {"tags": "categorical (declared)", "year": "numeric (declared)"}


def test_bad_numbers_are_refused_and_their_rows_stay() -> None:
    rejects = RejectLog()
    columns = side_columns({"year": ["1990", "V", "1992"]}, rejects, kinds={"year": "numeric"})
    assert columns.numeric["year"].present.tolist() == [True, False, True]
    assert rejects.counts() == {"videos.csv": {"bad year": 1}}


def test_a_column_of_rare_values_only_is_ignored() -> None:
    columns = side_columns({"genre": ["x", "y", "z"]}, min_category_count=2)
    assert columns.features.names == ()
    assert columns.kinds == {}
    assert columns.ignored == {"genre": "no value as frequent as min_category_count"}
