"""What is to be scored: a file of users or videos, or all of a dataset, as a stream of records.

A *record* is one request: of a user, of a pair of user and video, or of a video. A *column* is an array over records:

    user_id, video_id    object (str)
    history, exclude     object: a list of video ids each, None where the file gives none
    history_timestamp    object: a list of Unix seconds each, None where the file gives none
    timestamp            int64 Unix seconds, 0 where unknown

A list is written as JSON (`["v1", "v2"]`) or separated by `|` (`v1|v2`). A record that cannot be read, or whose key came
before, is a reject.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tfrec.data.parse import parse_times, to_seconds
from tfrec.data.rejects import RejectLog
from tfrec.data.tables import Batch, Table
from tfrec.errors import TfrecError

OPTIONAL = ("history", "history_timestamp", "timestamp", "exclude")
"""Columns that a file of users may have."""

_ODD = 0x9E3779B97F4A7C15  # any large odd number: pairs with their halves swapped differ
_BLOCK_RECORDS = 4096  # read at once; keeps the Python lists of histories few


@dataclass(frozen=True)
class Records:
    """Some records, in the order in which they came.

    Args:
        columns: arrays of equal length by name; at least one.
    """

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, which: slice | NDArray[Any]) -> Records:
        return Records({name: values[which] for name, values in self.columns.items()})

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """One after the other."""
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})


class Source(Protocol):
    """Where records come from; they come in the same order each time."""

    @property
    def digest(self) -> str:
        """Differs where the records differ."""

    def records(self, rejects: RejectLog) -> Iterator[Records]:
        """All records, some at a time; `rejects` learns of those that cannot be used."""


@dataclass(frozen=True)
class IdSource:
    """All users or videos of a dataset.

    Args:
        column: `user_id` or `video_id`.
        ids: object (str) `[records]`.
    """

    column: str
    ids: NDArray[np.object_]

    @property
    def digest(self) -> str:
        """Of the ids."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def records(self, rejects: RejectLog) -> Iterator[Records]:
        """The ids alone; none is a reject."""
        for start in range(0, len(self.ids), _BLOCK_RECORDS):
            yield Records({self.column: self.ids[start : start + _BLOCK_RECORDS]})


class TableSource:
    """A file of users, of pairs, or of videos.

    Args:
        table: the file.
        keys: columns that it must have; together they name a record.

    Raises:
        TfrecError: If a key column is missing.
    """

    def __init__(self, table: Table, keys: Sequence[str]) -> None:
        for key in keys:
            if key not in table.names:
                raise TfrecError(f"{table.file} has no column `{key}`. It has: {', '.join(table.header)}.")
        self._table = table
        self._keys = keys
        self._columns = [*keys, *(name for name in OPTIONAL if name in table.names and name not in keys)]

    def read_by(self, kind: type[Table]) -> TableSource:
        """The same records, where `kind` of table reads the file."""
        return TableSource(kind(self._table.path, self._table.header, self._table.names), self._keys)

    @property
    def digest(self) -> str:
        """Of the file's bytes."""
        with self._table.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def records(self, rejects: RejectLog) -> Iterator[Records]:
        """Reads the file."""
        seen = _SeenKeys()
        for batch in self._table.batches(self._columns, rejects):
            for start in range(0, len(batch.rows), _BLOCK_RECORDS):
                yield self._parse(_slice(batch, start), seen, rejects)

    def _parse(self, batch: Batch, seen: _SeenKeys, rejects: RejectLog) -> Records:
        columns, faults = {}, []
        for name in self._columns:
            columns[name], reason, bad = _PARSERS.get(name, _parse_ids)(name, batch.columns[name])
            faults.append((reason, bad))
        if "history" in columns and "history_timestamp" in columns:
            faults.append(("history and history_timestamp differ in length", _uneven(columns)))
        keep = rejects.filter(self._table.file, batch.rows, faults)
        records, rows = Records(columns)[keep], batch.rows[keep]
        repeated = seen.repeated([records.columns[key] for key in self._keys])
        fault = f"{' and '.join(self._keys)} came before"
        return records[rejects.filter(self._table.file, rows, [(fault, repeated)])]


def _slice(batch: Batch, start: int) -> Batch:
    columns = {name: array[start : start + _BLOCK_RECORDS] for name, array in batch.columns.items()}
    return Batch(batch.rows[start : start + _BLOCK_RECORDS], columns)


Parsed = tuple[NDArray[Any], str, NDArray[np.bool_]]
"""A column, what may be wrong with it, and bool `[records]`: where it is."""


def _parse_ids(name: str, strings: pa.Array) -> Parsed:
    values = strings.fill_null("").to_numpy(zero_copy_only=False)
    return values, f"{name} is missing", values == ""


def _parse_timestamp(name: str, strings: pa.Array) -> Parsed:
    values, bad = parse_times(strings)
    return to_seconds(np.nan_to_num(values).astype(np.int64))[0], f"{name} is no time", bad


def _parse_lists(name: str, strings: pa.Array) -> Parsed:
    return _each(_read_ids, strings, f"{name} is neither a JSON list of ids nor ids separated by |")


def _parse_time_lists(name: str, strings: pa.Array) -> Parsed:
    return _each(_read_seconds, strings, f"{name} is neither a JSON list of Unix seconds nor such separated by |")


_PARSERS: Mapping[str, Callable[[str, pa.Array], Parsed]] = {
    "history": _parse_lists,
    "history_timestamp": _parse_time_lists,
    "timestamp": _parse_timestamp,
    "exclude": _parse_lists,
}


def _each(read: Callable[[str], list[Any]], strings: pa.Array, reason: str) -> Parsed:
    values, bad = np.full(len(strings), None, object), np.zeros(len(strings), bool)
    for row, text in enumerate(strings.to_pylist()):
        try:
            values[row] = None if text is None else read(text)
        except ValueError:
            bad[row] = True
    return values, reason, bad


def _read_list(text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return text.split("|")
    items = json.loads(text)
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in items):
        raise ValueError(text)
    return list(items)


def _read_ids(text: str) -> list[str]:
    return [str(item) for item in _read_list(text)]


def _read_seconds(text: str) -> list[int]:
    seconds = [int(item) for item in _read_list(text)]
    if not all(0 <= second < 1 << 63 for second in seconds):
        raise ValueError(text)
    return seconds


def _uneven(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    pairs = zip(columns["history"], columns["history_timestamp"], strict=True)
    return np.array([times is not None and len(times) != len(events or ()) for events, times in pairs], bool)


class _SeenKeys:
    """Which keys came before: 8 bytes each, as sorted runs that are merged when they are alike in size.

    Keys are compared by a 64-bit hash: among ten million, two that differ are taken for one with a probability of 3e-6.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def repeated(self, keys: Iterable[NDArray[np.object_]]) -> NDArray[np.bool_]:
        """Bool `[records]`: the key came before; from now on all of these did."""
        hashes = _hash(keys)
        repeated = np.ones(len(hashes), bool)
        repeated[np.unique(hashes, return_index=True)[1]] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            repeated |= run[place] == hashes
        self._add(np.sort(hashes[~repeated]))
        return repeated

    def _add(self, run: NDArray[np.uint64]) -> None:
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))


def _hash(keys: Iterable[NDArray[np.object_]]) -> NDArray[np.uint64]:
    hashes = [pd.util.hash_array(values, categorize=False) for values in keys]
    return functools.reduce(lambda first, second: first * np.uint64(_ODD) + second, hashes)
