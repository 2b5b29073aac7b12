"""Raw media through decoders and encoders into the feature stores.

Decoding processes work ahead while this process encodes; frames of several videos share a batch. What is stored survives a
kill, and neither what is stored nor what was refused for good is decoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.console import ProgressCallback
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import MediaSource
from tfrec.encoders.image import ImageEncoder
from tfrec.features.audio import AudioEncoder
from tfrec.features.content import Modality
from tfrec.features.content_hash import content_keys
from tfrec.features.modules import image_encoder
from tfrec.features.refusals import RefusalStore, of_source
from tfrec.features.store import FeatureStore
from tfrec.media.container import MediaError
from tfrec.media.frames import Frames
from tfrec.media.pool import DecodePool
from tfrec.media.read import Decoded, DecodeSettings, main_path
from tfrec.media.sampling import Sampling

_VIDEOS_PER_WRITE = 32
_VIDEOS_FOR_SMALL_CNN = 40


@dataclass(frozen=True)
class MediaFeatures:
    """What the raw media of a catalogue gave.

    Args:
        modalities: `video` and `audio`, where any video has them.
        encoders: their encoders' versions.
        encoded: videos decoded and encoded in this run.
    """

    modalities: Mapping[str, Modality]
    encoders: Mapping[str, str]
    encoded: int


def media_features(
    media: Mapping[int, MediaSource],
    num_videos: int,
    config: FeaturesConfig,
    cache: Path,
    rejects: RejectLog,
    progress: ProgressCallback,
) -> MediaFeatures:
    """Frames and sound of all videos that have raw media.

    Args:
        media: sources by row number.
        num_videos: size of the catalogue.
        config: of encoders and workers.
        cache: folder of the feature cache.
        rejects: learns of the files that cannot be used.
        progress: told videos done and to do.

    Returns:
        The modalities, aligned with the catalogue.
    """
    rows: list[int] = []
    keys: list[bytes] = []
    for (row, source), key in zip(media.items(), content_keys(list(media.values()), cache / "hashes"), strict=True):
        if isinstance(key, OSError):
            path = Path(key.filename) if key.filename else main_path(source)
            refuse(rejects, MediaError(path, f"cannot be read ({key.strerror})", lasting=False))
        else:
            rows.append(row)
            keys.append(key)
    sources = [media[row] for row in rows]
    with DecodePool(DecodeSettings.of(config.image, config.audio, config.file_timeout_seconds), config.workers) as pool:
        image = image_encoder(config.image, cache, lambda: _sample_frames(pool, sources, config.image.image_size))
        work = _Encoding(image, AudioEncoder(config.audio), config, cache)
        encoded = work.run(pool, sources, keys, rejects, progress)
    return MediaFeatures(work.modalities(np.array(rows, np.int64), keys, num_videos), work.versions, encoded)


class _Encoding:
    """The two encoders, each with its store.

    Args:
        image: encoder of frames; None where no source has any.
        audio: encoder of sound.
        config: their configuration.
        cache: folder of the stores.
    """

    def __init__(self, image: ImageEncoder | None, audio: AudioEncoder, config: FeaturesConfig, cache: Path) -> None:
        self._image, self._audio = image, audio
        self._num_frames = config.image.num_frames
        self.versions = {"audio": audio.version}
        shapes = {"audio": (config.audio.num_steps, config.audio.dim)}
        if image is not None:
            self.versions["video"] = f"{image.version}-{Sampling.of(config.image).version}"
            shapes["video"] = (self._num_frames, image.dim)
        self._stores = {name: FeatureStore(cache / version, shapes[name]) for name, version in self.versions.items()}
        self._refusals = RefusalStore(cache / "refused", config)

    def run(
        self,
        pool: DecodePool,
        sources: Sequence[MediaSource],
        keys: Sequence[bytes],
        rejects: RejectLog,
        progress: ProgressCallback,
    ) -> int:
        """Decodes and encodes what is not stored yet; returns how many videos that were."""
        stored = np.all([store.rows(keys) >= 0 for store in self._stores.values()], axis=0)
        refused = self._refusals.of(keys, sources)
        todo = {
            key: source
            for key, source, have in zip(keys, sources, stored, strict=True)
            if not have and key not in refused
        }
        progress(0, len(todo))
        batch: dict[bytes, Decoded] = {}
        for done, (key, media) in enumerate(pool.decode(todo.items()), 1):
            if isinstance(media, MediaError):
                refused[key] = media
                self._refusals.remember(key, media)
            else:
                batch[key] = media
            if len(batch) == _VIDEOS_PER_WRITE:
                self._encode(batch)
                batch = {}
            progress(done, len(todo))
        if batch:
            self._encode(batch)
        for key, source in zip(keys, sources, strict=True):
            if key in refused:
                refuse(rejects, of_source(refused[key], source))
        return len(todo) - sum(key in todo for key in refused)

    def modalities(self, rows: NDArray[np.int64], keys: Sequence[bytes], num_videos: int) -> dict[str, Modality]:
        """What is stored of the catalogue, without a modality that no video has."""
        found = {}
        for name, store in self._stores.items():
            stored = np.full(num_videos, -1)
            stored[rows] = store.rows(keys)
            lengths = store.lengths(stored)
            if lengths.any():
                found[name] = Modality(store.read(stored), lengths)
        return found

    def _encode(self, batch: Mapping[bytes, Decoded]) -> None:
        keys = list(batch)
        if self._image is not None:
            frames, num_frames = self._encode_frames(self._image, [frames for frames, _ in batch.values()])
            _append_absent(self._stores["video"], keys, frames, num_frames)
        steps, num_steps = self._audio.encode([sound for _, sound in batch.values()])
        _append_absent(self._stores["audio"], keys, steps, num_steps)

    def _encode_frames(
        self, image: ImageEncoder, videos: Sequence[Frames]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        lengths = np.array([len(frames) for frames in videos], np.int32)
        values = np.zeros((len(videos), self._num_frames, image.dim), np.float32)
        values[np.arange(self._num_frames) < lengths[:, None]] = image.encode(np.concatenate(videos))
        return values, lengths


def refuse(rejects: RejectLog, error: MediaError) -> None:
    """Enters a media file into the log of rejects."""
    rejects.add(f"{error.path.parent.name}/{error.path.name}", None, error.reason, MEDIA)


def _append_absent(
    store: FeatureStore, keys: Sequence[bytes], values: NDArray[np.float32], lengths: NDArray[np.int32]
) -> None:
    """A run that was stopped may have stored one modality of a video and not the other."""
    absent = store.rows(keys) < 0
    store.append([key for key, new in zip(keys, absent, strict=True) if new], values[absent], lengths[absent])


def _sample_frames(pool: DecodePool, sources: Sequence[MediaSource], image_size: int) -> Frames:
    """Frames of some videos, evenly spread over the catalogue; empty where no video has any."""
    step = max(1, len(sources) // _VIDEOS_FOR_SMALL_CNN)
    for start in range(step):
        decoded = [media for _, media in pool.decode(enumerate(sources[start::step]))]
        frames = [media[0] for media in decoded if not isinstance(media, MediaError)]
        if any(map(len, frames)):
            return np.concatenate(frames)
    return np.zeros((0, image_size, image_size, 3), np.uint8)
