"""Everything that can be wrong with a file: correct features or a true reason, no crash, no hang, no handle left open."""

import dataclasses
import os
import re
import time

import numpy as np
import pytest
from media_faults import FULL_GIF_FRAMES, Fate, make_faults

from tfrec.config import AudioConfig, FeaturesConfig, ImageConfig
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import MediaSource
from tfrec.features.content_hash import content_keys
from tfrec.features.extract import extract_features
from tfrec.media.container import MediaError, check_readable
from tfrec.media.pool import DecodePool
from tfrec.media.read import DecodeSettings
from tfrec.media.sampling import Sampling

SETTINGS = DecodeSettings(Sampling(4), 16, 16_000, 5.0, timeout_seconds=60)
CONFIG = FeaturesConfig(image=ImageConfig(image_size=32, num_frames=4), audio=AudioConfig(num_steps=8), workers=1)


def open_handles(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def source_of(path) -> MediaSource:
    return MediaSource(frames=path) if path.is_dir() and path.suffix == "" else MediaSource(video=path)


def assert_fate(name: str, fate: Fate, result) -> None:
    if fate.reason:
        assert isinstance(result, MediaError), name
        assert re.search(fate.reason, result.reason), f"{name}: {result.reason}"
        return
    assert not isinstance(result, MediaError), f"{name}: {result}"
    frames, sound = result
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), fate.levels, atol=5, err_msg=name)
    np.testing.assert_allclose(frames.std(axis=(1, 2, 3)), 0, atol=3, err_msg=name)
    assert (len(sound) > 0) == fate.sound, name
    if fate.sound:
        middle = sound[4_000:20_000]
        assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(440, abs=2), name
        assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05), name


def check_faults(folder, write_media, gif_frames: int) -> None:
    fates = make_faults(folder, write_media, gif_frames)
    sources = [(name, source_of(folder / name)) for name in fates]
    before = open_handles()
    with DecodePool(SETTINGS, workers=1) as pool:
        next(pool.decode(sources[:1]))
        worker = pool._workers[0]._process
        handles = open_handles(worker.pid)
        for name, result in pool.decode(sources):
            assert_fate(name, fates[name], result)
        assert pool._workers[0]._process is worker, "a file crashed the decoder"
        assert open_handles(worker.pid) == handles
    assert open_handles() == before


def test_every_file_meets_its_fate(tmp_path, write_media):
    check_faults(tmp_path / "faults", write_media, gif_frames=500)


@pytest.mark.slow
def test_every_file_meets_its_fate_and_the_gif_is_long(tmp_path, write_media):
    check_faults(tmp_path / "faults", write_media, FULL_GIF_FRAMES)


def test_extraction_over_the_fault_folder(catalog, tmp_path, write_media):
    fates = make_faults(tmp_path / "faults", write_media, gif_frames=50)
    media = {row: source_of(tmp_path / "faults" / name) for row, name in enumerate(fates)}
    ids = np.array(list(fates), object)
    empty = np.full(len(ids), "", object)
    videos = dataclasses.replace(
        catalog(media=media), ids=ids, titles=empty, texts=empty, prompts=empty, created_at=np.zeros(len(ids), np.int64)
    )
    videos = dataclasses.replace(videos, gen_params=np.zeros((len(ids), 0), np.float32))
    extract_features(videos, CONFIG, tmp_path / "cache")  # what TensorFlow opens for good is open now
    before = open_handles()
    rejects = RejectLog()
    content = extract_features(videos, CONFIG, tmp_path / "other cache", rejects)
    assert open_handles() == before
    lengths = [0 if fate.reason else len(fate.levels) for fate in fates.values()]
    np.testing.assert_array_equal(content.modalities["video"].lengths, lengths)
    np.testing.assert_array_equal(content.modalities["audio"].lengths > 0, [fate.sound for fate in fates.values()])
    reasons = {file.split("/")[-1]: reason for _, file, _, reason in rejects._entries}
    assert reasons.keys() == {"1.png" if name == "bomb" else name for name, fate in fates.items() if fate.reason}
    for name, fate in fates.items():
        if fate.reason:
            assert re.search(fate.reason, reasons["1.png" if name == "bomb" else name])
    whole = list(fates).index("whole.mp4")
    for row, fate in enumerate(fates.values()):
        if fate == fates["whole.mp4"] and ids[row].endswith((".mp4", ".gif")):
            np.testing.assert_array_equal(
                content.modalities["video"].values[row], content.modalities["video"].values[whole]
            )


def test_permissions(tmp_path_factory):
    """The superuser gives up its rights for a moment; the folders above the file must let others pass."""
    folder = tmp_path_factory.mktemp("open")
    path = folder / "a.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    is_root = os.geteuid() == 0
    above = [parent for parent in folder.parents if not parent.stat().st_mode & 1] if is_root else []
    modes = {parent: parent.stat().st_mode for parent in [folder, *above]}
    try:
        if is_root:
            for parent in modes:
                parent.chmod(0o755)
            os.seteuid(65_534)
        with pytest.raises(MediaError, match="Permission denied") as error:
            check_readable(path)
        (key,) = content_keys([MediaSource(video=path)], folder / "hashes")
    finally:
        if is_root:
            os.seteuid(0)
            for parent, mode in modes.items():
                parent.chmod(mode)
    assert not error.value.lasting
    assert isinstance(key, PermissionError)


def test_a_file_that_takes_too_long_costs_itself_only(tmp_path, write_media):
    slow = write_media(tmp_path / "slow.gif", [np.full((4000, 4000, 3), 90, np.uint8)], "gif", "rgb8")
    whole = slow.read_bytes()
    start = whole.index(b"!\xf9\x04")
    with slow.open("wb") as file:
        file.write(whole[:start])
        for _ in range(300):
            file.write(whole[start:-1])
        file.write(b";")
    good = write_media(tmp_path / "good.mp4", [np.full((16, 16, 3), 90, np.uint8)] * 5)
    settings = dataclasses.replace(SETTINGS, timeout_seconds=1)
    before = time.monotonic()
    with DecodePool(settings, workers=1) as pool:
        results = dict(pool.decode([("slow", MediaSource(video=slow)), ("good", MediaSource(video=good))]))
    assert results["slow"].reason == "not decoded within 1 seconds (`file_timeout_seconds`)"
    assert not results["slow"].lasting
    assert not isinstance(results["good"], MediaError)
    assert time.monotonic() - before < 120
