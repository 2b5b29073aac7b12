"""Reads a dataset folder: `load_dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfrec.config import DataConfig
from tfrec.data.catalog import catalog_of_ids, needs_catalog, read_catalog, read_users
from tfrec.data.columns import ColumnNotes
from tfrec.data.interactions import CONTRACT_COLUMNS, Events, IdIndex, read_events
from tfrec.data.parse import to_seconds
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import LABELS, Dataset, FeatureColumns, Interactions, Part, Users
from tfrec.data.splits import split_by_time
from tfrec.data.summary import summarize
from tfrec.data.tables import Table, find_table
from tfrec.errors import TfrecError

REJECTED_FILE = "rejected.csv"

_TABLES = ("users", "videos", "interactions")


def load_dataset(config: DataConfig, output: Path | None = None, rejects: RejectLog | None = None) -> Dataset:
    """Reads and splits the dataset folder `config.folder`.

    Args:
        config: the folder and how to read it.
        output: folder for `rejected.csv`, which is written if anything was refused, also when the run stops for it.
        rejects: learns of what was refused; a new one where none is given.

    Raises:
        TfrecError: If the folder cannot be read, contradicts itself, or more than `config.max_rejected` of a table or of
            the media cannot be used.
    """
    if config.folder is None or not config.folder.is_dir():
        raise TfrecError(f"The dataset folder {config.folder} does not exist. Give one with --data DIR.")
    rejects = RejectLog() if rejects is None else rejects
    try:
        return _load(config.folder, config, rejects)
    finally:
        if output is not None:
            rejects.write(output / REJECTED_FILE)


def _load(folder: Path, config: DataConfig, rejects: RejectLog) -> Dataset:
    tables = _find_tables(folder, config)
    notes: dict[str, ColumnNotes] = {}
    users, videos = None, None
    if "users" in tables:
        users, notes["users"] = read_users(tables["users"], config, rejects)
    if "videos" in tables:
        videos, notes["videos"] = read_catalog(tables["videos"], folder, config, rejects)
    user_index = IdIndex(None if users is None else users.ids)
    video_index = IdIndex(None if videos is None else videos.ids)
    log = tables["interactions"]
    events = read_events(log, user_index, video_index, rejects)
    rejects.check(log.file, config.max_rejected)
    events["timestamp"], unit = to_seconds(events.get("timestamp", np.zeros(len(events["row"]), np.int64)))
    notes["interactions"] = _note_log_columns(log, unit)
    users = Users(user_index.ids, FeatureColumns.none()) if users is None else users
    videos = catalog_of_ids(video_index.ids) if videos is None else videos
    interactions = _arrange(events, len(users), len(videos), config)
    name = folder.resolve().name
    summary = summarize(name, videos, interactions, notes, rejects)
    return Dataset(name, folder, users, videos, interactions, summary, rejects)


def _find_tables(folder: Path, config: DataConfig) -> dict[str, Table]:
    found = {name: find_table(folder, name, config.columns, config.ignore) for name in _TABLES}
    tables = {name: table for name, table in found.items() if table is not None}
    if "interactions" not in tables:
        raise TfrecError(f"{folder} has no interactions.csv, interactions.csv.gz or interactions.parquet.")
    if "videos" not in tables and (media := needs_catalog(folder)):
        raise TfrecError(
            f"{folder} has {', '.join(media)} but no videos.csv, .csv.gz or .parquet with a `video_id` column."
        )
    _check_names("columns", config.columns.values(), tables)
    _check_names("kinds", config.kinds, tables)
    _check_names("ignore", config.ignore, tables)
    return tables


def _check_names(option: str, names: Iterable[str], tables: Mapping[str, Table]) -> None:
    """Refuses an option that names a column which no table has."""
    for name in names:
        if not any(name in table.header or name in table.names for table in tables.values()):
            has = "; ".join(f"{table.file} has {', '.join(table.header)}" for table in tables.values())
            raise TfrecError(f"`data.{option}` names a column {name!r} that no table has: {has}.")


def _note_log_columns(table: Table, time_unit: str) -> ColumnNotes:
    used = {name: "by contract" for name in table.names if name in CONTRACT_COLUMNS}
    if time_unit != "seconds":
        used["timestamp"] += f", converted from {time_unit}"
    unused = [name for name in table.names if name not in CONTRACT_COLUMNS]
    return ColumnNotes(used, dict.fromkeys(unused, "not used by any model"))


def _arrange(events: Events, num_users: int, num_videos: int, config: DataConfig) -> Interactions:
    """Splits the events and sorts them by user, then time, then row of the file."""
    log = Interactions(
        user=events["user"],
        video=events["video"],
        timestamp=events["timestamp"],
        labels={label: events[label] for label in LABELS if label in events},
        part=events.get("part", np.zeros(len(events["user"]), np.int8)),
        num_users=num_users,
        num_videos=num_videos,
        position=events.get("position"),
    )
    if not log.positive.any():
        raise TfrecError("The log has a `click` column, but no event is a click. Check its values (0, 1, true, false).")
    if "part" not in events:
        log = replace(log, part=split_by_time(log.timestamp, log.positive, config.validation_share, config.test_share))
    if not len(log.rows(Part.TRAIN)):
        raise TfrecError("`split` puts no positive event into `train`. Expected at least one to learn from.")
    order = np.lexsort((log.timestamp, log.user))
    arrays = {name: getattr(log, name)[order] for name in ("user", "video", "timestamp", "part")}
    position = None if log.position is None else log.position[order]
    return replace(
        log, **arrays, position=position, labels={label: values[order] for label, values in log.labels.items()}
    )
