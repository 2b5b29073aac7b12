"""A video file as the video encoder wants it: JPEG frames and a WAV, made on this machine."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import cv2
import numpy as np

from tfrec.config import AudioConfig, ImageConfig
from tfrec.data.schema import MediaSource
from tfrec.errors import TfrecError
from tfrec.media.audio import Waveform
from tfrec.media.frames import Frames
from tfrec.media.read import DecodeSettings, read_media

FRAME_SIZE = 256
"""Pixels; the encoder makes the size that it was trained with of it."""

_JPEG_QUALITY = 95
_TIMEOUT_SECONDS = 60.0


def read_video(path: Path) -> tuple[list[bytes], bytes]:
    """Evenly spread frames as JPEG files, and the sound track as a WAV file, empty where there is none.

    Raises:
        TfrecError: If the file cannot be read.
    """
    image, audio = ImageConfig(image_size=FRAME_SIZE), AudioConfig()
    frames, sound = read_media(MediaSource(video=path), DecodeSettings.of(image, audio, _TIMEOUT_SECONDS))
    return [_jpeg(path, frame) for frame in frames], _wav(sound, audio.sample_rate_hz)


def _jpeg(path: Path, frame: Frames) -> bytes:
    encoded, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not encoded:
        raise TfrecError(f"{path}: a frame cannot be written as JPEG.")
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
