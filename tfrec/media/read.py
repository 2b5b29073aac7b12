"""One video's picture and sound in one go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrec.config import AudioConfig, AudioDecoder, ImageConfig
from tfrec.data.schema import MediaSource
from tfrec.media.audio import Waveform, read_audio, read_sound_track
from tfrec.media.container import Deadline, open_container, rewind
from tfrec.media.frames import Frames, read_frames, sample_frames
from tfrec.media.sampling import Sampling

Decoded = tuple[Frames, Waveform]


@dataclass(frozen=True)
class DecodeSettings:
    """What is taken from a file.

    Args:
        sampling: which frames of a video.
        image_size: height and width of a frame in pixels.
        sample_rate_hz: rate of the waveform.
        max_seconds: longer sound tracks are cut.
        timeout_seconds: time limit per file.
        audio_decoder: of plain sound files.
    """

    sampling: Sampling
    image_size: int
    sample_rate_hz: int
    max_seconds: float
    timeout_seconds: float
    audio_decoder: AudioDecoder = "av"

    @classmethod
    def of(cls, image: ImageConfig, audio: AudioConfig, timeout_seconds: float) -> DecodeSettings:
        """From the configuration."""
        return cls(
            Sampling.of(image),
            image.image_size,
            audio.sample_rate_hz,
            audio.max_seconds,
            timeout_seconds,
            audio.decoder,
        )


def main_path(source: MediaSource) -> Path:
    """The file or folder that stands for a source in messages."""
    return source.video or source.frames or source.audio[0]


def read_media(source: MediaSource, settings: DecodeSettings) -> Decoded:
    """Reads the frames and the sound of a video; a folder of pictures or sound files take precedence over the container's.

    Args:
        source: where the media lie.
        settings: what to take.

    Returns:
        uint8 `[F, image_size, image_size, 3]` and float32 `[samples]`; empty where the source has none.

    Raises:
        MediaError: If a file of the source cannot be used.
    """
    frames = np.zeros((0, settings.image_size, settings.image_size, 3), np.uint8)
    sound = np.zeros(0, np.float32)
    if source.video is not None:
        frames, sound = _read_container(source, settings)
    if source.frames is not None:
        frames = read_frames(source.frames, settings.sampling, settings.image_size, settings.timeout_seconds)
    if source.audio:
        limits = (settings.sample_rate_hz, settings.max_seconds, settings.timeout_seconds)
        sound = read_audio(source.audio, *limits, decoder=settings.audio_decoder)
    return frames, sound


def _read_container(source: MediaSource, settings: DecodeSettings) -> Decoded:
    """Opens the container once; looking for the second stream's packets costs little beside decoding them."""
    assert source.video is not None
    frames = np.zeros((0, settings.image_size, settings.image_size, 3), np.uint8)
    sound = np.zeros(0, np.float32)
    deadline = Deadline(source.video, settings.timeout_seconds)
    with open_container(source.video) as container:
        if not source.audio:
            sound = read_sound_track(container, settings.sample_rate_hz, settings.max_seconds, deadline)
        if source.frames is None:
            if container.streams.audio:
                rewind(container)
            frames = sample_frames(container, settings.sampling, settings.image_size, deadline)
    return frames, sound
