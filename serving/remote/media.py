"""A video file as the video encoder wants it: frames as PNG and a WAV, made on this machine."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import cv2
import numpy as np

from serving.remote.calls import MediaFormat
from tfrec.data.schema import MediaSource
from tfrec.errors import TfrecError
from tfrec.media.audio import Waveform
from tfrec.media.frames import Frames
from tfrec.media.read import DecodeSettings, read_media
from tfrec.media.sampling import Sampling

_TIMEOUT_SECONDS = 60.0


def read_video(path: Path, media_format: MediaFormat) -> tuple[list[bytes], bytes]:
    """The frames that training would take of a video as PNG files, and its sound as a WAV file, empty where there is none.

    Frames have the very size of the encoder and nothing is lost on the way: image encoders make something else of frames that
    were shrunk twice, or were a JPEG.

    Raises:
        TfrecError: If the file cannot be read.
    """
    settings = DecodeSettings(
        sampling=Sampling(media_format.num_frames, media_format.sampling, media_format.frames_per_second),
        image_size=media_format.image_size,
        sample_rate_hz=media_format.sample_rate_hz,
        max_seconds=media_format.max_seconds,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    frames, sound = read_media(MediaSource(video=path), settings)
    return [_png(path, frame) for frame in frames], _wav(sound, media_format.sample_rate_hz)


def _png(path: Path, frame: Frames) -> bytes:
    encoded, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise TfrecError(f"{path}: a frame cannot be written as PNG.")
    return data.tobytes()


def _wav(sound: Waveform, sample_rate_hz: int) -> bytes:
    if not len(sound):
        return b""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate_hz)
        writer.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
