"""What was refused while a dataset was read, and why.

A *reject* is a row of a table or a media file that cannot be used. Rows are numbered as a spreadsheet shows them: in a CSV
file the header is row 1 and the first record row 2 (empty lines, and line breaks inside quotes, do not count); a Parquet
file has no header and its first record is row 1. Row 0 stands for a whole file. A *group* shares one limit: each table is
its own group, all media files are the group `media`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from tfrec.errors import TfrecError

MEDIA = "media"
"""The group of all media files."""

_HEADER = b"file,row,reason\n"


class RejectLog:
    """Counts and remembers rejects: 8 bytes each for the rows of a table, one entry for a whole file.

    Args:
        file: in the output folder, that will list them.
        option: of the command line, that allows more.
    """

    def __init__(self, file: str = "rejected.csv", option: str = "--data.max_rejected") -> None:
        self._file, self._option = file, option
        self._entries: list[tuple[str, str, NDArray[np.int64], str]] = []
        self._totals: Counter[str] = Counter()

    def saw(self, group: str, count: int) -> None:
        """Adds `count` rows or files, good and bad, to the total that the share is taken of."""
        self._totals[group] += count

    def total(self, group: str) -> int:
        """Rows or files of `group` seen so far, good and bad."""
        return self._totals[group]

    def add(self, file: str, rows: NDArray[np.int64] | None, reason: str, group: str | None = None) -> None:
        """Notes that `rows` of `file` are refused.

        Args:
            file: path below the dataset folder.
            rows: row numbers, or None for the file as a whole.
            reason: a few words, the same for all rows with the same fault.
            group: where the limit is counted; by default the file itself.
        """
        numbers = np.zeros(1, np.int64) if rows is None else np.asarray(rows, np.int64)
        if len(numbers):
            self._entries.append((group or file, file, numbers, reason))

    def extend(self, other: RejectLog) -> None:
        """Adds what another log has."""
        self._entries += other._entries
        self._totals += other._totals

    def filter(
        self, file: str, rows: NDArray[np.int64], faults: Iterable[tuple[str, NDArray[np.bool_]]]
    ) -> NDArray[np.bool_]:
        """Refuses rows that have any of `faults` (reason, bool `[rows]`), each for the first; returns those to keep."""
        keep = np.ones(len(rows), bool)
        for reason, bad in faults:
            self.add(file, rows[keep & bad], reason)
            keep &= ~bad
        return keep

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of rejects by group and reason."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for group, _, rows, reason in self._entries:
            counts[group][reason] += len(rows)
        return {group: dict(reasons.most_common()) for group, reasons in counts.items()}

    def write(self, path: Path) -> None:
        """Writes `file,row,reason` to `path`, which appears complete or not at all; without rejects there is no file."""
        if not self._entries:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        options = pa.csv.WriteOptions(include_header=False)
        with partial.open("wb") as stream:
            stream.write(_HEADER)
            for _, file, rows, reason in self._entries:
                number = pa.array(rows, mask=rows == 0)
                columns = [pa.repeat(file, len(rows)), number, pa.repeat(reason, len(rows))]
                pa.csv.write_csv(pa.table(columns, ["file", "row", "reason"]), stream, options)
        partial.replace(path)

    def check(self, group: str, max_share: float) -> None:
        """Stops a run whose input is too broken.

        Raises:
            TfrecError: If more than `max_share` of what was seen of `group` was refused.
        """
        reasons = self.counts().get(group, {})
        bad, total = self._num_bad(group), max(self._totals[group], 1)
        if bad <= max_share * total:
            return
        common = "; ".join(f"{count:,} x {reason} ({self._where(group, reason)})" for reason, count in reasons.items())
        raise TfrecError(
            f"{group}: {bad:,} of {total:,} {'files' if group == MEDIA else 'rows'} ({bad / total:.1%}) cannot be used, "
            f"more than the {max_share:.1%} allowed: {common}. Mend them ({self._file} in the output folder lists "
            f"all), or allow more with {self._option}."
        )

    def _num_bad(self, group: str) -> int:
        """Rows or files with at least one fault."""
        rows: defaultdict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for of, file, numbers, _ in self._entries:
            if of == group:
                rows[file].append(numbers)
        return sum(len(np.unique(np.concatenate(numbers))) for numbers in rows.values())

    def _where(self, group: str, reason: str) -> str:
        """The first places with this fault."""
        entries = [(file, rows) for of, file, rows, why in self._entries if of == group and why == reason]
        if group == MEDIA:
            return ", ".join(file for file, _ in entries[:3])
        first = np.sort(np.concatenate([rows for _, rows in entries]))[:3]
        return f"row {', '.join(map(str, first))}" + (", ..." if sum(len(rows) for _, rows in entries) > 3 else "")
