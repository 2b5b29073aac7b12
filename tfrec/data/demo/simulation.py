"""Users meet videos: the day-by-day simulation whose log is the demo dataset.

Terms:
    session: one visit of a user, at most one a day; its impressions are drawn without replacement by the
        weights of the logging policy.
    allowance: `[U, V]` factor on the exposure weight; shrinks with each impression and is 0 after a click, so
        nobody clicks the same video twice.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec.data.demo.world import BoolArray, FloatArray, IntArray, World

_MAX_IMPRESSIONS = 12
_FATIGUE = np.float32(0.4)  # what an impression without a click leaves of a video's weight
_SECONDS_BETWEEN = 6


@dataclass(frozen=True)
class Impressions:
    """Videos shown on one day, a row each, by user and then by position in the session.

    Args:
        user: `[N]`.
        video: `[N]`.
        time: `[N]`, in days since the start.
        click_probability: `[N]`, the truth.
        click: `[N]`.
    """

    user: IntArray
    video: IntArray
    time: npt.NDArray[np.float64]
    click_probability: FloatArray
    click: BoolArray

    def where(self, mask: BoolArray) -> "Impressions":
        """The rows of `mask` `[N]`."""
        return Impressions(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


@dataclass(frozen=True)
class Log:
    """All days.

    Args:
        days: the impressions of each day.
        moods: `[days, U]`, the true mood of each user on each day.
    """

    days: list[Impressions]
    moods: IntArray

    def column(self, name: str) -> npt.NDArray[Any]:
        """One field of the impressions over all days, joined."""
        return np.concatenate([getattr(day, name) for day in self.days])


def simulate(world: World, num_days: int, rng: np.random.Generator) -> Log:
    """Runs the platform for `num_days`."""
    allowance = np.ones_like(world.lasting_taste)
    mood = world.next_mood(rng.integers(len(world.flow), size=len(allowance)), rng)
    days, moods = [], []
    for day in range(num_days):
        user, hour = draw_sessions(world, day, rng)
        shown = show(world, allowance, user, mood[user], day + hour, rng)
        use_up(allowance, shown)
        days.append(shown)
        moods.append(mood)
        mood = world.next_mood(mood, rng)
    return Log(days, np.stack(moods))


def draw_sessions(world: World, day: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """Who comes on `day` (`[N]` users) and when (`[N]`, share of the day; evenings are busier)."""
    comes = (rng.random(len(world.users.activity)) < world.users.activity) & (world.users.joined <= day)
    user = np.flatnonzero(comes)
    return user, rng.beta(4, 2.5, size=len(user)).astype(np.float32) * np.float32(0.98)


def show(
    world: World,
    allowance: FloatArray,
    user: IntArray,
    mood: IntArray,
    now: FloatArray,
    rng: np.random.Generator,
) -> Impressions:
    """Runs one session for each of `user` in `mood` at `now` (days), all `[N]`."""
    weight = world.exposure_weight(user, mood, now) * allowance[user]
    order = np.full_like(weight, np.inf)
    np.divide(rng.standard_exponential(weight.shape, dtype=np.float32), weight, out=order, where=weight > 0)
    length = np.clip(rng.poisson(4.7, size=len(user)), 2, min(_MAX_IMPRESSIONS, weight.shape[1]))
    first = _smallest(order, min(_MAX_IMPRESSIONS, weight.shape[1]))
    possible = np.isfinite(np.take_along_axis(order, first, axis=1))
    row, position = np.nonzero((np.arange(first.shape[1]) < length[:, None]) & possible)
    video = first[row, position]
    probability = world.click_probability(user[row], video, mood[row])
    return Impressions(
        user=user[row],
        video=video,
        time=now[row].astype(np.float64) + position * (_SECONDS_BETWEEN / 86400),
        click_probability=probability,
        click=rng.random(len(row)) < probability,
    )


def use_up(allowance: FloatArray, shown: Impressions) -> None:
    """Enters impressions into `allowance`, in place."""
    allowance[shown.user, shown.video] *= np.where(shown.click, np.float32(0), _FATIGUE)


def _smallest(values: FloatArray, count: int) -> IntArray:
    """Columns of the `count` smallest values of each row, ascending."""
    columns = np.argpartition(values, count - 1, axis=1)[:, :count]
    ranked = np.argsort(np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, ranked, axis=1)
