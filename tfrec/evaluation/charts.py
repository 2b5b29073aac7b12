"""Geometry of the report's charts; the template draws them as SVG and HTML, so they follow the page's light or dark look.

Coordinates are those of an SVG view box, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

WIDTH, HEIGHT = 300, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 288, 12, 144
"""Size of the view box and edges of the plot in it; labels take the rest."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A label on an axis, at a coordinate."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """A line with axes.

    Args:
        points: the line.
        x_ticks: below.
        y_ticks: at the left.
        mark: the point that stands out, if any.
        diagonal: ends of a line of reference, if any.
    """

    points: Sequence[Point]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    mark: Point | None = None
    diagonal: tuple[Point, Point] | None = None
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = RIGHT
    top: ClassVar[int] = TOP
    bottom: ClassVar[int] = BOTTOM

    @property
    def path(self) -> str:
        """The line in SVG's notation."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Bar:
    """A bar and its interval, in percent of the widest.

    Args:
        name: what is measured.
        kind: `model`, `baseline` or `oracle`.
        value: as it was measured.
        width: of the bar.
        interval: left end and width of the whisker, or None.
    """

    name: str
    kind: str
    value: float
    width: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class _Scale:
    """Linear map from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) of which the first and last enclose `low` and `high`.

    Args:
        low: smallest value.
        high: largest value.
        count: steps wanted, about.
    """
    span = high - low or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / count))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * count >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _value_axis(low: float, high: float, start: float, end: float) -> tuple[_Scale, list[Tick]]:
    ticks = nice_ticks(low, high)
    scale = _Scale(ticks[0], ticks[-1], start, end)
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return scale, [Tick(scale(tick), f"{tick:,.{decimals}f}") for tick in ticks]


def learning_curve(values: Sequence[float], lower_is_better: bool) -> LineChart | None:
    """One number over the epochs, its best epoch marked; None where no epoch has a finite value.

    Args:
        values: one per epoch.
        lower_is_better: as for a loss.
    """
    known = [(epoch, value) for epoch, value in enumerate(values, 1) if math.isfinite(value)]
    if not known:
        return None
    heights = [value for _, value in known]
    y_scale, y_ticks = _value_axis(min(heights), max(heights), BOTTOM, TOP)
    x_scale = _Scale(1, len(values), LEFT + 6, RIGHT)
    best = known[heights.index(min(heights) if lower_is_better else max(heights))]
    points = [(x_scale(epoch), y_scale(value)) for epoch, value in known]
    x_ticks = [Tick(x_scale(epoch), str(epoch)) for epoch in _epoch_ticks(len(values))]
    return LineChart(points, x_ticks, y_ticks, mark=(x_scale(best[0]), y_scale(best[1])))


def _epoch_ticks(epochs: int) -> list[int]:
    step = max(1, int(nice_ticks(0, epochs, 6)[1]))
    return [1, *(epoch for epoch in range(step, epochs + 1, step) if epoch > 1 + step / 2)]


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> LineChart:
    """Observed against predicted rates; calibrated probabilities lie on the diagonal.

    Args:
        bins: as from `tfrec.evaluation.metrics.reliability`.
    """
    high = max(max(row["predicted"], row["observed"]) for row in bins)
    x_scale, x_ticks = _value_axis(0, high, LEFT, RIGHT)
    y_scale, y_ticks = _value_axis(0, high, BOTTOM, TOP)
    points = [(x_scale(row["predicted"]), y_scale(row["observed"])) for row in bins]
    return LineChart(points, x_ticks, y_ticks, diagonal=((LEFT, BOTTOM), (RIGHT, TOP)))


def bars(metric: str, blocks: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> list[Bar]:
    """Bars of one metric, on one scale.

    Args:
        metric: a key of the blocks, with or without `<metric>_interval` beside it.
        blocks: measured numbers by name; those without the metric are left out.
        kinds: kind of bar by name, `baseline` where not given.
    """
    measured = {name: block for name, block in blocks.items() if block.get(metric) is not None}
    intervals = {name: block.get(f"{metric}_interval") for name, block in measured.items()}
    ends = [interval[1] for interval in intervals.values() if interval]
    widest = max([block[metric] for block in measured.values()] + ends, default=0) or 1
    return [
        Bar(
            name=name,
            kind=kinds.get(name, "baseline"),
            value=block[metric],
            width=100 * block[metric] / widest,
            interval=_whisker(intervals[name], widest),
        )
        for name, block in measured.items()
    ]


def _whisker(interval: Sequence[float] | None, widest: float) -> tuple[float, float] | None:
    if not interval:
        return None
    return 100 * interval[0] / widest, 100 * (interval[1] - interval[0]) / widest
