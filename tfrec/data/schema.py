"""The dataset in memory: columnar arrays that every later part works on.

A *row number* names a user (row of `Users`) or a video (row of `Catalog`); -1 means none or unknown. Strings appear only at
the two ends: when a folder is read, and when a model is exported. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrec.data.rejects import RejectLog

LABELS = ("click", "finish", "like")
"""Event kinds, in the order of their bits in `Interactions.kinds`."""

BLOCKED = -1.0
"""Safety of a video that is never shown: below every threshold."""

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


class Part(IntEnum):
    """Part of the split an interaction belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class CategoricalColumn:
    """Values from a vocabulary.

    Args:
        codes: int32 `[rows]`, 0 for missing or rare, else 1 + position in `vocabulary`; or `[rows, length]` for a list
            column, padded with 0.
        vocabulary: the known values.
    """

    codes: IntArray
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class NumericColumn:
    """Standardised numbers.

    Args:
        values: float32 `[rows]`, mean 0 and deviation 1 over the rows that have one, 0 where missing.
        present: bool `[rows]`.
        mean: of the raw values.
        deviation: of the raw values, 1 for a constant column.
    """

    values: FloatArray
    present: NDArray[np.bool_]
    mean: float
    deviation: float


@dataclass(frozen=True)
class FeatureColumns:
    """The side columns of a table, by name."""

    categorical: Mapping[str, CategoricalColumn]
    lists: Mapping[str, CategoricalColumn]
    numeric: Mapping[str, NumericColumn]

    @classmethod
    def none(cls) -> FeatureColumns:
        """A table without side columns."""
        return cls({}, {}, {})

    @property
    def names(self) -> tuple[str, ...]:
        """All column names."""
        return (*self.categorical, *self.lists, *self.numeric)


@dataclass(frozen=True)
class Users:
    """The users.

    Args:
        ids: object (str) `[num_users]`.
        columns: their side columns.
    """

    ids: NDArray[np.object_]
    columns: FeatureColumns

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MediaSource:
    """Where the raw media of one video lie; what it lacks is None.

    Args:
        video: a container file with picture and perhaps sound.
        frames: a folder of pictures, in the order of their names.
        audio: sound files that follow each other.
    """

    video: Path | None = None
    frames: Path | None = None
    audio: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """All videos.

    Args:
        ids: object (str) `[num_videos]`.
        titles: object (str) `[num_videos]`, "" where missing.
        texts: object (str) `[num_videos]`: title, tags, prompt and text columns joined, "" where there is none.
        created_at: int64 `[num_videos]` Unix seconds, 0 where unknown.
        generate_method: how an AI video was made; None where the column is missing.
        gen_params: float32 `[num_videos, num_params]`, NaN where missing; `num_params` may be 0.
        prompts: object (str) `[num_videos]`, "" where missing.
        columns: their side columns.
        content: embeddings the user brought, float `[num_videos, dim]` by name (memory-mapped).
        media: raw media by row number, for the videos that have any.
        text_columns: names of the text columns that stand in `texts` after the prompt.
        safety: float32 `[num_videos]`, how safe a video is to show, 0 to 1; `BLOCKED` for one that may never be. None where
            the table says neither. No model learns from it.
    """

    ids: NDArray[np.object_]
    titles: NDArray[np.object_]
    texts: NDArray[np.object_]
    created_at: NDArray[np.int64]
    generate_method: CategoricalColumn | None
    gen_params: FloatArray
    prompts: NDArray[np.object_]
    columns: FeatureColumns
    content: Mapping[str, FloatArray]
    media: Mapping[int, MediaSource]
    text_columns: tuple[str, ...] = ()
    safety: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def has_text(self) -> bool:
        """Whether any video has a text."""
        return any(self.texts)


@dataclass(frozen=True)
class Interactions:
    """Events, sorted by user, then time, then row of the file.

    Args:
        user: int32 `[num_events]` row numbers.
        video: int32 `[num_events]` row numbers.
        timestamp: int64 `[num_events]` Unix seconds; all 0 where the log has no times.
        labels: int8 `[num_events]` for those of `LABELS` that the log has: 1, 0, or -1 where missing.
        part: int8 `[num_events]` of `Part`.
        num_users: size of `Users`.
        num_videos: size of `Catalog`.
        position: int32 `[num_events]`, the place in its list at which the video was shown, from 1, 0 where unknown; None: the
            log does not say.
    """

    user: NDArray[np.int32]
    video: NDArray[np.int32]
    timestamp: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.int8]]
    part: NDArray[np.int8]
    num_users: int
    num_videos: int
    position: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def shown_at(self, events: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 `[num]`: `position` of these events, 0 where the log does not say."""
        return np.zeros(len(events), np.int32) if self.position is None else self.position[events]

    @cached_property
    def has_time(self) -> bool:
        """Whether events have an order; without it a history is a set."""
        return bool(self.timestamp.any())

    @cached_property
    def positive(self) -> NDArray[np.bool_]:
        """Bool `[num_events]`: clicked; every row, where the log has no clicks."""
        click = self.labels.get("click")
        return np.ones(len(self), bool) if click is None else click == 1

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """uint8 `[num_events]`: bit i is set where label i of `LABELS` is 1; a log without labels holds clicks."""
        bits = [
            (self.labels[name] == 1).astype(np.uint8) << bit for bit, name in enumerate(LABELS) if name in self.labels
        ]
        return np.bitwise_or.reduce(bits) if bits else np.ones(len(self), np.uint8)

    def rows(self, *parts: Part) -> NDArray[np.int64]:
        """Numbers of the positive events in `parts`, ascending."""
        return np.flatnonzero(self.positive & np.isin(self.part, parts))

    @cached_property
    def train_counts(self) -> NDArray[np.int64]:
        """int64 `[num_videos]`: positive training events per video; 0 makes a video cold."""
        return np.bincount(self.video[self.rows(Part.TRAIN)], minlength=self.num_videos)

    @cached_property
    def warm_videos(self) -> NDArray[np.int32]:
        """int32 `[num_warm]`: videos with a positive training event."""
        return np.flatnonzero(self.train_counts).astype(np.int32)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, read and split.

    Args:
        name: the folder's name.
        folder: where it was read from.
        users: the users.
        videos: the catalogue.
        interactions: the log.
        summary: what was read, for the log and the report: counts, columns with their kinds, rejects by reason.
        rejects: what was refused so far; the reading of media adds to it.
    """

    name: str
    folder: Path
    users: Users
    videos: Catalog
    interactions: Interactions
    summary: Mapping[str, object]
    rejects: RejectLog = field(default_factory=RejectLog)
