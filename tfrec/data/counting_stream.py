"""The bytes of a CSV file on their way to the parser."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tfrec.errors import TfrecError


class CountingStream:
    """The bytes of a CSV file; counts lines and quotes, to notice a quote that is never closed."""

    def __init__(self, path: Path) -> None:
        self._file = path.name
        self._stream = pa.input_stream(path, compression="gzip" if path.suffix == ".gz" else None)
        self._lines, self._quotes = 0, 0

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return bool(self._stream.closed)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes."""
        data: bytes = self._stream.read(size)
        self._lines += data.count(b"\n")
        self._quotes += data.count(b'"')
        return data

    def check_quotes(self, num_records: int) -> None:
        """Raises `TfrecError` if an open quote has swallowed lines, so that there are fewer records (with header)."""
        if self._quotes % 2 and self._lines > num_records:
            raise TfrecError(
                f'{self._file}: a quote (") is opened and never closed, {self._lines:,} lines became {num_records:,} '
                f'records. Close it, or write it twice ("") inside a quoted value.'
            )
