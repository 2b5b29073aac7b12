"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import tfrec  # noqa: F401  (first: it chooses Keras 2 for TensorFlow)
from tfrec.data.schema import Catalog, Dataset, FeatureColumns, Interactions, Part, Users

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
    pixel_aspect: int = 1,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes `pictures` (uint8 RGB) at `rate`, or at `times` in units of 1 / rate, and `tone` on every channel."""
    with av.open(str(path), "w", options=options or {}) as container:
        voice = container.add_stream(audio_codec, rate=tone_rate_hz, layout=layout) if tone is not None else None
        if len(pictures):
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pixel_format
            stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
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
            for part in [*resampler.resample(samples), *resampler.resample(None)] if len(tone) else []:
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    return path


@pytest.fixture(scope="session")
def make_interactions() -> Callable[..., Interactions]:
    """Makes a log from (user, video, Unix seconds) triples."""
    return _make_interactions


def _make_interactions(
    events: Sequence[tuple[int, int, int]] | np.ndarray,
    part: Part | Sequence[int] = Part.TRAIN,
    num_users: int = 0,
    num_videos: int = 0,
    **labels: Sequence[int],
) -> Interactions:
    """`part` and `labels` belong to `events` in the order given; sizes count from the events unless they are larger."""
    user, video, timestamp = np.asarray(events, np.int64).reshape(-1, 3).T
    order = np.lexsort([timestamp, user])
    return Interactions(
        user=user[order].astype(np.int32),
        video=video[order].astype(np.int32),
        timestamp=timestamp[order],
        labels={name: np.asarray(values, np.int8)[order] for name, values in labels.items()},
        part=np.broadcast_to(np.asarray(part, np.int8), user.shape)[order],
        num_users=max(num_users, int(user.max(initial=-1)) + 1),
        num_videos=max(num_videos, int(video.max(initial=-1)) + 1),
    )


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    """Makes a data set around a log."""
    return _make_dataset


def _make_dataset(
    interactions: Interactions,
    created_at: np.ndarray | None = None,
    user_columns: FeatureColumns | None = None,
    video_columns: FeatureColumns | None = None,
) -> Dataset:
    empty = np.full(interactions.num_videos, "", object)
    videos = Catalog(
        ids=np.array([f"v{row}" for row in range(interactions.num_videos)], object),
        titles=empty,
        texts=empty,
        created_at=np.zeros(interactions.num_videos, np.int64) if created_at is None else created_at,
        generate_method=None,
        gen_params=np.zeros((interactions.num_videos, 0), np.float32),
        prompts=empty,
        columns=video_columns or FeatureColumns.none(),
        content={},
        media={},
    )
    users = Users(
        np.array([f"u{row}" for row in range(interactions.num_users)], object), user_columns or FeatureColumns.none()
    )
    return Dataset("small", Path(), users, videos, interactions, {})
