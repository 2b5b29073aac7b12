"""The demo dataset: the same by seed, true to its contract, honest about its oracle."""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from tfrec.config import DemoConfig
from tfrec.data.demo import ensure_demo
from tfrec.data.demo.looks import COLOURS, look_of
from tfrec.data.demo.oracle import oracle_scores, ranking_quality
from tfrec.data.demo.simulation import simulate
from tfrec.data.demo.sounds import SAMPLE_RATE_HZ, synthesise
from tfrec.data.demo.world import FACTORS, make_world
from tfrec.errors import TfrecError

TINY = DemoConfig(num_videos=8, num_users=30, num_days=20, seed=3)
TABLES = ("users.csv", "videos.csv", "interactions.csv.gz", "oracle.json", "oracle_scores.npy")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_demo(tmp_path_factory.mktemp("demo") / "a", TINY)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_same_seed_gives_same_files(demo: Path, tmp_path: Path) -> None:
    again = ensure_demo(tmp_path / "b", TINY)
    for name in TABLES:
        assert (demo / name).read_bytes() == (again / name).read_bytes(), name
    for film in sorted((demo / "videos").iterdir()):
        np.testing.assert_array_equal(decode(film), decode(again / "videos" / film.name))


def test_other_seed_gives_other_files(demo: Path, tmp_path: Path) -> None:
    other = ensure_demo(tmp_path / "c", DemoConfig(num_videos=8, num_users=30, num_days=20, seed=4))
    for name in TABLES:
        assert (demo / name).read_bytes() != (other / name).read_bytes(), name


def test_tables_agree_with_each_other(demo: Path) -> None:
    users, videos, log = (pd.read_csv(demo / name) for name in TABLES[:3])
    assert len(users) == 30
    assert users["user_id"].is_unique
    assert {f"{name}.mp4" for name in videos["video_id"]} == {film.name for film in (demo / "videos").iterdir()}
    assert log["user_id"].isin(users["user_id"]).all()
    assert log["timestamp"].is_monotonic_increasing
    created = log["video_id"].map(videos.set_index("video_id")["created_at"])
    assert (log["timestamp"] >= created).all()
    assert 0 < log["click"].mean() < 1
    skipped = log[log["click"] == 0]
    assert (skipped[["finish", "like", "watch_time"]] == 0).all().all()
    assert not log[log["click"] == 1].duplicated(["user_id", "video_id"]).any()
    assert {len(json.loads(row)) for row in videos["gen_params"].dropna()} == {8}


def test_films_last_as_the_table_says_and_move(demo: Path) -> None:
    for row in pd.read_csv(demo / "videos.csv").itertuples():
        frames = decode(demo / "videos" / f"{row.video_id}.mp4")
        assert frames.shape[1:] == (128, 128, 3)
        assert len(frames) == row.duration * 8
        assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1


def test_sound_is_as_long_as_the_picture(demo: Path) -> None:
    durations = pd.read_csv(demo / "videos.csv")["duration"]
    heard = 0
    for film, seconds in zip(sorted((demo / "videos").iterdir()), durations, strict=True):
        with av.open(str(film)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0)) if container.streams.audio else 0
        if samples:
            heard += 1
            assert samples / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.13)  # two AAC frames of padding
    assert heard > 0


def test_finished_demo_is_kept_and_progress_counts_videos(tmp_path: Path) -> None:
    config = DemoConfig(num_videos=3, num_users=60, num_days=10, seed=1)
    seen: list[tuple[int, int]] = []
    folder = ensure_demo(tmp_path / "demo", config, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (folder / "mark").touch()
    ensure_demo(folder, config, lambda done, total: pytest.fail("built again"))
    assert (folder / "mark").exists()


def test_other_config_replaces_the_demo_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ensure_demo(tmp_path / "demo", DemoConfig(num_videos=3, num_users=60, num_days=10))
    ensure_demo(tmp_path / "demo", DemoConfig(num_videos=4, num_users=60, num_days=10))
    assert len(list((tmp_path / "demo" / "videos").iterdir())) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"demo", ".demo.lock"}


def test_failed_build_leaves_no_folder_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    config = DemoConfig(num_videos=3, num_users=60, num_days=10)
    with pytest.raises(KeyboardInterrupt):
        ensure_demo(tmp_path / "demo", config, fail)
    assert {path.name for path in tmp_path.iterdir()} == {".demo.lock"}
    assert len(list((ensure_demo(tmp_path / "demo", config) / "videos").iterdir())) == 3


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(TfrecError, match=r"folder of its own. Received: .*something else"):
        ensure_demo(tmp_path, TINY)
    assert (tmp_path / "holiday.mp4").exists()


def test_look_names_what_the_factors_say() -> None:
    factors = dict.fromkeys(FACTORS, 0.0) | {"hue_x": 1.0, "shape": -3.0, "motion": 3.0, "tempo": 3.0}
    look = look_of(np.array(list(factors.values()), np.float32))
    assert (look.hue, look.colour, look.shape, look.motion, look.mood) == (0.0, COLOURS[0], "circle", "spin", "wild")
    assert look.saturation == pytest.approx(0.65)


def test_pitch_factor_is_the_loudest_frequency() -> None:
    def loudest_hz(pitch: float) -> float:
        factors = np.array([pitch if name == "pitch" else -1.0 for name in FACTORS], np.float32)
        sound = synthesise(factors, 2.0, np.random.default_rng(0))
        return float(np.abs(np.fft.rfft(sound)).argmax() / 2)

    # The same tune in another key: one unit of pitch is 0.7 octave.
    assert math.log2(loudest_hz(1.0) / loudest_hz(0.0)) == pytest.approx(0.7, abs=0.03)


def test_ranking_quality_by_hand() -> None:
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, -np.inf], [1.0, 1.0, 1.0, 1.0]])
    positives = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    # User 0: one of two found, at rank 2; user 1: found at rank 1; user 2 has no positive.
    found = 1 / math.log2(3)
    assert ranking_quality(scores[2:], positives[2:]) == {"users": 0}
    quality = ranking_quality(scores, positives, k=2)
    assert quality["users"] == 2
    assert quality["recall@2"] == pytest.approx((0.5 + 1) / 2)
    assert quality["ndcg@2"] == pytest.approx((found / (1 + found) + 1) / 2)


def test_oracle_is_calibrated_and_far_above_popularity() -> None:
    world = make_world(120, 400, 20, np.random.default_rng(5))
    log = simulate(world, 20, np.random.default_rng(6))
    user, video, time, click = (log.column(name) for name in ("user", "video", "time", "click"))
    cut = 17.3
    scores = oracle_scores(world, log, cut, 40, np.random.default_rng(7))
    past, test = (np.zeros(scores.shape, dtype=bool) for _ in range(2))
    past[user[click & (time < cut)], video[click & (time < cut)]] = True
    test[user[click & (time >= cut)], video[click & (time >= cut)]] = True
    assert scores[past].max() == 0
    # About 900 positives: their number varies by some 30 around what is expected.
    assert scores.sum() == pytest.approx(test.sum(), rel=0.15)
    popularity = np.where(past, -np.inf, past.sum(axis=0, dtype=np.float64))
    assert ranking_quality(scores, test)["recall@20"] > 1.5 * ranking_quality(popularity, test)["recall@20"]
