"""Mean and deviation over seeds."""

from __future__ import annotations

import pytest

from tfrec.evaluation.spread import spread


def test_means_and_sample_deviations_by_block() -> None:
    runs = [
        {"retrieval": {"recall@20": 0.1, "users": 9}, "cold_start": {"recall@20": None}, "ranking": {"click_auc": 0.7}},
        {"retrieval": {"recall@20": 0.2, "users": 9}, "cold_start": {}, "ranking": {"click_auc": 0.7}},
        {"retrieval": {"recall@20": 0.6, "users": 9}, "cold_start": {}, "ranking": {"click_auc": 0.7}},
    ]
    found = spread(runs)
    assert set(found) == {"retrieval", "ranking"}  # no run measured cold videos
    recall = found["retrieval"]["recall@20"]
    assert set(found["retrieval"]) == {"recall@20"}
    assert recall["values"] == [0.1, 0.2, 0.6]
    assert recall["mean"] == pytest.approx(0.3)
    assert recall["deviation"] == pytest.approx((0.14 / 2) ** 0.5)  # squares .04, .01 and .09, over two
    assert found["ranking"]["click_auc"]["deviation"] == pytest.approx(0)
