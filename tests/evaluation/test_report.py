"""metrics.json and report.html."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tfrec.config import BaselineName
from tfrec.evaluation.report import ExampleSlate, SlateVideo, shortfalls, write_metrics, write_report

JPEG = b"\xff\xd8\xff\xe0 not much of a picture"


def measured(recall: float, ndcg: float, spread: float = 0.01) -> dict[str, Any]:
    return {
        "recall@20": recall,
        "recall@20_interval": [recall - spread, recall + spread],
        "ndcg@20": ndcg,
        "ndcg@20_interval": [ndcg - spread, ndcg + spread],
        "users": 50,
        "candidates": 200,
        "evaluated_on": "test",
    }


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "retrieval": measured(0.30, 0.20),
        "warm": measured(0.31, 0.21),
        "cold_start": measured(0.10, 0.05),
        "baselines": {
            "popularity": {**measured(0.10, 0.05), "warm": measured(0.10, 0.05), "cold_start": measured(0.02, 0.01)},
            "content_knn": {**measured(0.05, 0.02), "warm": measured(0.05, 0.02), "cold_start": measured(0.09, 0.04)},
            "ease": {"skipped": "the catalogue is <too> large"},
        },
        "oracle": {**measured(0.60, 0.50), "warm": measured(0.60, 0.50), "cold_start": measured(0.40, 0.30)},
        "ranking": {
            "click_auc": 0.8,
            "click_auc_interval": [0.79, 0.81],
            "retrieval_click_auc": 0.7,
            "click_logloss": 0.4,
            "click_ece": 0.01,
            "click_rate": 0.2,
            "click_events": 900,
            "click_reliability": [{"predicted": 0.1, "observed": 0.1, "events": 900}],
        },
        "index": {
            "kind": "exact",
            "recall_vs_exact@100": 1.0,
            "batch_32_ms": 0.25,
            "scann": {"kind": "scann", "recall_vs_exact@100": 0.97, "batch_32_ms": 0.125},
        },
        "seconds": {"retrieval": 75.0, "export": 3.21},
        "examples_per_second": 12345.6,
    }


@pytest.fixture
def slate() -> ExampleSlate:
    past = SlateVideo("v1", "猫弹钢琴", JPEG)
    best = SlateVideo("v2", "<script>alert(1)</script>", None, 0.9, {"click": 0.25}, "v1", is_relevant=True)
    return ExampleSlate("<img src=x>", [past], [best, SlateVideo("v3", reason="new", is_cold=True)])


SUMMARY = {"name": "demo", "users": 50, "videos": 200, "positives": 4000, "parts": {"train": 3000, "test": 1000}}
CURVES = {"retrieval": [{"epoch": 0, "loss": 2.0, "recall@20": 0.1}, {"epoch": 1, "loss": 1.0, "recall@20": 0.3}]}


class Page(HTMLParser):
    """Text, tags and attributes of a page; raises where tags do not close in order."""

    VOID = frozenset({"meta", "img", "line", "polyline", "circle"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} " if "style" not in self.open else ""


def page_of(folder: Path, *arguments: Any) -> Page:
    write_report(folder / "report.html", *arguments)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_indexes_stand_side_by_side(tmp_path: Path, metrics: dict[str, Any]) -> None:
    text = page_of(tmp_path, metrics, SUMMARY, CURVES, [], {}).text.split()
    shown = " ".join(text)
    assert (
        "Index exact scann recall@100 against exact search 1.0000 0.9700 ms per query, 32 at a time 0.2500 0.1250"
        in shown
    )
    assert "{'" not in shown


def test_methods_have_the_names_of_the_field(tmp_path: Path, metrics: dict[str, Any]) -> None:
    metrics["baselines"] = {name: measured(0.1, 0.1) for name in get_args(BaselineName)}
    shown = page_of(tmp_path, metrics, SUMMARY, CURVES, [], {}).text
    for name in ("recent popularity", "item kNN", "user kNN", "ALS", "BPR", "EASE", "EASE with content", "content kNN"):
        assert f" {name} " in shown


def test_metrics_are_json_without_nan(tmp_path: Path) -> None:
    write_metrics(
        tmp_path / "metrics.json",
        {
            "auc": float("nan"),
            "worst": np.float32(np.inf),
            "users": np.int64(3),
            "ends": np.array([0.5, np.nan]),
            "folder": Path("data"),
            "ok": True,
            "none": None,
        },
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "auc": None,
        "worst": None,
        "users": 3,
        "ends": [0.5, None],
        "folder": "data",
        "ok": True,
        "none": None,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_page_shows_what_was_measured(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    summary = {**SUMMARY, "rejects": {"interactions": {"bad date": 3}}}
    page = page_of(tmp_path, metrics, summary, CURVES, [slate], {"seed": 1, "data": {"folder": Path("videos")}})
    text = " ".join(page.text.split())
    assert "Recall@20, whole catalogue 0.3000 0.2900 – 0.3100" in text
    assert "50 % of the oracle" in text
    assert "Nothing falls short" in text
    assert "EASE was left out: the catalogue is <too> large." in text
    assert "best 1.0000 at epoch 2" in text
    assert "best 0.3000 at epoch 2" in text
    assert "1 min 15 s" in text
    assert "folder: videos" in text
    assert "bad date 3" in text
    assert page.tags.count("svg") == 3  # loss, recall and one reliability plot


def test_page_asks_nobody_for_anything(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    page = page_of(tmp_path, metrics, SUMMARY, CURVES, [slate], {})
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    sources = [value or "" for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    source = (tmp_path / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?://", source)


def test_pictures_are_inside_the_page(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    page = page_of(tmp_path, metrics, SUMMARY, {}, [slate], {})
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert pictures == ["data:image/jpeg;base64," + base64.b64encode(JPEG).decode()]


def test_what_comes_from_the_dataset_is_text(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    summary = {**SUMMARY, "name": '"><b>name', "note": "<i>note", "columns": {"videos": {"<u>": "text (inferred)"}}}
    page = page_of(tmp_path, metrics, summary, {}, [slate], {"note": "</pre><em>"})
    assert not {"script", "em", "u"} & set(page.tags)
    for text in (
        "<script>alert(1)</script>",
        "User <img src=x>",
        "猫弹钢琴",
        '"><b>name',
        "<i>note",
        "<u>",
        "</pre><em>",
    ):
        assert text in page.text


def test_slates_as_shown_are_measured(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    shown = {"recall@20": 0.123, "cold_share@20": 0.045, "users": 77}
    page = page_of(tmp_path, metrics | {"slate": shown}, SUMMARY, {}, [slate], {})
    assert "cold share@20 0.0450" in " ".join(page.text.split())


def test_slates_give_reasons_and_badges(tmp_path: Path, metrics: dict[str, Any], slate: ExampleSlate) -> None:
    page = page_of(tmp_path, metrics, SUMMARY, {}, [slate], {})
    assert "because of “猫弹钢琴”" in page.text
    badges = [value for _, name, value in page.attributes if name == "class" and (value or "").startswith("badge")]
    assert sorted(badges) == ["badge", "badge hit", "badges", "badges"]  # one cold, one watched later
    assert slate.because(slate.slate[1]) == "new"
    assert slate.because(replace(slate.slate[1], reason="popular")) == "popular now"
    assert slate.because(replace(slate.slate[1], reason="v77")) == "because of “v77”"


@pytest.mark.parametrize("kept", [(), ("retrieval",), ("retrieval", "baselines"), ("ranking",), ("seconds", "index")])
def test_page_of_a_run_without_some_stages(tmp_path: Path, metrics: dict[str, Any], kept: tuple[str, ...]) -> None:
    page = page_of(tmp_path, {key: metrics[key] for key in kept}, {"name": "ids only"}, {"ranking": []}, [], {})
    assert "ids only" in page.text
    assert ("Against the baselines" in page.text) == ("retrieval" in kept)
    assert "Learning curves" not in page.text


def test_a_slice_without_users_is_left_out(tmp_path: Path, metrics: dict[str, Any]) -> None:
    nobody = {"users": 0, "candidates": 0, "evaluated_on": "test"}
    metrics["cold_start"] = nobody
    for block in ("popularity", "content_knn"):
        metrics["baselines"][block]["cold_start"] = nobody
    page = page_of(tmp_path, metrics, SUMMARY, {}, [], {})
    assert "Cold videos" not in page.text
    assert "Warm videos" in page.text


def test_nothing_falls_short_where_the_model_is_ahead_everywhere(metrics: dict[str, Any]) -> None:
    assert shortfalls(metrics, {"index": {"recall_target": 0.95}}) == []


def test_baselines_that_are_ahead_are_named_with_their_certainty(metrics: dict[str, Any]) -> None:
    metrics["baselines"]["popularity"] |= measured(0.31, 0.10)
    metrics["baselines"]["als"] = {**measured(0.40, 0.10), "warm": measured(0.1, 0.1), "cold_start": measured(0, 0)}
    metrics["baselines"]["content_knn"]["cold_start"] = measured(0.10, 0.06, spread=0.001)
    assert shortfalls(metrics, {}) == [
        "Whole catalogue, recall@20 0.3000: ahead of it are ALS 0.4000, popularity 0.3100 (intervals overlap).",
        "Cold videos, ndcg@20 0.0500: ahead of it is content kNN 0.0600 (intervals overlap).",
    ]


def test_a_ranker_without_use_poor_calibration_and_a_weak_index_are_named(metrics: dict[str, Any]) -> None:
    metrics["ranking"] |= {"retrieval_click_auc": 0.81, "like_ece": 0.2}
    metrics["index"]["recall_vs_exact@100"] = 0.9
    assert shortfalls(metrics, {"index": {"recall_target": 0.95}}) == [
        "Ranking: the retrieval score alone orders clicks with AUC 0.8100, the ranker with 0.8000.",
        "Ranking: probabilities of like are off by 0.2000 on average.",
        "Index: recall@100 against exact search is 0.9000; 0.9500 was asked for.",
    ]


def test_metrics_that_are_nan_make_a_page(tmp_path: Path, metrics: dict[str, Any]) -> None:
    metrics["ranking"] = {"click_auc": float("nan"), "click_ece": float("nan"), "click_reliability": []}
    assert "AUC of clicks" not in page_of(tmp_path, metrics, SUMMARY, {}, [], {}).text


def test_page_shows_what_content_features_know(tmp_path: Path, metrics: dict[str, Any]) -> None:
    quality = {
        "text": {"accuracy": 0.5, "chance": 0.1, "videos": 40},
        "fused": {"accuracy": 0.625, "chance": 0.125, "videos": 50},
    }
    page = page_of(tmp_path, {**metrics, "content_quality": quality}, SUMMARY, CURVES, [], {})
    assert "What content features know" in page.text
    for words in ("text", "0.5000", "chance 0.1000, 40 videos", "fused", "0.6250", "chance 0.1250, 50 videos"):
        assert words in " ".join(page.text.split()), words
    assert "What content features know" not in page_of(tmp_path, metrics, SUMMARY, CURVES, [], {}).text
