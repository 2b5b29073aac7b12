"""A table with one row per user or video, read whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfrec.data.rejects import RejectLog
from tfrec.data.tables import Table
from tfrec.errors import TfrecError

_EXAMPLES = 5


@dataclass(frozen=True)
class Entities:
    """Users or videos as they stand in their file.

    Args:
        file: name of the file.
        rows: int64 `[rows]` row numbers in the file.
        positions: int64 `[rows]` 0-based place among all records of the file, refused ones counted.
        num_records: records of the file, refused ones counted.
        ids: string array `[rows]`.
        columns: the other columns, string arrays `[rows]` by name, null where missing.
    """

    file: str
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    num_records: int
    ids: pa.Array
    columns: Mapping[str, pa.Array]

    def reject_values(self, column: str, bad: NDArray[np.bool_], rejects: RejectLog) -> None:
        """Notes unreadable values; their rows stay, without the value."""
        rejects.add(self.file, self.rows[bad], f"bad {column}")


def read_entities(table: Table, id_name: str, rejects: RejectLog) -> Entities:
    """Reads a table; records without an id are refused.

    Raises:
        TfrecError: If the id column is missing or holds an id twice.
    """
    table.require(id_name)
    batches = list(table.batches(list(table.names), rejects))
    rows = np.concatenate([np.zeros(0, np.int64), *(batch.rows for batch in batches)])
    columns = {
        name: pa.chunked_array([batch.columns[name] for batch in batches], pa.string()).combine_chunks()
        for name in table.names
    }
    empty = columns[id_name].is_null().to_numpy(zero_copy_only=False)
    keep = rejects.filter(table.file, rows, [(f"empty {id_name}", empty)])
    if not keep.all():
        rows, columns = rows[keep], {name: values.filter(pa.array(keep)) for name, values in columns.items()}
    ids = columns.pop(id_name)
    _refuse_duplicates(table.file, id_name, ids)
    return Entities(table.file, rows, rows - table.first_row, rejects.total(table.file), ids, columns)


def _refuse_duplicates(file: str, id_name: str, ids: pa.Array) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        examples = ", ".join(f"{item['values']} ({item['counts']} times)" for item in repeated[:_EXAMPLES].to_pylist())
        raise TfrecError(
            f"{file}: {len(repeated):,} values of `{id_name}` stand in more than one row: {examples}"
            f"{', ...' if len(repeated) > _EXAMPLES else ''}. Each may stand once; remove the repeated rows."
        )
