"""Geometry of the charts."""

from __future__ import annotations

import math

import pytest

from tfrec.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, bars, learning_curve, nice_ticks, reliability_chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 0.8, [0, 0.2, 0.4, 0.6, 0.8]),
        (0.031, 0.088, [0.02, 0.04, 0.06, 0.08, 0.1]),
        (5.1, 7.0, [5, 5.5, 6, 6.5, 7]),
        (3, 3, [3, 4]),
        (0, 0, [0, 0.5]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert high <= ticks[-1]
    assert ticks == pytest.approx(expected)


def test_learning_curve_spans_its_plot_and_marks_the_best_epoch() -> None:
    chart = learning_curve([4.0, 2.0, 0.0, 1.0], lower_is_better=True)
    assert chart is not None
    (first_x, first_y), (last_x, last_y) = chart.points[0], chart.points[-1]
    assert first_y == pytest.approx(TOP)
    assert last_x == pytest.approx(RIGHT)
    assert last_y == pytest.approx(BOTTOM - (BOTTOM - TOP) / 4)
    assert first_x < last_x
    assert chart.mark == chart.points[2]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3", "4"]
    assert [tick.label for tick in chart.y_ticks] == ["0", "1", "2", "3", "4"]


def test_learning_curve_marks_the_highest_where_higher_is_better() -> None:
    chart = learning_curve([0.1, 0.3, 0.2], lower_is_better=False)
    assert chart is not None
    assert chart.mark == chart.points[1]


def test_an_epoch_without_a_finite_value_is_left_out() -> None:
    chart = learning_curve([1.0, math.nan, 3.0], lower_is_better=True)
    assert chart is not None
    assert len(chart.points) == 2
    assert learning_curve([math.nan], lower_is_better=True) is None


def test_ticks_of_epochs_do_not_crowd() -> None:
    chart = learning_curve([float(epoch) for epoch in range(30)], lower_is_better=True)
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["1", "5", "10", "15", "20", "25", "30"]


def test_calibrated_probabilities_lie_on_the_diagonal() -> None:
    chart = reliability_chart([{"predicted": 0.1, "observed": 0.1}, {"predicted": 0.3, "observed": 0.4}])
    assert chart.diagonal == ((LEFT, BOTTOM), (RIGHT, TOP))
    shares = [((x - LEFT) / (RIGHT - LEFT), (BOTTOM - y) / (BOTTOM - TOP)) for x, y in chart.points]
    assert shares[0][0] == pytest.approx(shares[0][1]) == pytest.approx(0.25)  # axes end at .4
    assert shares[1] == pytest.approx((0.75, 1))


def test_bars_share_a_scale_that_holds_the_intervals() -> None:
    blocks = {
        "ours": {"recall@20": 0.2, "recall@20_interval": [0.1, 0.4]},
        "other": {"recall@20": 0.1},
        "unmeasured": {"skipped": "no times"},
    }
    ours, other = bars("recall@20", blocks, {"ours": "model"})
    assert (ours.kind, other.kind) == ("model", "baseline")
    assert (ours.width, other.width) == pytest.approx((50, 25))
    assert ours.interval == pytest.approx((25, 75))
    assert other.interval is None


def test_bars_of_zeros_have_no_width() -> None:
    assert [bar.width for bar in bars("recall@20", {"ours": {"recall@20": 0.0}}, {})] == [0]
