"""Decoding in worker processes."""

import os
import signal
import threading
import time

import numpy as np

from tfrec.data.schema import MediaSource
from tfrec.media.container import MediaError
from tfrec.media.pool import DecodePool
from tfrec.media.read import DecodeSettings, read_media
from tfrec.media.sampling import Sampling

SETTINGS = DecodeSettings(sampling=Sampling(4), image_size=16, sample_rate_hz=16_000, max_seconds=5, timeout_seconds=20)


def make_videos(folder, write_media, count):
    pictures = [np.full((16, 16, 3), 5 * number, np.uint8) for number in range(20)]
    first = write_media(folder / "0.mp4", pictures, tone=np.zeros(44_100)).read_bytes()
    for number in range(1, count):
        (folder / f"{number}.mp4").write_bytes(first)
    return [MediaSource(video=folder / f"{number}.mp4") for number in range(count)]


def test_results_come_in_order_and_equal_those_of_this_process(tmp_path, write_media):
    sources = make_videos(tmp_path, write_media, 30)
    (tmp_path / "7.mp4").write_bytes(b"no video at all")
    frames, sound = read_media(sources[0], SETTINGS)
    with DecodePool(SETTINGS, workers=2) as pool:
        results = dict(pool.decode(enumerate(sources)))
    assert list(results) == list(range(30))
    refused = results.pop(7)
    assert isinstance(refused, MediaError)
    assert refused.path == tmp_path / "7.mp4"
    assert "not a media file" in str(refused)
    for got_frames, got_sound in results.values():
        np.testing.assert_array_equal(got_frames, frames)
        np.testing.assert_array_equal(got_sound, sound)


def test_a_dead_worker_costs_its_file_only(tmp_path, write_media):
    good = make_videos(tmp_path, write_media, 3)
    with DecodePool(SETTINGS, workers=1) as pool:
        list(pool.decode([("start", good[0])]))
        worker = pool._workers[0]._process
        killer = threading.Timer(0.5, lambda: os.kill(worker.pid, signal.SIGKILL))
        os.kill(worker.pid, signal.SIGSTOP)
        killer.start()
        results = dict(pool.decode([("bad", good[1]), ("good", good[2])]))
    assert "the decoder crashed on it (exit status -9)" in str(results["bad"])
    assert not isinstance(results["good"], MediaError)


def test_a_worker_that_hangs_is_killed_in_time(tmp_path, write_media, monkeypatch):
    good = make_videos(tmp_path, write_media, 3)
    monkeypatch.setattr("tfrec.media.pool._GRACE_SECONDS", 0.5)
    settings = DecodeSettings(Sampling(4), 16, 16_000, 5, timeout_seconds=5)
    with DecodePool(settings, workers=1) as pool:
        list(pool.decode([("start", good[0])]))
        hung = pool._workers[0]._process
        os.kill(hung.pid, signal.SIGSTOP)
        start = time.monotonic()
        results = dict(pool.decode([("bad", good[1]), ("good", good[2])]))
    assert "not decoded within 5 seconds" in str(results["bad"])
    assert not isinstance(results["good"], MediaError)
    assert time.monotonic() - start < 30
    assert hung.returncode == -signal.SIGKILL


def test_no_process_or_handle_is_left_behind(tmp_path, write_media):
    sources = make_videos(tmp_path, write_media, 4)
    before = len(os.listdir("/proc/self/fd"))
    with DecodePool(SETTINGS, workers=2) as pool:
        next(pool.decode(enumerate(sources)))
        processes = [worker._process for worker in pool._workers if worker._process]
    assert processes
    assert all(process.returncode is not None for process in processes)
    assert len(os.listdir("/proc/self/fd")) == before


def test_given_pictures_and_sound_take_precedence(tmp_path, write_media):
    video = make_videos(tmp_path, write_media, 1)[0].video
    level = np.full(16_000, 0.5)
    sound = write_media(tmp_path / "s.wav", [], tone=level, tone_rate_hz=16_000, layout="mono", audio_codec="pcm_s16le")
    frames, waveform = read_media(MediaSource(video=video, audio=(sound,)), SETTINGS)
    assert len(frames) == 4
    np.testing.assert_allclose(waveform, 0.5, atol=1e-3)
    frames, waveform = read_media(MediaSource(audio=(sound,)), SETTINGS)
    assert frames.shape == (0, 16, 16, 3)
    assert len(waveform) == 16_000
