"""Reads `.csv`, `.csv.gz` and Parquet tables as streams of string columns.

Whatever the format, a table comes as batches of strings, so that the same log gives the same dataset in each: an id "007"
stays "007", the integer 7 of a Parquet file becomes "7". Empty and null values are both null. Columns carry the names of
the contract; `columns` of the configuration says what they are called in the file.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from tfrec.data.counting_stream import CountingStream
from tfrec.data.rejects import RejectLog
from tfrec.errors import TfrecError

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_CSV_BLOCK_BYTES = 16 << 20
_PARQUET_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Batch:
    """Some records of a table.

    Args:
        rows: int64 `[records]` row numbers in the file, counted as `rejects.py` says.
        columns: string arrays `[records]` by contract name, null where empty.
    """

    rows: NDArray[np.int64]
    columns: Mapping[str, pa.Array]


@dataclass(frozen=True)
class Table:
    """A table of the dataset folder.

    Args:
        path: the file.
        header: all column names in the file.
        names: names in the file by contract name, without ignored columns.
    """

    path: Path
    header: Sequence[str]
    names: Mapping[str, str]

    @property
    def file(self) -> str:
        """The file's name, as shown in messages."""
        return self.path.name

    @property
    def first_row(self) -> int:
        """Number of the first record: a CSV file has a header above it."""
        return 1 if self.path.suffix == ".parquet" else 2

    def require(self, *columns: str) -> None:
        """Raises `TfrecError` unless the table has all `columns`."""
        for column in columns:
            if column not in self.names:
                raise TfrecError(
                    f"{self.file} has no column `{column}`. It has: {', '.join(self.header)}. "
                    f"Say which one it is with --data.columns.{column} NAME."
                )

    def parquet_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns `names` of a Parquet file, as they are, in the order of its rows."""
        with pa.parquet.ParquetFile(self.path) as file:
            yield from file.iter_batches(_PARQUET_BATCH_ROWS, columns=list(names))

    def batches(self, columns: Sequence[str], rejects: RejectLog) -> Iterator[Batch]:
        """Streams `columns`; records that are broken or not UTF-8 go to `rejects`, which also learns the total."""
        names = [self.names[column] for column in columns]
        read = _parquet_batches if self.path.suffix == ".parquet" else _csv_batches
        with _readable(self.path):
            for rows, arrays in read(self, names, rejects):
                rejects.saw(self.file, len(rows))
                yield _decode(self.file, rows, dict(zip(columns, arrays, strict=True)), rejects)


def find_table(folder: Path, name: str, columns: Mapping[str, str], ignore: Sequence[str]) -> Table | None:
    """The table `name` of a dataset folder, or None.

    Args:
        folder: dataset folder.
        name: `users`, `videos` or `interactions`.
        columns: names in the files by contract name, where they differ.
        ignore: columns (either name) to leave out.

    Raises:
        TfrecError: If the table is there in two formats, or its columns cannot be read or told apart.
    """
    paths = [path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").exists()]
    if len(paths) > 1:
        raise TfrecError(f"{folder} has {' and '.join(path.name for path in paths)}. Keep one of them.")
    return open_table(paths[0], columns, ignore) if paths else None


def open_table(path: Path, columns: Mapping[str, str], ignore: Sequence[str]) -> Table:
    """The table in a file.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file.
        columns: names in the file by contract name, where they differ.
        ignore: columns (either name) to leave out.

    Raises:
        TfrecError: If there is no such file, or its columns cannot be read or told apart.
    """
    if not path.name.endswith(_SUFFIXES):
        raise TfrecError(f"{path} is no table. Expected a file whose name ends with {', '.join(_SUFFIXES)}.")
    header = _header(path)
    renamed = {source: column for column, source in columns.items() if source in header}
    names = {
        renamed.get(source, source): source for source in header if source in renamed or source not in renamed.values()
    }
    dropped = set(ignore)
    return Table(path, header, {name: source for name, source in names.items() if not {name, source} & dropped})


def _header(path: Path) -> list[str]:
    with _readable(path):
        header = pa.parquet.read_schema(path).names if path.suffix == ".parquet" else _csv_header(path)
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise TfrecError(
            f"{path.name} has several columns called {', '.join(sorted(repeated))}. Rename or remove them."
        )
    return header


def _csv_header(path: Path) -> list[str]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        lines = stream.readline(_CSV_BLOCK_BYTES).decode("utf-8-sig").splitlines()
    if not lines:
        raise TfrecError(f"{path.name} is empty. Expected a header line and records.")
    return next(csv.reader(lines[:1]))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a reader says of a damaged file into one line with its name."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TfrecError(f"{path.name}: the header is not UTF-8 text. Save the file as UTF-8.") from error
    except (pa.ArrowException, OSError, EOFError, csv.Error) as error:
        hint = " A quote may be opened and never closed." if "straddling" in str(error) else ""
        raise TfrecError(f"{path.name} cannot be read: {error}.{hint} Write the file again.") from error


def _csv_batches(
    table: Table, names: list[str], rejects: RejectLog
) -> Iterator[tuple[NDArray[np.int64], list[pa.Array]]]:
    broken: list[int] = []

    def skip(row: Any) -> str:
        broken.append(row.number)
        return "skip"

    stream = CountingStream(table.path)
    with (
        closing(stream),
        pa.csv.open_csv(
            stream,
            pa.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
            pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            pa.csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.binary())),
        ) as reader,
    ):
        read = 0
        for batch in reader:
            position = np.arange(read, read + batch.num_rows)
            read += batch.num_rows
            # A record stands as many rows further down as there are broken rows before it.
            before = np.array(broken, np.int64) - table.first_row - np.arange(len(broken))
            yield table.first_row + position + np.searchsorted(before, position, side="right"), batch.columns
    stream.check_quotes(1 + read + len(broken))
    rejects.saw(table.file, len(broken))
    rejects.add(table.file, np.array(broken, np.int64), "wrong number of columns")


def _parquet_batches(
    table: Table, names: list[str], rejects: RejectLog
) -> Iterator[tuple[NDArray[np.int64], list[pa.Array]]]:
    read = table.first_row
    for batch in table.parquet_batches(names):
        yield (
            np.arange(read, read + batch.num_rows),
            [_column_as_strings(table.file, name, batch.column(name)) for name in names],
        )
        read += batch.num_rows


def _column_as_strings(file: str, name: str, column: pa.Array) -> pa.Array:
    try:
        return _as_strings(column)
    except pa.ArrowNotImplementedError as error:
        raise TfrecError(
            f"{file}: column `{name}` of type {column.type} cannot be read. Leave it out with --data.ignore '[{name}]'."
        ) from error


def _as_strings(column: pa.Array) -> pa.Array:
    """What a CSV file would hold: times as Unix seconds, lists as JSON."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists_as_json(column)
    if pa.types.is_floating(kind):  # pandas writes a missing number as NaN
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.binary() if pa.types.is_large_binary(kind) or pa.types.is_binary(kind) else pa.string())


