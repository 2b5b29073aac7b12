"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import tfrec  # noqa: F401  (first: it chooses Keras 2 for TensorFlow)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and pretrained modules beside the project; a user's clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data sets and modules in ../shared")
    return folder


@pytest.fixture(scope="session")
def write_media() -> Callable[..., Path]:
    """Writes a real media file with PyAV: given pictures, and if wanted a 440 Hz tone."""
    return _write_media


def _write_media(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 10,
    times: Sequence[int] | None = None,
    tone: np.ndarray | None = None,
    tone_rate_hz: int = 44_100,
    layout: str = "stereo",
    audio_codec: str = "aac",
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes `pictures` (uint8 RGB) at `rate`, or at `times` in units of 1 / rate, and `tone` on every channel."""
    with av.open(str(path), "w", options=options or {}) as container:
        voice = container.add_stream(audio_codec, rate=tone_rate_hz, layout=layout) if tone is not None else None
        if len(pictures):
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixel_format
            if rotation:
                stream.set_display_rotation(rotation)
            for number, picture in enumerate(pictures):
                source = "rgba" if picture.shape[2] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(picture, format=source).reformat(format=pixel_format)
                frame.pts = number if times is None else times[number]
                frame.time_base = Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if voice is not None:
            channels = np.repeat(tone.astype(np.float32), voice.codec_context.layout.nb_channels)
            samples = av.AudioFrame.from_ndarray(channels[None], format="flt", layout=layout)
            samples.sample_rate = tone_rate_hz
            wanted = "s16" if audio_codec.startswith("pcm") else "fltp"
            resampler = av.AudioResampler(wanted, layout, tone_rate_hz, frame_size=1024)
            for part in [*resampler.resample(samples), *resampler.resample(None)]:
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    return path
