"""Baselines and oracle through the protocol, up to figures known from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tfrec.config import DataConfig, EvaluationConfig
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import Dataset, Interactions, Part
from tfrec.errors import TfrecError
from tfrec.evaluation.evaluate import EvaluationTask, make_task
from tfrec.evaluation.references import ORACLE_FILE, evaluate_baseline, evaluate_oracle, training_weights
from tfrec.models.baselines import BASELINES

QUICK = EvaluationConfig(bootstrap_samples=20)
DAY = 86_400


@pytest.fixture
def interactions() -> Interactions:
    """Three users; in training, video 0 was watched long ago by two, video 1 just now by one, videos 2 and 3 never."""
    user = np.array([0, 0, 1, 1, 2], np.int32)
    video = np.array([0, 2, 0, 3, 1], np.int32)
    day = np.array([10, 41, 10, 41, 40])
    part = np.array([Part.TRAIN, Part.TEST, Part.TRAIN, Part.TEST, Part.TRAIN], np.int8)
    return Interactions(user, video, day.astype(np.int64) * DAY, {}, part, 3, 4)


@pytest.fixture
def task(interactions: Interactions) -> EvaluationTask:
    return make_task(interactions, Part.TEST)


def test_training_weights_halve_with_age(interactions: Interactions) -> None:
    np.testing.assert_array_equal(training_weights(interactions).toarray(), [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    decayed = training_weights(interactions, half_life_days=15).toarray()  # 30 days before the last event of training
    np.testing.assert_allclose(decayed, [[0.25, 0, 0, 0], [0.25, 0, 0, 0], [0, 1, 0, 0]])


def test_a_baseline_says_why_it_was_skipped(interactions: Interactions, task: EvaluationTask) -> None:
    assert evaluate_baseline("content_knn", interactions, None, task, QUICK) == {
        "skipped": "the dataset has no content features"
    }
    timeless = Interactions(
        interactions.user, interactions.video, np.zeros(5, np.int64), {}, interactions.part, 3, 4
    )  # fmt: skip
    assert evaluate_baseline("recent_popularity", timeless, None, make_task(timeless, Part.TEST), QUICK) == {
        "skipped": "the log has no times"
    }


def test_settings_are_chosen_on_the_validation_part() -> None:
    """In training video 0 was watched three times long ago and video 1 once just now; 2 fills the first twenty with others."""
    videos = [0, 0, 0, 1, *range(2, 22), *range(2, 22)]
    days = [0, 0, 0, 40, *[36] * 20, *[36] * 20]
    held_out = {Part.VALIDATION: 1, Part.TEST: 0}
    video = np.array([*videos, *held_out.values()], np.int32)
    day = np.array([*days, 50, 60], np.int64)
    part = np.array([*[Part.TRAIN] * len(videos), *held_out], np.int8)
    user = np.arange(len(video), dtype=np.int32)
    log = Interactions(user, video, day * DAY, {}, part, len(user), 22)
    found = evaluate_baseline("recent_popularity", log, None, make_task(log, Part.TEST), QUICK)
    # A positive of 4 days ago counts less than half of one just now at a half-life below 4 days: then 1 is before those 20.
    assert found["settings"] == {"half_life_days": 1.0}
    assert found["recall@20"] == 0  # the test part, where 0 is looked for, was not asked


def test_a_block_holds_the_catalogue_and_its_slices(interactions: Interactions, task: EvaluationTask) -> None:
    block = evaluate_baseline("popularity", interactions, None, task, QUICK)
    assert block["users"] == 2
    assert block["recall@20"] == 1  # 4 videos, 20 slots
    assert block["cold_start"]["users"] == 2
    assert block["cold_start"]["candidates"] == 2
    assert block["warm"]["users"] == 0
    assert block["fit_seconds"] >= 0


def test_oracle_is_measured_like_the_rest(tmp_path: Path, task: EvaluationTask) -> None:
    assert evaluate_oracle(tmp_path, task, QUICK) is None
    np.save(tmp_path / ORACLE_FILE, np.array([[0, 0, 1, 0], [0, 0, 1, 2], [0, 0, 0, 0]], np.float16))
    oracle = evaluate_oracle(tmp_path, task, QUICK)
    assert oracle is not None
    assert oracle["mrr"] == 1


def test_oracle_of_another_catalogue_is_refused(tmp_path: Path, task: EvaluationTask) -> None:
    np.save(tmp_path / ORACLE_FILE, np.zeros((3, 7), np.float16))
    with pytest.raises(TfrecError, match="7 columns, 4 videos"):
        evaluate_oracle(tmp_path, task, QUICK)


@pytest.fixture(scope="module")
def tiktok(shared: Path) -> Dataset:
    return load_dataset(DataConfig(folder=shared / "data" / "tiktok"))


@pytest.fixture(scope="module")
def recall_on_tiktok(tiktok: Dataset) -> Callable[[str], float]:
    task = make_task(tiktok.interactions, Part.VALIDATION)
    assert len(task) == 3051

    def recall(name: str) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BASELINES[name], "settings", lambda content: ({},))  # the defaults are what is known
            return float(evaluate_baseline(name, tiktok.interactions, None, task, QUICK)["recall@20"])

    return recall


def test_popularity_on_tiktok_is_as_known(recall_on_tiktok: Callable[[str], float]) -> None:
    assert recall_on_tiktok("popularity") == pytest.approx(0.0626, abs=1e-4)


def test_ease_on_tiktok_is_as_known(recall_on_tiktok: Callable[[str], float]) -> None:
    # .0895 was measured with chance for the users without training events; ours are served what is popular.
    assert recall_on_tiktok("ease") == pytest.approx(0.0895, abs=1e-3)


def test_als_on_tiktok_is_a_baseline_worth_beating(recall_on_tiktok: Callable[[str], float]) -> None:
    assert recall_on_tiktok("als") > 0.08
