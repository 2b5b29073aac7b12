"""A growing table of arrays by content key, on disk.

A *key* is 32 bytes, the digest of what was encoded; a *row* is its place in the table; a *length* says how many steps of the
row's array are real. Two files per table: `values.bin` holds the arrays one after the other and is memory-mapped,
`keys.bin` holds key and length. Values are written and flushed before their keys, so whatever stops the process, the rows
that both files hold whole are good, and the rest is overwritten. A row stays where it is, so any number of processes may read
while one writes; several writers take turns by a lock on `keys.bin`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tfrec.errors import TfrecError
from tfrec.run import locked_file

KEY_BYTES = 32
_ENTRY = np.dtype([("key", f"S{KEY_BYTES}"), ("length", "<i4")])
_GATHERED_IN_MEMORY_BYTES = 2**30
_CHUNK_ROWS = 4096
_UNSORTED_ROWS = 16_384
"""Rows that may be added before all are sorted again."""

Keys = NDArray[np.bytes_]


def content_key(*parts: bytes) -> bytes:
    """Digest of `parts`; their boundaries count."""
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def as_keys(keys: Sequence[bytes]) -> Keys:
    """`keys` as one array, `[num_keys]`."""
    return np.array(list(keys), dtype=_ENTRY["key"])


class FeatureStore:
    """Arrays of one shape and type by content key.

    Args:
        folder: where the table lies; made at the first `append`.
        shape: shape of a row's array.
        dtype: its type.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float16) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape))
        self._entries = self._read_entries()
        self._order = np.empty(0, np.int64)  # of the keys of the first rows

    def __len__(self) -> int:
        return len(self._entries)

    def rows(self, keys: Sequence[bytes] | Keys) -> NDArray[np.int64]:
        """int64 `[num_keys]`: the row of each key, -1 where it is absent."""
        wanted = keys if isinstance(keys, np.ndarray) else as_keys(keys)
        stored = self._entries["key"]
        if len(stored) - len(self._order) > _UNSORTED_ROWS:
            self._order = np.argsort(stored, kind="stable")
        count = len(self._order)
        recent = _find(wanted, stored[count:], np.argsort(stored[count:], kind="stable"))
        return np.where(recent >= 0, recent + count, _find(wanted, stored[:count], self._order))

    def append(self, keys: Sequence[bytes], values: NDArray[Any], lengths: NDArray[np.integer[Any]]) -> None:
        """Adds rows; they are on disk when this returns. A key that is there already, by whichever process, keeps its row.

        Args:
            keys: `[num_rows]`, no two equal.
            values: `[num_rows, *shape]`.
            lengths: `[num_rows]`.

        Raises:
            ValueError: If `values` has another shape.
            TfrecError: If the disk is full or may not be written.
        """
        if values.shape != (len(keys), *self.shape):
            raise ValueError(f"`values` must be of shape {(len(keys), *self.shape)}. Received: {values.shape}.")
        entries = np.empty(len(keys), _ENTRY)
        entries["key"], entries["length"] = as_keys(keys), lengths
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked_file(self.folder / "keys.bin"):
                self._append_absent(entries, values)
        except OSError as error:
            raise TfrecError(
                f"The feature cache cannot be written: {self.folder}: {error.strerror or error}. Mend that, or choose another "
                "folder, and start again: what is stored is not encoded again."
            ) from error

    def _append_absent(self, entries: NDArray[Any], values: NDArray[Any]) -> None:
        self._refresh()
        new = self.rows(entries["key"]) < 0
        self._write("values.bin", len(self) * self._row_bytes, np.ascontiguousarray(values[new], self.dtype))
        self._write("keys.bin", len(self) * _ENTRY.itemsize, entries[new])
        self._entries = np.concatenate([self._entries, entries[new]])

    def lengths(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """int32 `[num_rows]`: steps present, 0 for row -1."""
        stored = np.append(self._entries["length"], np.int32(0))
        return stored[rows]

    def read(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """`[num_rows, *shape]`, zeros for row -1.

        The whole table in order is returned as the memory-mapped file itself. Any other selection is gathered: in memory, or
        where that would take more than a GiB, in an unnamed file that goes with the process.
        """
        stored = self._mapped()
        if np.array_equal(rows, np.arange(len(stored))):
            return stored
        gathered = self._empty(len(rows))
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            present = chunk >= 0
            gathered[start : start + len(chunk)][present] = stored[chunk[present]]
        return gathered

    def _empty(self, num_rows: int) -> NDArray[Any]:
        shape = (num_rows, *self.shape)
        if num_rows * self._row_bytes <= _GATHERED_IN_MEMORY_BYTES:
            return np.zeros(shape, self.dtype)
        path = self.folder / f"gathered-{os.getpid()}.bin"
        mapped = np.memmap(path, self.dtype, "w+", shape=shape)
        path.unlink()
        return mapped

    def _mapped(self) -> NDArray[Any]:
        if not len(self):
            return np.zeros((0, *self.shape), self.dtype)
        return np.memmap(self.folder / "values.bin", self.dtype, "r", shape=(len(self), *self.shape))

    def _count(self) -> int:
        """Rows that both files hold whole."""
        keys, values = self.folder / "keys.bin", self.folder / "values.bin"
        if not (keys.exists() and values.exists()):
            return 0
        return min(keys.stat().st_size // _ENTRY.itemsize, values.stat().st_size // self._row_bytes)

    def _read_entries(self) -> NDArray[Any]:
        count = self._count()
        return np.fromfile(self.folder / "keys.bin", _ENTRY, count) if count else np.empty(0, _ENTRY)

    def _refresh(self) -> None:
        """Takes in what other processes have added."""
        if self._count() != len(self):
            self._entries = self._read_entries()
            self._order = self._order[:0]

    def _write(self, name: str, offset: int, data: NDArray[Any]) -> None:
        """Writes `data` at `offset`, cuts what stood behind it, and waits for the disk."""
        with open(self.folder / name, "r+b" if (self.folder / name).exists() else "w+b") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data.tobytes())
            file.flush()
            os.fsync(file.fileno())


def _find(wanted: Keys, stored: Keys, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 `[num_wanted]`: places among `stored`, which `order` sorts; -1 where absent."""
    if not len(stored):
        return np.full(len(wanted), -1)
    place = order[np.minimum(np.searchsorted(stored, wanted, sorter=order), len(stored) - 1)]
    return np.where(stored[place] == wanted, place, -1)
