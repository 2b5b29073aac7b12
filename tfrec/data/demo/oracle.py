"""The best reachable ranking of the demo's test window, known because the truth is.

From the true state at the cut the test window is played again many times with other chances. The mean number of
clicks per user and video is the probability that the video is among the user's test positives, P(exposed) x
P(click): ranking by it is Bayes-optimal for expected recall, up to Monte-Carlo noise. Of each impression the true
click probability is counted rather than the drawn click (Rao-Blackwell), which needs fewer repetitions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec.data.demo.simulation import Log, draw_sessions, show, use_up
from tfrec.data.demo.world import BoolArray, FloatArray, World


def oracle_scores(world: World, log: Log, cut: float, repetitions: int, rng: np.random.Generator) -> FloatArray:
    """Expected positives per user and video after `cut`.

    Args:
        world: the truth.
        log: what happened; only what lies before `cut` is used, with the mood on the day of the cut.
        cut: start of the test window, in days.
        repetitions: how often the window is played.
        rng: chance.

    Returns:
        `[U, V]`, 0 for what the user clicked before the cut.
    """
    allowance, came = _state_at(world, log, cut)
    total = np.zeros_like(allowance)
    for _ in range(repetitions):
        _play_window(world, log, cut, allowance.copy(), came, total, rng)
    return total / np.float32(repetitions)


def _state_at(world: World, log: Log, cut: float) -> tuple[FloatArray, BoolArray]:
    """Allowance at the cut, and `[U]` who had already come on the day of the cut."""
    allowance = np.ones_like(world.lasting_taste)
    came = np.zeros(len(allowance), dtype=bool)
    for shown in log.days[: int(cut)]:
        use_up(allowance, shown)
    today = log.days[int(cut)]
    before = today.time < cut
    came[today.user[before]] = True
    use_up(allowance, today.where(before))
    return allowance, came


def _play_window(
    world: World,
    log: Log,
    cut: float,
    allowance: FloatArray,
    came: BoolArray,
    total: FloatArray,
    rng: np.random.Generator,
) -> None:
    """Plays the days from the cut on once and adds the click probabilities of what is shown to `total`."""
    mood = log.moods[int(cut)]
    for day in range(int(cut), len(log.days)):
        user, hour = draw_sessions(world, day, rng)
        if day == int(cut):
            later = ~came[user] & (day + hour >= cut)
            user, hour = user[later], hour[later]
        shown = show(world, allowance, user, mood[user], day + hour, rng)
        use_up(allowance, shown)
        total[shown.user, shown.video] += shown.click_probability
        mood = world.next_mood(mood, rng)


def ranking_quality(scores: npt.NDArray[np.floating[Any]], positives: BoolArray, k: int = 20) -> dict[str, float]:
    """Recall@k and NDCG@k over the full rows of `scores`.

    Args:
        scores: `[U, V]`; `-inf` for what may not be recommended.
        positives: `[U, V]`; users without any are left out.
        k: length of the slate.

    Returns:
        `recall@k`, `ndcg@k` (means over users) and `users`; `users` alone where there are none.
    """
    has_positive = positives.any(axis=1)
    if not has_positive.any():
        return {"users": 0}
    scores, positives = scores[has_positive], positives[has_positive]
    slate = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hit = np.take_along_axis(positives, slate, axis=1)
    count = positives.sum(axis=1)
    gain = 1 / np.log2(np.arange(slate.shape[1]) + 2)
    ideal = np.cumsum(gain)[np.minimum(count, slate.shape[1]) - 1]
    return {
        f"recall@{k}": float((hit.sum(axis=1) / count).mean()),
        f"ndcg@{k}": float(((hit * gain).sum(axis=1) / ideal).mean()),
        "users": int(has_positive.sum()),
    }
