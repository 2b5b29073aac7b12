"""Decoded media to vectors: frames through the CNN, sound through the MFCC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.encoders.image import ImageEncoder
from tfrec.features.audio import AudioEncoder
from tfrec.media.frames import Frames
from tfrec.media.read import Decoded
from tfrec.media.sampling import Sampling

Encoded = Mapping[str, tuple[NDArray[np.float32], NDArray[np.int32]]]
"""By modality: values `[num_videos, num_steps, dim]`, 0 past the end, and lengths `[num_videos]`."""


@dataclass(frozen=True)
class MediaEncoder:
    """The encoders of a run.

    Args:
        image: of frames; None where no video has any.
        audio: of sound.
        config: of both.
    """

    image: ImageEncoder | None
    audio: AudioEncoder
    config: FeaturesConfig

    @classmethod
    def of(cls, image: ImageEncoder | None, config: FeaturesConfig) -> MediaEncoder:
        """With the encoder of sound that the configuration wants."""
        return cls(image, AudioEncoder(config.audio), config)

    @property
    def versions(self) -> dict[str, str]:
        """By modality; changes whenever the same media may get other numbers."""
        versions = {"audio": self.audio.version}
        if self.image is not None:
            versions["video"] = f"{self.image.version}-{Sampling.of(self.config.image).version}"
        return versions

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Steps and width by modality."""
        shapes = {"audio": (self.config.audio.num_steps, self.config.audio.dim)}
        if self.image is not None:
            shapes["video"] = (self.config.image.num_frames, self.image.dim)
        return shapes

    def encode(self, media: Sequence[Decoded]) -> Encoded:
        """Frames of several videos share a batch."""
        encoded = {"audio": self.audio.encode([sound for _, sound in media])}
        if self.image is not None:
            encoded["video"] = self._encode_frames(self.image, [frames for frames, _ in media])
        return encoded

    def _encode_frames(
        self, image: ImageEncoder, videos: Sequence[Frames]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        num_frames = self.config.image.num_frames
        lengths = np.array([len(frames) for frames in videos], np.int32)
        values = np.zeros((len(videos), num_frames, image.dim), np.float32)
        values[np.arange(num_frames) < lengths[:, None]] = image.encode(np.concatenate(videos))
        return values, lengths