def _lists_as_json(column: pa.Array) -> pa.Array:
    """JSON of lists, as bytes that need not be UTF-8, null where there is no list."""
    items = column.flatten()
    if pa.types.is_dictionary(items.type):
        items = items.dictionary_decode()
    words = _as_strings(items).cast(pa.binary())
    if _is_text(items.type):
        distinct = words.dictionary_encode()
        words = pa.array(map(_quoted, distinct.dictionary.to_pylist()), pa.binary()).take(distinct.indices)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, words.fill_null(b"null"))
    written = pc.binary_join_element_wise(b"[", pc.binary_join(lists, b","), b"]", b"")
    return pc.if_else(column.is_valid(), written, None)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _quoted(word: bytes) -> bytes:
    """A JSON string; bytes that are not UTF-8 stay, for `_decode` to find."""
    return json.dumps(word.decode(errors="surrogateescape"), ensure_ascii=False).encode(errors="surrogateescape")


def _decode(file: str, rows: NDArray[np.int64], columns: dict[str, pa.Array], rejects: RejectLog) -> Batch:
    keep = rejects.filter(
        file, rows, ((f"{name} is not UTF-8", _undecodable(array)) for name, array in columns.items())
    )
    if not keep.all():
        rows, columns = rows[keep], {name: array.filter(pa.array(keep)) for name, array in columns.items()}
    return Batch(rows, {name: _null_if_empty(array.cast(pa.string())) for name, array in columns.items()})


def _undecodable(column: pa.Array) -> NDArray[np.bool_]:
    """Bool `[records]`: not UTF-8. Arrow names no record, so a block with a fault is looked through one by one."""
    try:
        column.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return np.array([not _is_utf8(value) for value in column.to_pylist()], bool)
    return np.zeros(len(column), bool)


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _null_if_empty(strings: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(strings, ""), None, strings)
