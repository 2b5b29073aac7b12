"""Reads the users and the catalogue of videos."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfrec.config import ColumnKind, DataConfig
from tfrec.data.columns import ColumnNotes, encode_categories, read_side_columns, split_list, without_missing_words
from tfrec.data.entities import Entities, read_entities
from tfrec.data.media_files import MEDIA_FOLDERS, find_media
from tfrec.data.parse import parse_labels, parse_numbers, parse_times, to_seconds
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import BLOCKED, Catalog, CategoricalColumn, FeatureColumns, FloatArray, Users
from tfrec.data.tables import Table
from tfrec.errors import TfrecError

_CONTENT_FOLDER = "content_features"
_OWN_MEANING = ("title", "created_at", "generate_method", "prompt", "gen_params", "blocked", "safety")
_FIXED_KINDS: dict[str, ColumnKind] = {"tags": "list", "duration": "numeric"}
_CHUNK_ROWS = 1 << 16


def read_users(table: Table, config: DataConfig, rejects: RejectLog) -> tuple[Users, ColumnNotes]:
    """Reads the users; their text columns are left out, because no tower reads texts of users."""
    users = read_entities(table, "user_id", rejects)
    side = read_side_columns(users, list(users.columns), config, rejects, fixed={})
    rejects.check(users.file, config.max_rejected)
    ignored = side.ignored | dict.fromkeys(side.texts, "text of a user")
    kinds = {name: kind for name, kind in side.kinds.items() if name not in side.texts}
    return Users(as_objects(users.ids), side.features), ColumnNotes(kinds, ignored)


def read_catalog(table: Table, folder: Path, config: DataConfig, rejects: RejectLog) -> tuple[Catalog, ColumnNotes]:
    """Reads the catalogue, the embeddings beside it and the list of media files.

    Raises:
        TfrecError: If an id stands twice, or an embedding table does not fit the catalogue.
    """
    videos = read_entities(table, "video_id", rejects)
    side_names = [name for name in videos.columns if name not in _OWN_MEANING]
    side = read_side_columns(videos, side_names, config, rejects, fixed=_FIXED_KINDS)
    ids = as_objects(videos.ids)
    tags = [", ".join(split_list(value)) for value in _column(videos, "tags").to_pylist()]
    titles, prompts = (as_objects(_column(videos, name)) for name in ("title", "prompt"))
    catalog = Catalog(
        ids=ids,
        titles=titles,
        texts=_join_texts(titles, tags, prompts, *(as_objects(values) for values in side.texts.values())),
        created_at=_created_at(videos, rejects),
        generate_method=_generate_method(videos, config),
        gen_params=_gen_params(videos, rejects),
        prompts=prompts,
        columns=side.features,
        content=_read_content(folder / _CONTENT_FOLDER, videos, rejects, config.max_rejected),
        media=find_media(folder, {video_id: row for row, video_id in enumerate(ids)}, rejects),
        text_columns=tuple(side.texts),
        safety=_safety(videos, rejects),
    )
    for group in (videos.file, MEDIA):
        rejects.check(group, config.max_rejected)
    return catalog, ColumnNotes(_own_kinds(videos) | side.kinds, side.ignored)


def catalog_of_ids(ids: NDArray[np.object_]) -> Catalog:
    """A catalogue of which nothing but the ids is known."""
    empty = np.full(len(ids), "", object)
    return Catalog(
        ids=ids,
        titles=empty,
        texts=empty,
        created_at=np.zeros(len(ids), np.int64),
        generate_method=None,
        gen_params=np.zeros((len(ids), 0), np.float32),
        prompts=empty,
        columns=FeatureColumns.none(),
        content={},
        media={},
    )


def needs_catalog(folder: Path) -> list[str]:
    """Folders that make no sense without a table of videos."""
    return [name for name in (*MEDIA_FOLDERS, _CONTENT_FOLDER) if (folder / name).is_dir()]


def finite_rows(values: FloatArray) -> NDArray[np.bool_]:
    """Bool `[rows]`: neither NaN nor infinity in the row of `[rows, dim]`; reads a mapped file in chunks."""
    chunks = (values[start : start + _CHUNK_ROWS] for start in range(0, len(values), _CHUNK_ROWS))
    return np.concatenate([np.zeros(0, bool), *(np.isfinite(chunk).all(axis=1) for chunk in chunks)])


def as_objects(strings: pa.Array) -> NDArray[np.object_]:
    """Object (str) `[rows]`, "" where null."""
    objects: NDArray[np.object_] = strings.fill_null("").to_numpy(zero_copy_only=False)
    return objects


def _column(videos: Entities, name: str) -> pa.Array:
    """The column without missing-value words; nulls where the table lacks it."""
    values = videos.columns.get(name)
    return pa.nulls(len(videos.ids), pa.string()) if values is None else without_missing_words(values)


def _own_kinds(videos: Entities) -> dict[str, str]:
    return {name: "by contract" for name in _OWN_MEANING if name in videos.columns}


def _join_texts(*columns: NDArray[np.object_] | list[str]) -> NDArray[np.object_]:
    """Object `[rows]`: the parts that are there, as sentences."""
    texts = [". ".join(part.strip().rstrip(".") for part in parts if part) for parts in zip(*columns, strict=True)]
    return np.array(texts, object)


def _created_at(videos: Entities, rejects: RejectLog) -> NDArray[np.int64]:
    times = parse_times(_column(videos, "created_at"))
    videos.reject_values("created_at", times.bad, rejects)
    return to_seconds(np.nan_to_num(times.values).astype(np.int64))[0]


def _generate_method(videos: Entities, config: DataConfig) -> CategoricalColumn | None:
    values = _column(videos, "generate_method")
    return None if values.null_count == len(values) else encode_categories(values, config.min_category_count)


def _safety(videos: Entities, rejects: RejectLog) -> NDArray[np.float32] | None:
    """What cannot be read counts as blocked, and a missing number as the least safe: a filter must not fail open."""
    if not {"blocked", "safety"} & set(videos.columns):
        return None
    blocked, unreadable = parse_labels(_column(videos, "blocked"))
    numbers = parse_numbers(_column(videos, "safety"))
    bad = numbers.bad | (numbers.values < 0) | (numbers.values > 1)
    videos.reject_values("blocked", unreadable, rejects)
    videos.reject_values("safety", bad, rejects)
    safety = np.nan_to_num(numbers.values) if "safety" in videos.columns else np.ones(len(blocked))
    return np.where((blocked == 1) | unreadable | bad, BLOCKED, safety).astype(np.float32)


def _gen_params(videos: Entities, rejects: RejectLog) -> FloatArray:
    """float32 `[num_videos, num_params]`: lists of the most common length; NaN rows for the rest."""
    cells = _column(videos, "gen_params").to_pylist()
    read = [_numbers(cell) for cell in cells]
    params = [numbers or [] for numbers in read]
    lengths = np.array([len(numbers) for numbers in params], int)
    common = Counter(lengths[lengths > 0].tolist()).most_common(1)
    width = common[0][0] if common else 0
    unreadable = np.array([numbers is None for numbers in read], bool)
    videos.reject_values("gen_params", unreadable, rejects)
    odd = (lengths > 0) & (lengths != width)
    rejects.add(videos.file, videos.rows[odd], f"gen_params has not {width} numbers as most have")
    values = np.full((len(cells), width), np.nan, np.float32)
    fits = np.flatnonzero((lengths == width) & (lengths > 0))
    if len(fits):
        values[fits] = [params[row] for row in fits]
    return values


def _numbers(cell: str | None) -> list[float] | None:
    """The numbers of a JSON list, none of an empty cell or `null`; None unless all are finite."""
    try:
        numbers = json.loads(cell) if cell else None
        array = np.array([] if numbers is None else numbers, np.float32)
    except (ValueError, TypeError, RecursionError):
        return None
    return array.tolist() if array.ndim == 1 and np.isfinite(array).all() else None


def _read_content(folder: Path, videos: Entities, rejects: RejectLog, max_rejected: float) -> dict[str, FloatArray]:
    paths = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    return {path.stem: _read_embeddings(path, videos, rejects, max_rejected) for path in paths}


def _read_embeddings(path: Path, videos: Entities, rejects: RejectLog, max_rejected: float) -> FloatArray:
    """Maps an embedding table; rows with NaN or infinity are noted here and count as missing (`finite_rows`)."""
    file = f"{_CONTENT_FOLDER}/{path.name}"
    try:
        values: FloatArray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TfrecError(f"{file} cannot be read: {error}. Write it with numpy.save.") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise TfrecError(
            f"{file} must hold a two-dimensional array of floats. Received: shape {values.shape}, {values.dtype}."
        )
    if len(values) != videos.num_records:
        raise TfrecError(
            f"{file} has {len(values):,} rows, {videos.file} has {videos.num_records:,}. "
            f"Row i of one must belong to row i of the other."
        )
    if len(videos.positions) < len(values):
        values = values[videos.positions]
    rejects.saw(file, len(values))
    rejects.add(file, videos.positions[~finite_rows(values)] + 1, "NaN or infinity")
    rejects.check(file, max_rejected)
    return values
