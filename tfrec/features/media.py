"""Raw media through decoders and encoders into the feature stores.

Decoding processes work ahead while this process encodes; frames of several videos share a batch. What is stored survives a
kill, and neither what is stored nor what was refused for good is decoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.console import ProgressCallback
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import MediaSource
from tfrec.features.content import Modality
from tfrec.features.content_hash import content_keys
from tfrec.features.media_encoder import Encoded, MediaEncoder
from tfrec.features.modules import image_encoder
from tfrec.features.refusals import RefusalStore, of_source
from tfrec.features.store import FeatureStore
from tfrec.media.container import MediaError
from tfrec.media.frames import Frames
from tfrec.media.pool import DecodePool
from tfrec.media.read import Decoded, DecodeSettings, main_path

_VIDEOS_PER_WRITE = 32
_VIDEOS_FOR_SMALL_CNN = 40

Tag = TypeVar("Tag")
Batch = tuple[Sequence[bytes], Sequence[Decoded]]
"""Content keys and media of some videos."""


class Decoder(Protocol):
    """Reads media files."""

    def decode(self, sources: Iterable[tuple[Tag, MediaSource]]) -> Iterator[tuple[Tag, Decoded | MediaError]]:
        """Each source's frames and sound, or why there are none, in the order given."""


class MediaEngine(Protocol):
    """Where media are decoded and encoded."""

    def decoder(self, config: FeaturesConfig) -> AbstractContextManager[Decoder]:
        """Reads media files while the block lasts."""

    def encode(self, encoder: MediaEncoder, batches: Iterable[Batch]) -> Iterator[tuple[Sequence[bytes], Encoded]]:
        """The keys of each batch and what `encoder` makes of its media, in any order of the batches."""


class LocalMedia:
    """Decodes in processes of this machine and encodes in this process."""

    @contextmanager
    def decoder(self, config: FeaturesConfig) -> Iterator[Decoder]:
        """A pool of decoding processes."""
        with DecodePool(decode_settings(config), config.workers) as pool:
            yield pool

    def encode(self, encoder: MediaEncoder, batches: Iterable[Batch]) -> Iterator[tuple[Sequence[bytes], Encoded]]:
        """One batch after the other."""
        return ((keys, encoder.encode(media)) for keys, media in batches)


def decode_settings(config: FeaturesConfig) -> DecodeSettings:
    """What is taken from a file."""
    return DecodeSettings.of(config.image, config.audio, config.file_timeout_seconds)


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
    engine: MediaEngine,
) -> MediaFeatures:
    """Frames and sound of all videos that have raw media.

    Args:
        media: sources by row number.
        num_videos: size of the catalogue.
        config: of encoders and workers.
        cache: folder of the feature cache.
        rejects: learns of the files that cannot be used.
        progress: told videos done and to do.
        engine: where the work is done.

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
    with engine.decoder(config) as decoder:
        image = image_encoder(config.image, cache, lambda: _sample_frames(decoder, sources, config.image.image_size))
        work = _Encoding(engine, MediaEncoder.of(image, config), config, cache)
        encoded = work.run(decoder, sources, keys, rejects, progress)
    return MediaFeatures(work.modalities(np.array(rows, np.int64), keys, num_videos), work.versions, encoded)


class _Encoding:
    """What is encoded, each modality into its store.

    Args:
        engine: where it is done.
        encoder: by what.
        config: its configuration.
        cache: folder of the stores.
    """

    def __init__(self, engine: MediaEngine, encoder: MediaEncoder, config: FeaturesConfig, cache: Path) -> None:
        self._engine, self._encoder = engine, encoder
        self.versions = encoder.versions
        self._stores = {
            name: FeatureStore(cache / self.versions[name], shape) for name, shape in encoder.shapes.items()
        }
        self._refusals = RefusalStore(cache / "refused", config)

    def run(
        self,
        decoder: Decoder,
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
        for some, encoded in self._engine.encode(self._encoder, self._batches(decoder, todo, refused, progress)):
            self._keep(some, encoded)
        for key, source in zip(keys, sources, strict=True):
            if key in refused:
                refuse(rejects, of_source(refused[key], source))
        return len(todo) - sum(key in todo for key in refused)

    def _batches(
        self,
        decoder: Decoder,
        todo: Mapping[bytes, MediaSource],
        refused: dict[bytes, MediaError],
        progress: ProgressCallback,
    ) -> Iterator[Batch]:
        """Decodes; what cannot be is added to `refused`."""
        progress(0, len(todo))
        batch: dict[bytes, Decoded] = {}
        for done, (key, media) in enumerate(decoder.decode(todo.items()), 1):
            if isinstance(media, MediaError):
                refused[key] = media
                self._refusals.remember(key, media)
            else:
                batch[key] = media
            if len(batch) == _VIDEOS_PER_WRITE:
                yield list(batch), list(batch.values())
                batch = {}
            progress(done, len(todo))
        if batch:
            yield list(batch), list(batch.values())

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

    def _keep(self, keys: Sequence[bytes], encoded: Encoded) -> None:
        for name, (values, lengths) in encoded.items():
            self._stores[name].append(keys, values, lengths)  # passes over a modality that a stopped run had stored


def refuse(rejects: RejectLog, error: MediaError) -> None:
    """Enters a media file into the log of rejects."""
    rejects.add(f"{error.path.parent.name}/{error.path.name}", None, error.reason, MEDIA)


def _sample_frames(decoder: Decoder, sources: Sequence[MediaSource], image_size: int) -> Frames:
    """Frames of some videos, evenly spread over the catalogue; empty where no video has any."""
    step = max(1, len(sources) // _VIDEOS_FOR_SMALL_CNN)
    for start in range(step):
        decoded = [media for _, media in decoder.decode(enumerate(sources[start::step]))]
        frames = [media[0] for media in decoded if not isinstance(media, MediaError)]
        if any(map(len, frames)):
            return np.concatenate(frames)
    return np.zeros((0, image_size, image_size, 3), np.uint8)
