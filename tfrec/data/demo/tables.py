"""Turns the truth and the log into the tables of a dataset folder."""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrec.data.demo import words
from tfrec.data.demo.looks import look_of
from tfrec.data.demo.simulation import Log
from tfrec.data.demo.world import AGES, COUNTRIES, DEVICES, FACTORS, BoolArray, Videos, World

START_SECONDS = 1_736_121_600  # 2025-01-06 00:00 UTC, a Monday
DAY_SECONDS = 86_400
METHODS = ("diffusion-v1", "diffusion-v2", "gan", "image-to-video", "video-to-video")
_NUM_PARAMETERS = 8
_PARAMETER_NOISE = 1.0
_UNTITLED = _SILENT = _WITHOUT_METADATA = 0.03  # shares of videos that lack something, for the masks


@dataclass(frozen=True)
class Tables:
    """The tables in the data contract's form, and which videos have no sound (`[V]`)."""

    users: pd.DataFrame
    videos: pd.DataFrame
    interactions: pd.DataFrame
    silent: BoolArray


def make_tables(world: World, log: Log, rng: np.random.Generator) -> Tables:
    """Writes down what a platform would know."""
    video_ids = np.array([f"v{i:04d}" for i in range(len(world.videos.style))], dtype=object)
    user_ids = np.array([f"u{i:05d}" for i in range(len(world.users.age))], dtype=object)
    return Tables(
        users=_user_table(world, user_ids),
        videos=_video_table(world.videos, video_ids, rng),
        interactions=_interaction_table(world, log, user_ids, video_ids, rng),
        silent=rng.random(len(video_ids)) < _SILENT,
    )


def _user_table(world: World, user_ids: npt.NDArray[np.object_]) -> pd.DataFrame:
    users = world.users
    return pd.DataFrame(
        {
            "user_id": user_ids,
            "age": np.array(AGES)[users.age],
            "country": np.array(COUNTRIES)[users.country],
            "device": np.array(DEVICES)[users.device],
        }
    )


def _video_table(videos: Videos, video_ids: npt.NDArray[np.object_], rng: np.random.Generator) -> pd.DataFrame:
    looks = [look_of(factors) for factors in videos.factors]
    written = [words.write(look, bool(zh), rng) for look, zh in zip(looks, videos.chinese, strict=True)]
    untitled, bare = rng.random((2, len(video_ids))) < [[_UNTITLED], [_WITHOUT_METADATA]]
    created = START_SECONDS + np.round(videos.created.astype(np.float64) * DAY_SECONDS).astype(np.int64)
    return pd.DataFrame(
        {
            "video_id": video_ids,
            "title": np.where(untitled, "", [text.title for text in written]),
            "tags": [text.tags for text in written],
            "duration": videos.duration,
            "created_at": created,
            "generate_method": np.where(bare, "", _methods(videos, rng)),
            "prompt": np.where(bare, "", [text.prompt for text in written]),
            "gen_params": np.where(bare, "", _parameters(videos, rng)),
        }
    )


def _methods(videos: Videos, rng: np.random.Generator) -> npt.NDArray[np.str_]:
    """The likelier, the better a method's bent agrees with texture, motion and sharpness."""
    bent = [FACTORS.index("texture"), FACTORS.index("motion")]
    told = np.column_stack([videos.factors[:, bent], videos.sharpness])
    log_odds = told @ rng.normal(size=(3, len(METHODS))) + rng.gumbel(size=(len(told), len(METHODS)))
    return np.array(METHODS)[log_odds.argmax(axis=1)]


def _parameters(videos: Videos, rng: np.random.Generator) -> list[str]:
    """JSON lists: a noisy linear image of all factors but the colour, and of the sharpness."""
    told = np.column_stack([videos.factors[:, 2:], videos.sharpness])
    mixed = told @ rng.normal(size=(told.shape[1], _NUM_PARAMETERS)) / np.sqrt(told.shape[1])
    noisy = mixed + _PARAMETER_NOISE * rng.normal(size=mixed.shape)
    return [json.dumps(row) for row in noisy.round(3).tolist()]


def _interaction_table(
    world: World,
    log: Log,
    user_ids: npt.NDArray[np.object_],
    video_ids: npt.NDArray[np.object_],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """All impressions by time; who clicks watches a share of the video that grows with the liking."""
    user, video, click = log.column("user"), log.column("video"), log.column("click")
    probability = log.column("click_probability").astype(np.float64)
    liking = np.log(probability / (1 - probability))
    share = 1 / (1 + np.exp(-(0.9 * liking + 1.0 + 1.2 * rng.normal(size=len(liking)))))
    finish = click & (share > 0.7)
    like = click & (rng.random(len(liking)) < 1 / (1 + np.exp(-(1.3 * liking - 2.0))))
    watched = np.where(finish, 1.0, share) * world.videos.duration[video] * click
    seconds = START_SECONDS + np.floor(log.column("time") * DAY_SECONDS).astype(np.int64)
    table = pd.DataFrame(
        {
            "user_id": user_ids[user],
            "video_id": video_ids[video],
            "timestamp": seconds,
            "click": click.astype(np.int8),
            "finish": finish.astype(np.int8),
            "like": like.astype(np.int8),
            "watch_time": watched.round(2),
        }
    )
    return table.sort_values("timestamp", kind="stable", ignore_index=True)
