"""Media that were refused, and why, so that no later run decodes them again.

Remembered by content key, under the version of what read them: another version of a library may know more formats. What time,
memory or permissions stood in the way of is not remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import av
import cv2
import numpy as np

from tfrec.config import FeaturesConfig
from tfrec.data.schema import MediaSource
from tfrec.features.store import FeatureStore
from tfrec.media.container import MediaError
from tfrec.media.frames import list_pictures
from tfrec.media.read import main_path

_READER = 2  # to be raised whenever `tfrec.media` refuses less, or for other reasons
_BYTES = 512


class RefusalStore:
    """Reasons by content key, on disk.

    Args:
        folder: where they are kept.
        config: what was to be read.
    """

    def __init__(self, folder: Path, config: FeaturesConfig) -> None:
        wanted = {**asdict(config.image), "encoder": None, **asdict(config.audio)}
        version = repr((_READER, av.__version__, cv2.__version__, sorted(wanted.items())))
        self._store = FeatureStore(folder / sha256(version.encode()).hexdigest()[:12], (_BYTES,), np.uint8)

    def of(self, keys: Sequence[bytes], sources: Sequence[MediaSource]) -> dict[bytes, MediaError]:
        """Those of `keys` that were refused, with the reason."""
        rows = self._store.rows(keys)
        found = {key: (row, source) for key, row, source in zip(keys, rows, sources, strict=True) if row >= 0}
        rows = np.array([row for row, _ in found.values()], np.int64)
        texts = self._store.read(rows)
        refused = {}
        for (key, (_, source)), text, length in zip(found.items(), texts, self._store.lengths(rows), strict=True):
            name, _, reason = text[:length].tobytes().decode("utf-8", "ignore").partition("\0")
            refused[key] = MediaError(_file_named(name, source), reason)
        return refused

    def remember(self, key: bytes, error: MediaError) -> None:
        """Keeps the reason, if it is one that lasts."""
        if not error.lasting:
            return
        text = f"{error.path.name}\0{error.reason}".encode("utf-8", "replace")[:_BYTES]
        padded = np.frombuffer(text.ljust(_BYTES, b"\0"), np.uint8)
        self._store.append([key], padded[np.newaxis], np.array([len(text)]))


def of_source(error: MediaError, source: MediaSource) -> MediaError:
    """The same error, of the source that has the same bytes."""
    return MediaError(_file_named(error.path.name, source), error.reason, error.lasting)


def _file_named(name: str, source: MediaSource) -> Path:
    pictures = list_pictures(source.frames) if source.frames else []
    files = (path for path in (*pictures, *source.audio) if path.name == name)
    return next(files, main_path(source))
