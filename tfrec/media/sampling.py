"""When frames are taken: presentation times in seconds.

`uniform` cuts the presentation time into equal parts and takes the middle of each. `fixed_rate` takes the middle of each period
of `1 / frames_per_second`; of more than `num_frames`, an even choice. `key_frames` gives each scene its middle; frames left over
go to the longest scenes, whose parts are then equal, and of more than `num_frames` scenes the longest count. A video of one scene
is sampled uniformly. Pictures of a folder have no times: an even choice, whatever the mode.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tfrec.config import ImageConfig, SamplingMode


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken.

    Args:
        num_frames: most frames of a video.
        mode: `uniform`, `fixed_rate` or `key_frames`.
        frames_per_second: of `fixed_rate`.
    """

    num_frames: int
    mode: SamplingMode = "uniform"
    frames_per_second: float = 1.0

    @classmethod
    def of(cls, config: ImageConfig) -> Sampling:
        """From the configuration."""
        return cls(config.num_frames, config.sampling, config.frames_per_second)

    @property
    def version(self) -> str:
        """Changes whenever the same video may be sampled at other times."""
        suffix = {"uniform": "", "fixed_rate": f"-{self.frames_per_second:g}fps", "key_frames": "-scenes"}
        return f"{self.num_frames}{suffix[self.mode]}"

    def times(self, start: float, length: float, find_cuts: Callable[[], Sequence[float]]) -> list[float]:
        """Times of the samples, ascending.

        Args:
            start: of the presentation.
            length: of the presentation.
            find_cuts: asked for the times at which scenes change, where the mode wants them.
        """
        if self.mode == "uniform":
            return _middles(start, length, self.num_frames)
        if self.mode == "fixed_rate":
            return self._at_fixed_rate(start, length)
        end = start + length
        bounds = [start, *(cut for cut in find_cuts() if start < cut < end), end]
        return _scene_middles(bounds, self.num_frames)

    def _at_fixed_rate(self, start: float, length: float) -> list[float]:
        count = max(1, round(length * self.frames_per_second))
        period = min(1 / self.frames_per_second, length) if count == 1 else 1 / self.frames_per_second
        return [start + (place + 0.5) * period for place in even_choice(count, self.num_frames)]


def even_choice(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread."""
    chosen = min(count, most)
    return [int((index + 0.5) / chosen * count) for index in range(chosen)]


def _middles(start: float, length: float, parts: int) -> list[float]:
    return [start + (index + 0.5) / parts * length for index in range(parts)]


def _scene_middles(bounds: Sequence[float], num_frames: int) -> list[float]:
    scenes = [(start, end - start) for start, end in pairwise(bounds)]
    scenes = sorted(sorted(scenes, key=lambda scene: -scene[1])[:num_frames])
    shares = _shares([length for _, length in scenes], num_frames)
    return [
        time for (start, length), parts in zip(scenes, shares, strict=True) for time in _middles(start, length, parts)
    ]


def _shares(lengths: Sequence[float], total: int) -> list[int]:
    """Splits `total` among scenes, at least one each, the next always to the scene with the longest parts (D'Hondt)."""
    shares = [1] * len(lengths)
    parts = [(-length / 2, place) for place, length in enumerate(lengths)]
    heapq.heapify(parts)
    for _ in range(total - len(lengths)):
        _, place = heapq.heappop(parts)
        shares[place] += 1
        heapq.heappush(parts, (-lengths[place] / (shares[place] + 1), place))
    return shares
