"""What a run says of itself: `metrics.json`, and `report.html` for people.

The page is one file: styles, charts and pictures are inside it, and it asks no server for anything. Everything that comes
from the dataset is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from tfrec.console import words
from tfrec.evaluation.charts import Bar, LineChart, bars, learning_curve, reliability_chart
from tfrec.evaluation.content import FUSED
from tfrec.run import atomic_file, write_json

MODEL = "this model"
ORACLE = "oracle"
SLICES = {"retrieval": "Whole catalogue", "warm": "Warm videos", "cold_start": "Cold videos"}
COMPARED = ("recall@20", "ndcg@20")
TABLE = (
    "recall@20",
    "ndcg@20",
    "hit_rate@10",
    "mrr",
    "coverage@20",
    "popularity_percentile@20",
    "gini@20",
    "cold_share@20",
)
CALIBRATION_LIMIT = 0.05
"""Expected calibration error above which the page complains."""

_INDEX_ROWS = {
    "recall_vs_exact@100": "recall@100 against exact search",
    "batch_1_ms": "ms per query, one at a time",
    "batch_32_ms": "ms per query, 32 at a time",
    "num_leaves": "leaves",
    "leaves_to_search": "leaves searched",
    "build_seconds": "seconds to build",
    "num_queries": "queries that measured it",
}

_TEMPLATES = Path(__file__).parent
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class SlateVideo:
    """A video as the report shows it.

    Args:
        video_id: its id.
        title: "" where it has none.
        thumbnail: a key frame as JPEG, or None.
        score: None in a history.
        probabilities: by label.
        reason: id of the history video that argued most for it, `popular`, `new`, or "".
        is_cold: whether nobody had watched it in training.
        is_relevant: whether the user did watch it in the held-out part.
    """

    video_id: str
    title: str = ""
    thumbnail: bytes | None = None
    score: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    is_cold: bool = False
    is_relevant: bool = False

    @property
    def label(self) -> str:
        """The title, or the id where there is none."""
        return self.title or self.video_id

    @property
    def picture(self) -> str | None:
        """The key frame as a data URI."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.thumbnail).decode()}" if self.thumbnail else None


@dataclass(frozen=True)
class ExampleSlate:
    """What one user had watched, oldest first, and what they were recommended, best first."""

    user_id: str
    history: Sequence[SlateVideo]
    slate: Sequence[SlateVideo]

    def because(self, video: SlateVideo) -> str:
        """The reason in words."""
        words = {"": "", "popular": "popular now", "new": "new"}
        titles = {past.video_id: past.label for past in self.history}
        return words.get(video.reason, f"because of “{titles.get(video.reason, video.reason)}”")


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes metrics.json atomically; NaN and infinity, which JSON does not know, become null.

    Args:
        path: the file.
        metrics: numbers, strings, lists and mappings, NumPy's among them.
    """
    write_json(path, _plain(metrics))


def _plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    dataset_summary: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    slates: Sequence[ExampleSlate],
    config: Mapping[str, Any],
) -> None:
    """Writes report.html atomically.

    Args:
        path: the file.
        metrics: what metrics.json holds; a missing block leaves its section out.
        dataset_summary: `Dataset.summary`; its `note`, if any, is shown on top.
        curves: records of the epochs, each with `loss` and what validation measured, by stage.
        slates: examples.
        config: the resolved configuration.
    """
    metrics = _plain(metrics)
    page = (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            metrics=metrics,
            dataset=_plain(dataset_summary),
            comparisons=_comparisons(metrics),
            methods=_methods(metrics),
            table_metrics=TABLE,
            skipped=_skipped(metrics),
            content_quality=bars("accuracy", metrics.get("content_quality", {}), {FUSED: "model"}),
            shortfalls=shortfalls(metrics, config),
            curves={stage: _curve_charts(records) for stage, records in curves.items()},
            reliability=_reliability_charts(metrics),
            indexes=_indexes(metrics.get("index", {})),
            index_rows=_INDEX_ROWS,
            slates=slates,
            config=yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True),
        )
    )
    with atomic_file(path) as file:
        file.write(page.encode())


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "duration": _duration, "words": words}
    return environment


def _methods(metrics: Mapping[str, Any], name: str = "retrieval") -> dict[str, Mapping[str, Any]]:
    """The model, the baselines from best to worst, and the oracle, as measured in one slice."""
    references = {**metrics.get("baselines", {}), ORACLE: metrics.get("oracle") or {}}
    blocks = {key: block if name == "retrieval" else block.get(name, {}) for key, block in references.items()}
    measured = {key: block for key, block in blocks.items() if COMPARED[0] in block}
    oracle = measured.pop(ORACLE, None)
    ordered = dict(sorted(measured.items(), key=lambda item: -item[1][COMPARED[0]]))
    return {MODEL: metrics.get(name, {}), **ordered, **({ORACLE: oracle} if oracle else {})}


def _comparisons(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per slice that was measured: its title, size, and the bars of each compared metric."""
    kinds = {MODEL: "model", ORACLE: "oracle"}
    measured = {name: title for name, title in SLICES.items() if metrics.get(name, {}).get("users")}
    return [
        {
            "title": title,
            "users": metrics[name]["users"],
            "candidates": metrics[name]["candidates"],
            "charts": _bar_charts(_methods(metrics, name), kinds),
        }
        for name, title in measured.items()
    ]


