"""A catalogue with everything in it, small enough to be encoded in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tfrec.data.schema import Catalog, CategoricalColumn, FeatureColumns, MediaSource

NUM_VIDEOS = 6


@pytest.fixture
def catalog() -> Callable[..., Catalog]:
    """Makes a catalogue of six videos; keywords replace its parts."""
    return _catalog


def _catalog(**parts: object) -> Catalog:
    defaults = {
        "ids": np.array([f"v{row}" for row in range(NUM_VIDEOS)], object),
        "titles": np.full(NUM_VIDEOS, "", object),
        "texts": np.full(NUM_VIDEOS, "", object),
        "created_at": np.zeros(NUM_VIDEOS, np.int64),
        "generate_method": None,
        "gen_params": np.zeros((NUM_VIDEOS, 0), np.float32),
        "prompts": np.full(NUM_VIDEOS, "", object),
        "columns": FeatureColumns.none(),
        "content": {},
        "media": {},
    }
    return Catalog(**(defaults | parts))


@pytest.fixture
def methods() -> CategoricalColumn:
    """Row 0 text2video, row 1 image2video, the others unknown."""
    return CategoricalColumn(np.array([1, 2, 0, 0, 0, 0], np.int32), ("text2video", "image2video"))


@pytest.fixture
def media(tmp_path: Path, write_media: Callable[..., Path]) -> dict[int, MediaSource]:
    """Row 0 with sound, row 1 silent, row 3 a folder of pictures with a sound file, row 4 broken; rows 2 and 5 nothing."""
    import cv2

    folder = tmp_path / "videos"
    folder.mkdir()
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(12)]
    tone = 0.5 * np.sin(np.arange(44_100) / 10)
    write_media(folder / "v0.mp4", noise, tone=tone)
    write_media(folder / "v1.mp4", noise[6:])
    pictures = tmp_path / "video_frames" / "v3"
    pictures.mkdir(parents=True)
    for number in range(2):
        (pictures / f"{number}.png").write_bytes(cv2.imencode(".png", noise[number])[1].tobytes())
    sound = write_media(tmp_path / "v3.wav", [], tone=tone, layout="mono", audio_codec="pcm_s16le")
    (folder / "v4.mp4").write_bytes(b"no video")
    return {
        0: MediaSource(video=folder / "v0.mp4"),
        1: MediaSource(video=folder / "v1.mp4"),
        3: MediaSource(frames=pictures, audio=(sound,)),
        4: MediaSource(video=folder / "v4.mp4"),
    }
