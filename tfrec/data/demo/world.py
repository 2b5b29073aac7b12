"""The hidden truth behind the demo dataset: who likes what, and how often it is seen.

Terms:
    style: one of `NUM_STYLES` looks that videos are made in and that users are in the mood for.
    factors: the `FACTORS` of a video, its style's centre plus its own deviation; all media show some of them.
    hidden factors: what a community likes for reasons that no picture, sound or text shows.
    mood: the style that a user wants on a day. Moods move along a map of styles that all users share, so
        recent clicks tell more than old ones and the next mood can partly be foreseen.
    quality: the logarithm of a video's pull on everybody. Half of it can be seen in the picture (`sharpness`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FACTORS = ("hue_x", "hue_y", "shape", "texture", "motion", "pitch", "tempo", "timbre")
NUM_STYLES = 12
NUM_HIDDEN = 4
AGES = ("13-17", "18-24", "25-34", "35-49", "50+")
COUNTRIES = ("CN", "US", "TW", "IN", "SG", "DE", "BR")
DEVICES = ("android", "ios", "desktop", "tv")
CHINESE_SHARE = {"CN": 0.9, "US": 0.1, "TW": 0.85, "IN": 0.05, "SG": 0.5, "DE": 0.05, "BR": 0.05}

_COUNTRY_SHARES = (0.3, 0.2, 0.1, 0.15, 0.07, 0.08, 0.1)
_AGE_SHARES = (0.15, 0.3, 0.28, 0.18, 0.09)
_INITIAL_VIDEOS = 0.3  # of the catalogue is there on the first day
_LATE_USERS = 0.2  # of the users join after the first day
_WITHIN_STYLE = 0.45  # deviation of a video from its style's centre

# How much each part of taste weighs in the log-odds of a click.
_MOOD, _PERSONAL, _COMMUNITY, _LANGUAGE, _QUALITY = 2.3, 0.45, 0.9, 0.7, 0.7
_CLICK_BIAS = -3.7
# How much the logging policy looks at each thing.
_POLICY_MOOD, _POLICY_QUALITY, _POLICY_LANGUAGE = 1.4, 0.7, 0.6
_HALF_LIFE_DAYS, _NEW_DAYS, _NEW_PUSH = 40.0, 3.0, 0.8
_MOOD_CHANGE = 0.07  # probability per day
_LEANING_BY_AGE, _LEANING_BY_COUNTRY, _LEANING_OWN = 0.9, 0.9, 0.8


@dataclass(frozen=True)
class Videos:
    """What is true of each video.

    Args:
        style: `[V]` in `0 .. NUM_STYLES - 1`.
        factors: `[V, len(FACTORS)]`, each about standard normal.
        hidden: `[V, NUM_HIDDEN]`, shown by no medium.
        quality: `[V]`, about standard normal.
        sharpness: `[V]`, the visible half of quality.
        chinese: `[V]`, whether title and prompt are Chinese.
        created: `[V]`, in days since the start; negative for what was there before.
        duration: `[V]`, in seconds.
    """

    style: IntArray
    factors: FloatArray
    hidden: FloatArray
    quality: FloatArray
    sharpness: FloatArray
    chinese: BoolArray
    created: FloatArray
    duration: FloatArray


@dataclass(frozen=True)
class Users:
    """What is true of each user.

    Args:
        age: `[U]`, index into `AGES`.
        country: `[U]`, index into `COUNTRIES`.
        device: `[U]`, index into `DEVICES`.
        leaning: `[U, NUM_STYLES]`, the long-term share of each style in the user's moods.
        personal: `[U, len(FACTORS)]`, a lasting direction of taste.
        hidden: `[U, NUM_HIDDEN]`, the community's taste.
        chinese: `[U]`, +1 prefers Chinese titles, -1 others.
        activity: `[U]`, probability of a session per day.
        joined: `[U]`, first day.
    """

    age: IntArray
    country: IntArray
    device: IntArray
    leaning: FloatArray
    personal: FloatArray
    hidden: FloatArray
    chinese: FloatArray
    activity: FloatArray
    joined: IntArray


@dataclass(frozen=True)
class World:
    """Videos, users and the two laws between them.

    Args:
        videos: the catalogue.
        users: the audience.
        flow: `[NUM_STYLES, NUM_STYLES]`, how readily a mood (row) turns into the next one (column).
        mood_match: `[NUM_STYLES, V]`, how well a video suits a mood, standardised.
        lasting_taste: `[U, V]`, log-odds of a click without the mood's part.
        lasting_policy: `[U, V]`, log-weight of an exposure without the parts of mood and age.
    """

    videos: Videos
    users: Users
    flow: FloatArray
    mood_match: FloatArray
    lasting_taste: FloatArray
    lasting_policy: FloatArray

    def click_probability(self, user: IntArray, video: IntArray, mood: IntArray) -> FloatArray:
        """True probability that `user` in `mood` clicks on `video` when shown; all `[N]`."""
        log_odds = self.lasting_taste[user, video] + _MOOD * self.mood_match[mood, video]
        return (1 / (1 + np.exp(-log_odds))).astype(np.float32)

    def exposure_weight(self, user: IntArray, mood: IntArray, now: FloatArray) -> FloatArray:
        """Weight `[N, V]` of each video in the logging policy for `user` in `mood` at `now` (days), all `[N]`.

        The policy mixes popularity, recency and a crude taste match
        that knows the mood, but neither the lasting personal taste nor the community.
        """
        age = now[:, None] - self.videos.created
        freshness = np.where(age < _NEW_DAYS, _NEW_PUSH, 0) - np.log(2) * age / _HALF_LIFE_DAYS
        log_weight = self.lasting_policy[user] + _POLICY_MOOD * self.mood_match[mood] + freshness
        return np.where(age >= 0, np.exp(log_weight), 0).astype(np.float32)

    def next_mood(self, mood: IntArray, rng: np.random.Generator) -> IntArray:
        """Moves the moods `[U]` on by a day: some change, along the map and the leaning."""
        share = self.flow[mood] * self.users.leaning
        share /= share.sum(axis=1, keepdims=True)
        moved = draw_rows(share, rng)
        return np.where(rng.random(len(mood)) < _MOOD_CHANGE, moved, mood)


def make_world(num_videos: int, num_users: int, num_days: int, rng: np.random.Generator) -> World:
    """Draws the truth.

    Args:
        num_videos: size of the catalogue.
        num_users: size of the audience.
        num_days: length of the log.
        rng: the only source of chance.
    """
    centres = rng.normal(size=(NUM_STYLES, len(FACTORS))).astype(np.float32)
    videos = _make_videos(num_videos, num_days, centres, rng)
    users = _make_users(num_users, num_days, rng)
    distance = ((videos.factors[None] - centres[:, None]) ** 2).mean(axis=2)
    language = users.chinese[:, None] * np.where(videos.chinese, 1, -1)
    taste = (
        _PERSONAL * users.personal @ videos.factors.T
        + _COMMUNITY * users.hidden @ videos.hidden.T
        + _LANGUAGE * language
        + _QUALITY * videos.quality
        + _CLICK_BIAS
    )
    policy = _POLICY_QUALITY * videos.quality + _POLICY_LANGUAGE * language
    flow = 0.15 + np.roll(np.eye(NUM_STYLES), 1, axis=1) * 3
    return World(
        videos,
        users,
        flow.astype(np.float32),
        _standardise(-distance),
        taste.astype(np.float32),
        policy.astype(np.float32),
    )


def _make_videos(count: int, num_days: int, centres: FloatArray, rng: np.random.Generator) -> Videos:
    style = rng.integers(NUM_STYLES, size=count)
    deviation = _WITHIN_STYLE * rng.normal(size=(count, len(FACTORS)))
    sharpness = rng.normal(size=count)
    quality = (sharpness + rng.normal(size=count)) / np.sqrt(2)
    created = rng.uniform(0, num_days - 0.5, size=count)
    created[: round(_INITIAL_VIDEOS * count)] = rng.uniform(-5, 0, size=round(_INITIAL_VIDEOS * count))
    return Videos(
        style=style,
        factors=(centres[style] + deviation).astype(np.float32),
        hidden=rng.normal(size=(count, NUM_HIDDEN)).astype(np.float32),
        quality=quality.astype(np.float32),
        sharpness=sharpness.astype(np.float32),
        chinese=rng.random(count) < 0.4,
        created=np.sort(created).astype(np.float32),
        duration=rng.integers(8, 13, size=count).astype(np.float32) / 4,
    )


def _make_users(count: int, num_days: int, rng: np.random.Generator) -> Users:
    age = rng.choice(len(AGES), p=_AGE_SHARES, size=count)
    country = rng.choice(len(COUNTRIES), p=_COUNTRY_SHARES, size=count)
    by_age = _LEANING_BY_AGE * rng.normal(size=(len(AGES), NUM_STYLES))[age]
    by_country = _LEANING_BY_COUNTRY * rng.normal(size=(len(COUNTRIES), NUM_STYLES))[country]
    leaning = np.exp(by_age + by_country + _LEANING_OWN * rng.normal(size=(count, NUM_STYLES)))
    device_share = np.stack([0.5 - 0.06 * age, 0.3 + 0 * age, 0.15 + 0.02 * age, 0.05 + 0.04 * age], axis=1)
    chinese_share = np.array([CHINESE_SHARE[name] for name in COUNTRIES])[country]
    joined = np.where(rng.random(count) < _LATE_USERS, rng.integers(num_days, size=count), 0)
    return Users(
        age=age,
        country=country,
        device=draw_rows(device_share, rng),
        leaning=(leaning / leaning.sum(axis=1, keepdims=True)).astype(np.float32),
        personal=(rng.normal(size=(count, len(FACTORS))) / np.sqrt(len(FACTORS))).astype(np.float32),
        hidden=(rng.normal(size=(count, NUM_HIDDEN)) / np.sqrt(NUM_HIDDEN)).astype(np.float32),
        chinese=np.where(rng.random(count) < chinese_share, 1, -1).astype(np.float32),
        activity=np.clip(rng.lognormal(np.log(0.42), 0.6, size=count), 0.03, 0.95).astype(np.float32),
        joined=joined,
    )


def draw_rows(share: npt.NDArray[np.floating[Any]], rng: np.random.Generator) -> IntArray:
    """Draws one column per row of `share` `[N, C]`, whose rows sum to 1."""
    below = rng.random(len(share))[:, None] > np.cumsum(share, axis=1)[:, :-1]
    return below.sum(axis=1)


def _standardise(values: npt.NDArray[np.floating[Any]]) -> FloatArray:
    return ((values - values.mean()) / values.std()).astype(np.float32)
