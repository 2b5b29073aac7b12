"""What was read, in figures: for the log, the report and metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from tfrec.data.columns import ColumnNotes
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Catalog, Interactions, Part


def summarize(
    name: str, videos: Catalog, interactions: Interactions, notes: Mapping[str, ColumnNotes], rejects: RejectLog
) -> dict[str, object]:
    """A JSON-serialisable account of a dataset.

    Args:
        name: of the dataset.
        videos: the catalogue.
        interactions: the log.
        notes: columns by table.
        rejects: what was refused.
    """
    return {
        "name": name,
        "users": interactions.num_users,
        "videos": interactions.num_videos,
        "interactions": len(interactions),
        "positives": int(interactions.positive.sum()),
        "parts": {part.name.lower(): int((interactions.part == part).sum()) for part in Part},
        "positives_per_label": {label: int((values == 1).sum()) for label, values in interactions.labels.items()},
        "cold_videos": int((interactions.train_counts == 0).sum()),
        "events_per_user_median": _median_events(interactions),
        "density": len(interactions) / max(interactions.num_users * interactions.num_videos, 1),
        "time_range": _time_range(interactions),
        "videos_with_media": len(videos.media),
        "videos_with_text": sum(map(bool, videos.texts)),
        "content_features": {key: list(values.shape) for key, values in videos.content.items()},
        "columns": {table: note.kinds for table, note in notes.items()},
        "ignored_columns": {table: note.ignored for table, note in notes.items() if note.ignored},
        "rejects": rejects.counts(),
    }


def _median_events(interactions: Interactions) -> float:
    """Over the users that have any."""
    counts = np.bincount(interactions.user, minlength=1)
    return float(np.median(counts[counts > 0]))


def _time_range(interactions: Interactions) -> list[str] | None:
    if not interactions.has_time:
        return None
    ends = (interactions.timestamp.min(), interactions.timestamp.max())
    return [datetime.fromtimestamp(int(end), UTC).isoformat() for end in ends]
