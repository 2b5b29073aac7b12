"""The catalogue's frames as they are, for encoders in training.

They lie in the feature cache by content key, like features, and are decoded once. Features need none of this: they go from the
decoders to the encoder without being stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.console import ProgressCallback
from tfrec.data.schema import MediaSource
from tfrec.features.content_hash import content_keys
from tfrec.features.store import FeatureStore
from tfrec.media.container import MediaError
from tfrec.media.frames import Frames
from tfrec.media.pool import DecodePool
from tfrec.media.read import DecodeSettings
from tfrec.media.sampling import Sampling

_VIDEOS_PER_WRITE = 32


def stored_frames(
    media: Mapping[int, MediaSource], num_videos: int, config: FeaturesConfig, cache: Path, progress: ProgressCallback
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Frames of all videos that have any; what cannot be decoded has none.

    Args:
        media: sources by row number.
        num_videos: size of the catalogue.
        config: of sampling and workers.
        cache: folder of the feature cache.
        progress: told videos done and to do.

    Returns:
        uint8 `[num_videos, num_frames, image_size, image_size, 3]`, memory-mapped where it is large, and int32
        `[num_videos]` frames present.
    """
    image = config.image
    shape = (image.num_frames, image.image_size, image.image_size, 3)
    store = FeatureStore(cache / f"frames-{Sampling.of(image).version}-{image.image_size}", shape, np.uint8)
    keys = dict(zip(media, content_keys(list(media.values()), cache / "hashes"), strict=True))
    known = {row: key for row, key in keys.items() if isinstance(key, bytes)}
    _decode_absent(store, {key: media[row] for row, key in known.items()}, config, progress)
    rows = np.full(num_videos, -1)
    rows[list(known)] = store.rows(list(known.values()))
    return store.read(rows), store.lengths(rows)


def _decode_absent(
    store: FeatureStore, sources: Mapping[bytes, MediaSource], config: FeaturesConfig, progress: ProgressCallback
) -> None:
    absent = store.rows(list(sources)) < 0
    todo = {key: source for (key, source), new in zip(sources.items(), absent, strict=True) if new}
    batch: dict[bytes, Frames] = {}
    with DecodePool(DecodeSettings.of(config.image, config.audio, config.file_timeout_seconds), config.workers) as pool:
        for done, (key, decoded) in enumerate(pool.decode(todo.items()), 1):
            if not isinstance(decoded, MediaError):
                batch[key] = decoded[0]
            if len(batch) == _VIDEOS_PER_WRITE or (batch and done == len(todo)):
                _append(store, batch)
                batch = {}
            progress(done, len(todo))


def _append(store: FeatureStore, batch: Mapping[bytes, Frames]) -> None:
    lengths = np.array([len(frames) for frames in batch.values()], np.int32)
    values = np.zeros((len(batch), *store.shape), np.uint8)
    for value, frames in zip(values, batch.values(), strict=True):
        value[: len(frames)] = frames
    store.append(list(batch), values, lengths)
