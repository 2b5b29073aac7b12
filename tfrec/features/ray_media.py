"""Media on a Ray cluster: decoded by tasks on as many CPUs as there are, encoded by few workers that load the encoders once.

Assumes that every machine finds `tfrec`, the media and the feature cache under the same path.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from tfrec.cluster import Crew, connected, share_machine
from tfrec.config import FeaturesConfig
from tfrec.data.schema import MediaSource
from tfrec.encoders.image import ImageEncoder
from tfrec.features.media import Batch, Decoder, decode_settings
from tfrec.features.media_encoder import Encoded, MediaEncoder
from tfrec.media.container import MediaError
from tfrec.media.pool import DecodePool
from tfrec.media.read import Decoded, DecodeSettings

_AHEAD_PER_CPU = 4

Tag = TypeVar("Tag")


@dataclass(frozen=True)
class RayMedia:
    """The cluster that this process is connected to.

    Args:
        num_workers: that encode.
        num_gpus_per_worker: may be a part of one.
    """

    num_workers: int = 1
    num_gpus_per_worker: float = 0.0

    @contextmanager
    def decoder(self, config: FeaturesConfig) -> Iterator[Decoder]:
        """Tasks that decode a file each."""
        yield _RayDecoder(decode_settings(config))

    def encode(self, encoder: MediaEncoder, batches: Iterable[Batch]) -> Iterator[tuple[Sequence[bytes], Encoded]]:
        """Each batch goes to the first worker that is free."""
        handle = None if encoder.image is None else encoder.image.handle
        crew = Crew.hired(
            EncodeWorker, (handle, encoder.config), self.num_workers, self.num_gpus_per_worker, num_cpus=0
        )
        return crew.results(batches)


class EncodeWorker:
    """Encodes batches.

    Args:
        handle: of the image module; None where no video has frames.
        config: of the encoders.
    """

    def __init__(self, handle: str | None, config: FeaturesConfig) -> None:
        self._handle, self._config = handle, config

    def load(self) -> None:
        """Loads the encoders."""
        share_machine()
        image = None if self._handle is None else ImageEncoder(self._handle, self._config.image)
        self._encoder = MediaEncoder.of(image, self._config)

    def work(self, item: Sequence[Decoded]) -> Encoded:
        """Vectors of a batch."""
        return self._encoder.encode(item)


class _RayDecoder:
    """Decodes on the cluster, with the same limits as a pool of this machine.

    Args:
        settings: what is taken from a file.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._task = ray.remote(_decode).options(max_retries=-1)
        self._settings = settings
        self._ahead = _AHEAD_PER_CPU * max(int(ray.cluster_resources().get("CPU", 1)), 1)

    def decode(self, sources: Iterable[tuple[Tag, MediaSource]]) -> Iterator[tuple[Tag, Decoded | MediaError]]:
        """Each source's frames and sound, or why there are none, in the order given."""
        ahead: deque[tuple[Tag, Any]] = deque()
        for tag, source in sources:
            ahead.append((tag, self._task.remote(source, self._settings)))
            if len(ahead) >= self._ahead:
                first, result = ahead.popleft()
                yield first, ray.get(result)
        for tag, result in ahead:
            yield tag, ray.get(result)


def _decode(source: MediaSource, settings: DecodeSettings) -> Decoded | MediaError:
    """Runs on the cluster; a file that crashes or hangs ends a process of the pool, not the one of the task."""
    ((_, decoded),) = _pool(settings).decode([(None, source)])
    return decoded


@functools.cache
def _pool(settings: DecodeSettings) -> DecodePool:
    """One process beside that of the task, as long as that lives."""
    return DecodePool(settings, workers=1)


@contextmanager
def open_media(address: str | None, num_workers: int, num_gpus_per_worker: float) -> Iterator[RayMedia]:
    """Media on the cluster at `address`, or on one of this machine's own while the block lasts; arguments as `RayMedia`."""
    with connected(address):
        yield RayMedia(num_workers, num_gpus_per_worker)
