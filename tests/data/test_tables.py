from __future__ import annotations

import datetime
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tfrec.data import tables
from tfrec.data.rejects import RejectLog
from tfrec.data.tables import find_table
from tfrec.errors import TfrecError

Write = Callable[[dict[str, str | bytes]], Path]
Records = tuple[list[int], dict[str, list[str | None]]]


def read(folder: Path, rejects: RejectLog | None = None, **columns: str) -> Records:
    """Row numbers and all columns of the table `users`."""
    table = find_table(folder, "users", columns, [])
    assert table is not None
    batches = list(table.batches(list(table.names), rejects or RejectLog()))
    rows = [int(row) for batch in batches for row in batch.rows]
    return rows, {name: [v for b in batches for v in b.columns[name].to_pylist()] for name in table.names}


PLAIN = "user_id,age\n007,31\nb,\n"
EXPECTED = {"user_id": ["007", "b"], "age": ["31", None]}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.rstrip("\n"),
        PLAIN.replace("007", '"007"'),
    ],
    ids=["plain", "byte order mark", "CRLF", "empty lines", "no last line end", "quoted"],
)
@pytest.mark.parametrize("name", ["users.csv", "users.csv.gz"])
def test_csv_spellings(write: Write, name: str, content: str) -> None:
    assert read(write({name: content})) == ([2, 3], EXPECTED)


def test_parquet_gives_the_strings_of_a_csv(write: Write) -> None:
    folder = write({})
    folder.mkdir()
    columns = {
        "id": pa.array([7, None], pa.int64()),
        "float_id": pa.array([7.0, float("nan")]),
        "flag": [True, False],
        "time": pa.array([datetime.datetime(2024, 1, 1, 10, tzinfo=datetime.UTC), None], pa.timestamp("ns", "UTC")),
        "day": [datetime.date(2024, 1, 1), None],
        "words": [["a|b", 'say "é"\n', None], []],
        "large": pa.array([None, ["a"]], pa.large_list(pa.large_string())),
        "numbers": pa.array([[0.5, 2], None], pa.list_(pa.float32())),
        "pairs": pa.array([[1, None], [3, 4]], pa.list_(pa.int64(), 2)),
        "dictionary": pa.array([3, 3]).dictionary_encode(),
    }
    pa.parquet.write_table(pa.table(columns), folder / "users.parquet")
    assert read(folder) == (
        [1, 2],
        {
            "id": ["7", None],
            "float_id": ["7", None],
            "flag": ["true", "false"],
            "time": ["1704103200", None],
            "day": ["1704067200", None],
            "words": [r'["a|b","say \"é\"\n",null]', "[]"],
            "large": [None, '["a"]'],
            "numbers": ["[0.5,2]", None],
            "pairs": ["[1,null]", "[3,4]"],
            "dictionary": ["3", "3"],
        },
    )


def test_parquet_column_that_no_text_can_hold(write: Write) -> None:
    folder = write({})
    folder.mkdir()
    pa.parquet.write_table(pa.table({"user_id": ["a"], "address": [{"city": "x"}]}), folder / "users.parquet")
    with pytest.raises(TfrecError, match=r"users.parquet.*`address`.*struct.*--data.ignore"):
        read(folder)


@pytest.mark.parametrize("block_bytes", [1 << 20, 24])
def test_broken_rows_are_refused_by_number(write: Write, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(tables, "_CSV_BLOCK_BYTES", block_bytes)
    folder = write({"users.csv": 'user_id,age\na,1\nb\nc,3\nd,4,4\ne,5,\n"f\nf",6\ng,7\n'})
    rejects = RejectLog()
    assert read(folder, rejects) == ([2, 4, 7, 8], {"user_id": ["a", "c", "f\nf", "g"], "age": ["1", "3", "6", "7"]})
    assert rejects.counts() == {"users.csv": {"wrong number of columns": 3}}
    assert rejects.total("users.csv") == 7


def test_rows_that_are_not_utf8_are_refused(write: Write) -> None:
    rejects = RejectLog()
    folder = write(
        {"users.csv": "user_id,city\na,Köln\nb,".encode() + "Köln\n".encode("latin-1") + "c,北京\n".encode()}
    )
    assert read(folder, rejects) == ([2, 4], {"user_id": ["a", "c"], "city": ["Köln", "北京"]})
    assert rejects.counts() == {"users.csv": {"city is not UTF-8": 1}}


def test_lists_that_are_not_utf8_are_refused(write: Write) -> None:
    rejects, folder = RejectLog(), write({})
    folder.mkdir()
    pa.parquet.write_table(pa.table({"user_id": ["a", "b"], "seen": [[b"x"], [b"x\xff"]]}), folder / "users.parquet")
    assert read(folder, rejects) == ([1], {"user_id": ["a"], "seen": ['["x"]']})
    assert rejects.counts() == {"users.parquet": {"seen is not UTF-8": 1}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("users.csv", "", "users.csv is empty"),
        ("users.csv", PLAIN.encode("utf-16"), "header is not UTF-8"),
        ("users.csv", "user_id,age,age\n", "several columns called age"),
        ("users.csv", 'user_id,age\na,1\nb,"2\nc,3\n', r"quote \(\"\) is opened and never closed, 4 lines became 3"),
        ("users.parquet", "not a table", "users.parquet cannot be read"),
    ],
)
def test_unreadable_files(write: Write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        read(write({name: content}))


def test_truncated_gzip(write: Write) -> None:
    folder = write({"users.csv.gz": PLAIN})
    generator = np.random.default_rng(1)
    whole = gzip.compress(("user_id,age\n" + "".join(f"{generator.random()},1\n" for _ in range(9999))).encode())
    (folder / "users.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TfrecError, match=r"users\.csv\.gz cannot be read"):
        read(folder)


def test_a_stray_quote_inside_a_value_is_kept(write: Write) -> None:
    assert read(write({"users.csv": 'user_id,screen\na,5" wide\nb,x\n'}))[1]["screen"] == ['5" wide', "x"]


def test_two_formats_of_a_table_are_refused(write: Write) -> None:
    with pytest.raises(TfrecError, match=r"has users.csv and users.csv.gz. Keep one"):
        find_table(write({"users.csv": PLAIN, "users.csv.gz": PLAIN}), "users", {}, [])


def test_a_missing_table_is_none(write: Write) -> None:
    assert find_table(write({"users.csv": PLAIN}), "videos", {}, []) is None


def test_columns_are_renamed(write: Write) -> None:
    folder = write({"users.csv": "uid,user_id,like\na,x,1\n"})
    columns = {"user_id": "uid", "old": "like", "like": "user_id"}
    assert read(folder, **columns)[1] == {"user_id": ["a"], "like": ["x"], "old": ["1"]}


def test_a_renamed_column_takes_the_place_of_its_namesake(write: Write) -> None:
    assert read(write({"users.csv": "uid,user_id\na,x\n"}), user_id="uid")[1] == {"user_id": ["a"]}


def test_ignored_columns_are_left_out_by_either_name(write: Write) -> None:
    folder = write({"users.csv": "uid,age,city\n"})
    table = find_table(folder, "users", {"user_id": "uid", "years": "age"}, ["age", "city"])
    assert table is not None
    assert dict(table.names) == {"user_id": "uid"}


def test_a_missing_column_is_named_with_what_there_is(write: Write) -> None:
    table = find_table(write({"users.csv": "id,age\n"}), "users", {}, [])
    assert table is not None
    with pytest.raises(TfrecError, match=r"no column `user_id`. It has: id, age. .*--data.columns.user_id NAME"):
        table.require("user_id")