def _bar_charts(methods: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> dict[str, list[Bar]]:
    return {metric: bars(metric, methods, kinds) for metric in COMPARED}


def _skipped(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {name: block["skipped"] for name, block in metrics.get("baselines", {}).items() if "skipped" in block}


def shortfalls(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What falls short, in sentences: baselines ahead in a slice, a ranker without use, poor calibration or index.

    Args:
        metrics: what metrics.json holds. `ranking.retrieval_click_auc`, the AUC of the retrieval score alone, is what
            the ranker is held against.
        config: the resolved configuration, for the recall the index was asked for.
    """
    return [
        *_lost_slices(metrics),
        *_ranking_shortfalls(metrics.get("ranking", {})),
        *_index_shortfalls(metrics, config),
    ]


def _lost_slices(metrics: Mapping[str, Any]) -> list[str]:
    """One sentence per slice and metric in which a baseline is ahead."""
    sentences = (_loss(metrics, name, metric) for name in SLICES for metric in COMPARED)
    return [sentence for sentence in sentences if sentence]


def _loss(metrics: Mapping[str, Any], slice_name: str, metric: str) -> str | None:
    model = metrics.get(slice_name, {})
    methods = _methods(metrics, slice_name)
    ahead = [
        f"{words(name)} {_number(block[metric])}{_certainty(block, model, metric)}"
        for name, block in methods.items()
        if name not in (MODEL, ORACLE) and block[metric] > model.get(metric, math.inf)
    ]
    return f"{SLICES[slice_name]}, {metric} {_number(model[metric])}: ahead of it {_are(ahead)}." if ahead else None


def _are(names: Sequence[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def _certainty(block: Mapping[str, Any], model: Mapping[str, Any], metric: str) -> str:
    theirs, ours = block.get(f"{metric}_interval"), model.get(f"{metric}_interval")
    return " (intervals overlap)" if theirs and ours and theirs[0] <= ours[1] else ""


def _ranking_shortfalls(ranking: Mapping[str, Any]) -> list[str]:
    found = []
    ranker, retrieval = ranking.get("click_auc"), ranking.get("retrieval_click_auc")
    if ranker is not None and retrieval is not None and ranker <= retrieval:
        found.append(
            f"Ranking: the retrieval score alone orders clicks with AUC {_number(retrieval)}, the ranker with "
            f"{_number(ranker)}."
        )
    errors = {key.removesuffix("_ece"): value for key, value in ranking.items() if key.endswith("_ece")}
    return found + [
        f"Ranking: probabilities of {label} are off by {_number(error)} on average."
        for label, error in errors.items()
        if error is not None and error > CALIBRATION_LIMIT
    ]


def _index_shortfalls(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    reached, wanted = metrics.get("index", {}).get("recall_vs_exact@100"), config.get("index", {}).get("recall_target")
    if reached is None or wanted is None or reached >= wanted:
        return []
    return [f"Index: recall@100 against exact search is {_number(reached)}; {_number(wanted)} was asked for."]


def _indexes(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Figures of the index that is served, and of those measured beside it."""
    return [index, *(figures for figures in index.values() if isinstance(figures, Mapping))] if index else []


def _curve_charts(records: Sequence[Mapping[str, float]]) -> list[tuple[str, LineChart, str]]:
    """Per number of the records: its name, its chart, and its best value in words."""
    names = [name for name in (records[0] if records else {}) if name not in ("epoch", "seconds")]
    charts = []
    for name in names:
        values = [float(record.get(name, math.nan)) for record in records]
        lower = "loss" in name or name.endswith(("_ece", "kl", "reconstruction"))
        chart = learning_curve(values, lower)
        if chart:
            known = [value for value in values if math.isfinite(value)]
            best = min(known) if lower else max(known)
            charts.append((name, chart, f"best {_number(best)} at epoch {values.index(best) + 1}"))
    return charts


def _reliability_charts(metrics: Mapping[str, Any]) -> dict[str, LineChart]:
    suffix = "_reliability"
    tables = {key: value for key, value in metrics.get("ranking", {}).items() if key.endswith(suffix) and value}
    return {key.removesuffix(suffix): reliability_chart(table) for key, table in tables.items()}


def _number(value: Any) -> str:
    """A figure for people: thousands apart, four decimals up to one, no more digits than mean something."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
