"""Which bytes a video's media are, without reading them twice.

The *content key* is a digest of all bytes of a source's files. It is remembered under the files' *stamp*, a digest of their
paths, sizes and times of change, so a second run reads none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np

from tfrec.data.schema import MediaSource
from tfrec.features.store import KEY_BYTES, FeatureStore, content_key
from tfrec.media.frames import list_pictures

_READ_BYTES = 2**20
_CHUNK_SOURCES = 1024
_THREADS = 4


def content_keys(sources: Sequence[MediaSource], folder: Path) -> list[bytes | OSError]:
    """The content key of each source.

    Args:
        sources: the sources.
        folder: where keys are remembered.

    Returns:
        `[num_sources]`, the error for a source whose files cannot be read.
    """
    known = FeatureStore(folder, (KEY_BYTES,), np.uint8)
    keys: list[bytes | OSError] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(sources), _CHUNK_SOURCES):
            keys += _chunk_keys(sources[start : start + _CHUNK_SOURCES], known, threads)
    return keys


def _chunk_keys(
    sources: Sequence[MediaSource], known: FeatureStore, threads: ThreadPoolExecutor
) -> list[bytes | OSError]:
    stamps = list(threads.map(_or_error(_stamp), sources))
    rows = known.rows([stamp if isinstance(stamp, bytes) else b"" for stamp in stamps])
    stored = known.read(rows)
    keys = [stamp if isinstance(stamp, OSError) else bytes(key) for stamp, key in zip(stamps, stored, strict=True)]
    new = [row for row, stamp in enumerate(stamps) if rows[row] < 0 and isinstance(stamp, bytes)]
    fresh: dict[bytes, bytes] = {}
    for row, key in zip(new, threads.map(_or_error(_content), [sources[row] for row in new]), strict=True):
        keys[row] = key
        stamp = stamps[row]
        if isinstance(key, bytes) and isinstance(stamp, bytes):
            fresh[stamp] = key
    if fresh:
        digests = np.frombuffer(b"".join(fresh.values()), np.uint8).reshape(-1, KEY_BYTES)
        known.append(list(fresh), digests, np.ones(len(fresh), np.int32))
    return keys


def _or_error(function: Callable[[MediaSource], bytes]) -> Callable[[MediaSource], bytes | OSError]:
    def run(source: MediaSource) -> bytes | OSError:
        try:
            return function(source)
        except OSError as error:
            return error

    return run


def _files(source: MediaSource) -> list[tuple[bytes, Path]]:
    """The files of a source, each with the part it plays."""
    pictures = list_pictures(source.frames) if source.frames else []
    video = [source.video] if source.video else []
    parts = ((b"video", video), (b"frame", pictures), (b"audio", source.audio))
    return [(part, path) for part, paths in parts for path in paths]


def _stamp(source: MediaSource) -> bytes:
    parts: list[bytes] = []
    for part, path in _files(source):
        stat = path.stat()
        parts += [part, os.fsencode(path.absolute()), b"%d %d" % (stat.st_size, stat.st_mtime_ns)]
    return content_key(*parts)


def _content(source: MediaSource) -> bytes:
    parts: list[bytes] = []
    for part, path in _files(source):
        digest = blake2b(digest_size=KEY_BYTES)
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
        parts += [part, digest.digest()]
    return content_key(*parts)
