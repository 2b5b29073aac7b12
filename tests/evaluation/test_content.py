"""Nearest neighbours by content: worked examples, and fusion that finds out which modality to trust."""

import numpy as np
import pytest

from tfrec.data.schema import CategoricalColumn
from tfrec.evaluation.content import category_accuracy, category_column, fuse
from tfrec.features.content import ContentFeatures, Modality


def modality(values: np.ndarray, present: np.ndarray | None = None) -> Modality:
    lengths = np.ones(len(values), np.int32) if present is None else present.astype(np.int32)
    return Modality((values * lengths[:, None]).astype(np.float32), lengths)


def categories(codes) -> CategoricalColumn:
    return CategoricalColumn(np.array(codes, np.int32), tuple("abcdefgh"[: max(codes)]))


def test_worked_by_hand():
    # Two pairs of neighbours, one of one category; the fifth video lacks the modality, the sixth a category.
    values = np.array([[3.0], [2], [-3], [-2], [9], [9]]) + 7
    content = ContentFeatures({"text": modality(values, np.array([1, 1, 1, 1, 0, 1]))}, {})
    measured = category_accuracy(content, categories([1, 1, 1, 2, 1, 0]))
    # Three videos of the first category and one of the second: 3 * 2 of 4 * 3 pairs.
    assert measured == {"text": {"accuracy": 0.5, "chance": 0.5, "videos": 4}}


def test_a_sequence_is_known_by_its_mean_and_its_deviation():
    draw = np.random.default_rng(3)
    codes = np.repeat([1, 2], 20)
    values = draw.normal(size=(40, 30, 1)) * codes[:, None, None]  # one category varies twice as much over time
    lengths = draw.integers(20, 31, size=40).astype(np.int32)
    values[np.arange(30) >= lengths[:, None]] = 0
    content = ContentFeatures({"audio": Modality(values.astype(np.float16), lengths)}, {})
    measured = category_accuracy(content, categories(codes))["audio"]
    assert measured["accuracy"] > 0.9
    assert measured["chance"] == pytest.approx(19 / 39)


@pytest.fixture(scope="module")
def world() -> tuple[ContentFeatures, CategoricalColumn]:
    """Two modalities that know the category, each with a noise of its own, and one that knows nothing and is loud."""
    draw = np.random.default_rng(0)
    codes = draw.integers(1, 6, size=240)
    centres = draw.normal(size=(6, 8))
    seen = draw.random((2, 240)) < 0.7
    seen[0, ~seen.any(axis=0)] = True
    views = {
        name: modality(centres[codes] + draw.normal(size=(240, 8)), present)
        for name, present in (("text", seen[0]), ("video", seen[1]))
    }
    noise = modality(np.repeat(draw.normal(scale=50, size=(240, 2)), 4, axis=1))
    return ContentFeatures({**views, "audio": noise}, {}), categories(codes)


def test_fused_is_above_its_parts_and_above_chance(world):
    measured = category_accuracy(*world)
    text, video, audio, fused = (measured[name] for name in ("text", "video", "audio", "fused"))
    assert fused["videos"] == 240
    assert 150 < text["videos"] < 190
    assert audio["accuracy"] == pytest.approx(audio["chance"], abs=0.1)
    assert min(text["accuracy"], video["accuracy"]) > 0.4
    assert fused["accuracy"] > max(text["accuracy"], video["accuracy"])


def test_categories_do_not_reach_the_fusion(world):
    content, category = world
    shuffled = CategoricalColumn(np.random.default_rng(1).permutation(category.codes), category.vocabulary)
    fused = category_accuracy(content, shuffled)["fused"]
    assert fused["accuracy"] == pytest.approx(fused["chance"], abs=0.1)


def test_missing_pairs_do_not_count():
    one = np.array([[np.nan, 2, 0], [2, np.nan, 0], [0, 0, np.nan]], np.float32)
    two = np.array([[np.nan, np.nan, np.nan], [np.nan, np.nan, 4], [np.nan, 4, np.nan]], np.float32)
    fused = fuse([one, two])
    standard = (2 - one[np.isfinite(one)].mean()) / one[np.isfinite(one)].std()
    assert fused[0, 1] == pytest.approx(standard)
    assert np.isnan(np.diag(fused)).all()


def test_generation_metadata_is_not_what_a_video_shows(world):
    content, category = world
    told = modality(np.eye(9)[category.codes])
    with_metadata = ContentFeatures({**content.modalities, "generation": told}, {})
    assert category_accuracy(with_metadata, category) == category_accuracy(content, category)


def test_a_large_catalogue_is_sampled(world, monkeypatch):
    monkeypatch.setattr("tfrec.evaluation.content.MAX_VIDEOS", 50)
    assert 40 <= category_accuracy(*world)["audio"]["videos"] <= 50


def test_a_column_of_one_category_tells_nothing():
    columns = {"category": categories([1, 2, 0]), "same": categories([1, 1, 0])}
    assert category_column(columns, "category") is columns["category"]
    assert category_column(columns, "same") is None
    assert category_column(columns, "other") is None
