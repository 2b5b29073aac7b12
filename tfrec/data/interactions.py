"""Reads the log of who watched what, batch by batch, into integer arrays.

Ten million events take about a quarter of a gigabyte as arrays; their strings never lie in memory all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tfrec.data.catalog import as_objects
from tfrec.data.parse import look_up, parse_labels, parse_numbers, parse_times
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import LABELS
from tfrec.data.splits import PART_NAMES
from tfrec.data.tables import Batch, Table
from tfrec.errors import TfrecError

Events = dict[str, NDArray[Any]]
"""Arrays `[num_events]` by name: `row`, `user`, `video`, and what the log has of `timestamp`, `part`, `position` and
`LABELS`."""

CONTRACT_COLUMNS = ("user_id", "video_id", "timestamp", *LABELS, "position", "split")
"""The columns of a log that are read."""

MAX_POSITION = 1_000_000
"""A larger number is no place in a list."""


class IdIndex:
    """Row numbers of ids.

    Args:
        ids: the known ids, or None to number the ids in the order in which they first appear.
    """

    def __init__(self, ids: NDArray[np.object_] | None) -> None:
        self._grows = ids is None
        self._ids = pa.array([] if ids is None else ids, pa.string())

    @property
    def ids(self) -> NDArray[np.object_]:
        """Object (str) `[num_ids]`."""
        return as_objects(self._ids)

    def encode(self, ids: pa.Array) -> NDArray[np.int32]:
        """int32 `[rows]` row numbers of ids without nulls, -1 where unknown."""
        encoded = ids.dictionary_encode()
        if self._grows:
            new = encoded.dictionary.filter(pc.invert(pc.is_in(encoded.dictionary, value_set=self._ids)))
            self._ids = pa.concat_arrays([self._ids, new])
        row_of = pc.index_in(encoded.dictionary, value_set=self._ids).fill_null(-1).to_numpy(zero_copy_only=False)
        rows: NDArray[np.int32] = row_of.astype(np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
        return rows


def read_events(table: Table, users: IdIndex, videos: IdIndex, rejects: RejectLog) -> Events:
    """Reads an interactions table; the exact repetition of an event is refused.

    Args:
        table: the table.
        users: row numbers of the users.
        videos: row numbers of the videos.
        rejects: learns of refused rows.

    Returns:
        Events in the order of the file.

    Raises:
        TfrecError: If a column is missing that the split needs, or there are no rows.
    """
    columns = _columns_to_read(table)
    batches = [_read_batch(table.file, batch, users, videos, rejects) for batch in table.batches(columns, rejects)]
    if not batches:
        raise TfrecError(f"{table.file} holds no rows. Expected at least one event.")
    events = {name: np.concatenate([batch.pop(name) for batch in batches]) for name in list(batches[0])}
    repeated = repeated_events(events)
    rejects.add(table.file, events["row"][repeated], "duplicate row")
    return {name: values[~repeated] for name, values in events.items()} if repeated.any() else events


def _columns_to_read(table: Table) -> list[str]:
    table.require("user_id", "video_id")
    if not {"timestamp", "split"} & set(table.names):
        raise TfrecError(
            f"{table.file} has neither `timestamp` nor `split`, so nothing says which events come last. It has: "
            f"{', '.join(table.header)}. Name the column with --data.columns.timestamp NAME, or add a `split` "
            f"column (train, validation, test)."
        )
    return [name for name in CONTRACT_COLUMNS if name in table.names]


def _read_batch(file: str, batch: Batch, users: IdIndex, videos: IdIndex, rejects: RejectLog) -> Events:
    """Values first, ids after: an id that stands only in refused rows names no user or video."""
    events, faults = _parse(batch.columns)
    events["row"] = batch.rows
    events, ids = _keep(rejects.filter(file, batch.rows, faults), events, batch.columns)
    events["user"], events["video"] = users.encode(ids["user_id"]), videos.encode(ids["video_id"])
    unknown = [(f"unknown {name}_id", events[name] < 0) for name in ("user", "video")]
    return _keep(rejects.filter(file, events["row"], unknown), events, {})[0]


def _keep(
    keep: NDArray[np.bool_], events: Events, columns: Mapping[str, pa.Array]
) -> tuple[Events, Mapping[str, pa.Array]]:
    if keep.all():
        return events, columns
    mask = pa.array(keep)
    return (
        {name: values[keep] for name, values in events.items()},
        {name: columns[name].filter(mask) for name in ("user_id", "video_id") if name in columns},
    )


def _parse(columns: Mapping[str, pa.Array]) -> tuple[Events, list[tuple[str, NDArray[np.bool_]]]]:
    """All but the ids, and what is wrong with them."""
    events: Events = {}
    faults = [
        (f"empty {name}", columns[name].is_null().to_numpy(zero_copy_only=False)) for name in ("user_id", "video_id")
    ]
    if "timestamp" in columns:
        times = parse_times(columns["timestamp"])
        faults += [("empty timestamp", times.missing), ("bad timestamp", times.bad)]
        events["timestamp"] = np.nan_to_num(times.values).astype(np.int64)
    for label in LABELS:
        if label in columns:
            events[label], bad = parse_labels(columns[label])
            faults.append((f"bad {label}", bad))
    if "position" in columns:
        positions = parse_numbers(columns["position"])
        outside = ~np.isnan(positions.values) & ((positions.values < 1) | (positions.values > MAX_POSITION))
        faults.append(("bad position", positions.bad | outside))
        events["position"] = np.nan_to_num(np.where(outside, 0, positions.values)).astype(np.int32)
    if "split" in columns:
        events["part"] = look_up(columns["split"], PART_NAMES)
        faults.append(("bad split", events["part"] < 0))
    return events, faults


def repeated_events(events: Events) -> NDArray[np.bool_]:
    """Bool `[num_events]`: an earlier row of the file has the same user, video, time, labels and part."""
    pair = (events["user"].astype(np.int64) << 32) | events["video"]
    order = np.argsort(pair, kind="stable")
    same = pair[order[1:]] == pair[order[:-1]]
    # Few pairs meet again, so only theirs are compared in full.
    meets_again = np.zeros(len(pair), bool)
    meets_again[order[1:]] = same
    meets_again[order[:-1]] |= same
    again = np.flatnonzero(meets_again)
    keys = [pair[again], *(values[again] for name, values in events.items() if name not in {"row", "user", "video"})]
    order = np.lexsort(keys)
    equal = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    repeated = np.zeros(len(pair), bool)
    repeated[again[order[1:][equal]]] = True
    return repeated
