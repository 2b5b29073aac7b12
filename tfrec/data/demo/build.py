"""Builds the demo dataset folder once and keeps it."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tfrec.config import DataConfig, DemoConfig
from tfrec.data.demo.looks import look_of
from tfrec.data.demo.media import write_mp4
from tfrec.data.demo.oracle import oracle_scores, ranking_quality
from tfrec.data.demo.pictures import FRAMES_PER_SECOND, render
from tfrec.data.demo.simulation import Log, simulate
from tfrec.data.demo.sounds import synthesise
from tfrec.data.demo.tables import DAY_SECONDS, START_SECONDS, Tables, make_tables
from tfrec.data.demo.world import BoolArray, World, make_world
from tfrec.data.schema import Part
from tfrec.data.splits import split_by_time
from tfrec.errors import TfrecError
from tfrec.run import locked_file

GENERATOR_VERSION = 4
"""Raise it with every change of what is generated: cached folders of another version are built anew."""

Progress = Callable[[int, int], None]

_MARKER = "demo.json"
_WORKERS = 2
_ORACLE_REPETITIONS = 400  # 150 leave recall@20 about 0.01 too low, 600 add nothing that shows


def ensure_demo(folder: Path, config: DemoConfig, progress: Progress | None = None) -> Path:
    """Makes the demo dataset unless `folder` already holds it.

    It is built beside `folder` and appears by one rename, so a half-made one is never seen. Processes that ask for
    the same folder at the same time wait for the first.

    Args:
        folder: where the dataset belongs; its parent is made if needed.
        config: sizes and seed.
        progress: called with the videos done and the videos in all.

    Returns:
        `folder`.

    Raises:
        TfrecError: If `folder` holds something that is not a demo dataset.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    marker = asdict(config) | {"generator_version": GENERATOR_VERSION}
    with locked_file(folder.with_name(f".{folder.name}.lock")):
        if _read_marker(folder) != marker:
            _replace(folder, config, marker, progress)
    return folder


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a finished demo; None where there is nothing."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        return dict(json.loads((folder / _MARKER).read_text()))
    except (OSError, ValueError) as error:
        raise TfrecError(
            f"The demo dataset goes into a folder of its own. Received: {folder}, which holds something else "
            f"(no readable {_MARKER}). Choose another folder or remove this one."
        ) from error


def _replace(folder: Path, config: DemoConfig, marker: dict[str, Any], progress: Progress | None) -> None:
    """Builds beside `folder`, then swaps; leftovers of a killed build are removed first."""
    building, outdated = (folder.with_name(f".{folder.name}.{state}") for state in ("building", "outdated"))
    shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(outdated, ignore_errors=True)
    (building / "videos").mkdir(parents=True)
    try:
        _build(building, config, progress or (lambda done, total: None))
        (building / _MARKER).write_text(json.dumps(marker, indent=2) + "\n")
        if folder.exists():
            folder.rename(outdated)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(outdated, ignore_errors=True)


def truth(config: DemoConfig) -> World:
    """The world behind the demo dataset of `config`."""
    return make_world(config.num_videos, config.num_users, config.num_days, np.random.default_rng([config.seed, 0]))


def _build(folder: Path, config: DemoConfig, progress: Progress) -> None:
    log_rng, table_rng, oracle_rng = (np.random.default_rng([config.seed, part]) for part in range(1, 4))
    world = truth(config)
    log = simulate(world, config.num_days, log_rng)
    tables = make_tables(world, log, table_rng)
    _write_tables(folder, tables)
    with ThreadPoolExecutor(_WORKERS) as pool:
        oracle = pool.submit(_write_oracle, folder, world, log, tables, oracle_rng)
        films: list[Future[None]] = [
            pool.submit(_write_film, folder, world, index, bool(silent), config.seed)
            for index, silent in enumerate(tables.silent)
        ]
        try:
            for done, film in enumerate(as_completed(films), start=1):
                film.result()
                progress(done, len(films))
            oracle.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or Ctrl-C would wait for the whole catalogue
            raise


def _write_tables(folder: Path, tables: Tables) -> None:
    tables.users.to_csv(folder / "users.csv", index=False)
    tables.videos.to_csv(folder / "videos.csv", index=False)
    compression = {"method": "gzip", "mtime": 0}  # the same bytes whenever it is made
    tables.interactions.to_csv(folder / "interactions.csv.gz", index=False, compression=compression)


def _write_film(folder: Path, world: World, index: int, silent: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, 4, index])
    videos = world.videos
    seconds, factors = float(videos.duration[index]), videos.factors[index]
    num_frames = round(seconds * FRAMES_PER_SECOND)
    sound = None if silent else synthesise(factors, seconds, rng)
    frames = render(look_of(factors), float(videos.sharpness[index]), num_frames, rng)
    write_mp4(folder / "videos" / f"v{index:04d}.mp4", frames, sound)


def _write_oracle(folder: Path, world: World, log: Log, tables: Tables, rng: np.random.Generator) -> None:
    """Writes `oracle_scores.npy` and, with its quality on the test window of the default split, `oracle.json`."""
    seconds = tables.interactions["timestamp"].to_numpy()
    clicked = tables.interactions["click"].to_numpy() == 1
    shares = DataConfig()
    part = split_by_time(seconds, clicked, shares.validation_share, shares.test_share)
    test_start = int(seconds[part == Part.TEST].min())
    scores = oracle_scores(world, log, (test_start - START_SECONDS) / DAY_SECONDS, _ORACLE_REPETITIONS, rng)
    np.save(folder / "oracle_scores.npy", scores.astype(np.float16))
    train, test = (_clicks(tables, clicked & (part == wanted)) for wanted in (Part.TRAIN, Part.TEST))
    cold = ~train.any(axis=0)
    report = {
        "test_start": test_start,
        "repetitions": _ORACLE_REPETITIONS,
        "all": ranking_quality(np.where(train, -np.inf, scores), test),
        "cold_start": ranking_quality(scores[:, cold], test[:, cold]) | {"candidates": int(cold.sum())},
    }
    (folder / "oracle.json").write_text(json.dumps(report, indent=2) + "\n")


def _clicks(tables: Tables, rows: BoolArray) -> BoolArray:
    """`[U, V]`, who clicked what among `rows` of the interactions."""
    clicks = np.zeros((len(tables.users), len(tables.videos)), dtype=bool)
    part = tables.interactions[rows]
    clicks[part["user_id"].str[1:].astype(int), part["video_id"].str[1:].astype(int)] = True
    return clicks
