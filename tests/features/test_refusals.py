"""What was refused once is reported again, not decoded again."""

import dataclasses
import shutil

import pytest

from tfrec.config import AudioConfig, FeaturesConfig, ImageConfig
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import MediaSource
from tfrec.features import refusals
from tfrec.features.extract import extract_features
from tfrec.features.refusals import RefusalStore
from tfrec.media.container import MediaError
from tfrec.media.pool import DecodePool

CONFIG = FeaturesConfig(image=ImageConfig(image_size=32, num_frames=4), audio=AudioConfig(num_steps=8), workers=1)


@pytest.fixture
def decoded(monkeypatch):
    """Files given to the decoders, in order."""
    seen = []

    def decode(self, sources):
        sources = list(sources)
        seen.extend(source.video for _, source in sources)
        return original(self, sources)

    original = DecodePool.decode
    monkeypatch.setattr(DecodePool, "decode", decode)
    return seen


def rejected(videos, config, cache) -> list[tuple[str, str]]:
    rejects = RejectLog()
    extract_features(videos, config, cache, rejects)
    return sorted((file, reason) for _, file, _, reason in rejects._entries)


def test_a_second_run_reports_without_decoding(catalog, media, tmp_path, decoded):
    shutil.copy(media[4].video, tmp_path / "videos" / "same.mp4")
    videos = catalog(media={**media, 5: MediaSource(video=tmp_path / "videos" / "same.mp4")})
    first = rejected(videos, CONFIG, tmp_path / "cache")
    assert [file for file, _ in first] == ["videos/same.mp4", "videos/v4.mp4"]
    assert all("not a media file: it starts with b'no video'" in reason for _, reason in first)
    decoded.clear()
    assert rejected(videos, CONFIG, tmp_path / "cache") == first
    assert not decoded


def test_mended_files_and_other_readers_are_tried(catalog, media, tmp_path, decoded, monkeypatch):
    videos = catalog(media=media)
    rejected(videos, CONFIG, tmp_path / "cache")
    decoded.clear()
    monkeypatch.setattr(refusals, "_READER", 3)
    assert len(rejected(videos, CONFIG, tmp_path / "cache")) == 1
    assert decoded == [media[4].video]
    shutil.copy(media[0].video, media[4].video)
    assert rejected(videos, CONFIG, tmp_path / "cache") == []


def test_what_took_too_long_is_tried_again(catalog, media, tmp_path, decoded):
    videos = catalog(media={0: media[0], 1: media[1]})
    rejected(catalog(media={1: media[1]}), CONFIG, tmp_path / "cache")
    hurried = dataclasses.replace(CONFIG, file_timeout_seconds=1e-9)
    assert [file for file, _ in rejected(videos, hurried, tmp_path / "cache")] == ["videos/v0.mp4"]
    decoded.clear()
    assert rejected(videos, CONFIG, tmp_path / "cache") == []
    assert decoded == [media[0].video]


def test_the_file_to_blame_is_remembered(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "2.png").write_bytes(b"x")
    source = MediaSource(frames=folder)
    long_reason = "é" * 400
    RefusalStore(tmp_path / "refused", CONFIG).remember(b"k" * 32, MediaError(folder / "2.png", long_reason))
    RefusalStore(tmp_path / "refused", CONFIG).remember(b"t" * 32, MediaError(folder, "later", lasting=False))
    store = RefusalStore(tmp_path / "refused", CONFIG)
    found = store.of([b"a" * 32, b"k" * 32, b"t" * 32], [source] * 3)
    assert set(found) == {b"k" * 32}
    assert found[b"k" * 32].path == folder / "2.png"
    assert long_reason.startswith(found[b"k" * 32].reason)
    assert len(found[b"k" * 32].reason) > 200
    other = dataclasses.replace(CONFIG, image=ImageConfig(image_size=32, num_frames=4, sampling="key_frames"))
    assert not RefusalStore(tmp_path / "refused", other).of([b"k" * 32], [source])
