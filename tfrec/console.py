"""What a person at a terminal sees: stages, progress with rates, tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tfrec.data.schema import LABELS

if TYPE_CHECKING:
    from tfrec.features.content import ContentFeatures

console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
"""Standard output; plain lines where it is no terminal."""

SECONDS_PER_LINE = 60.0
"""Between lines of progress, where there is no terminal."""

_NAMES = {
    "als": "ALS",
    "bpr": "BPR",
    "ease": "EASE",
    "ease_content": "EASE with content",
    "item_knn": "item kNN",
    "user_knn": "user kNN",
    "content_knn": "content kNN",
}

ProgressCallback = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """The rate so far, or nothing before the first unit."""
        return Text("" if task.speed is None else _rate(task.speed, task.fields["unit"]))


def _rate(speed: float, unit: str) -> str:
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"


def words(name: str) -> str:
    """A key of metrics.json as people write it."""
    return _NAMES.get(name, name.replace("_", " "))


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[ProgressCallback]:
    """A bar with count, rate and remaining time, gone when the work is done; where there is no terminal, a line a minute.

    Args:
        description: what is going on.
        unit: what is counted, in the plural.

    Yields:
        The callback that moves the bar.
    """
    if not console.is_terminal:
        yield _progress_lines(description, unit)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None, unit=unit)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _progress_lines(description: str, unit: str) -> ProgressCallback:
    """Prints a line when `SECONDS_PER_LINE` have passed since the last one, with the rate since then."""
    since = 0.0
    counted: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal since, counted
        now = time.monotonic()
        if counted is None or done < counted:
            since, counted = now, done  # a count begins: what an earlier run has done says nothing of the rate
        elif now - since >= SECONDS_PER_LINE:
            speed = (done - counted) / (now - since)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if speed > 0 else ""
            console.print(f"  {description}: {done:,} of {total:,} {unit}, {_rate(speed, unit)}{left}")
            since, counted = now, done

    return report


stage_seconds: dict[str, float] = {}
"""How long each stage of this process took."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    console.print(f"[bold]{name}[/bold]")
    start = time.monotonic()
    yield
    seconds = stage_seconds[name.lower().replace(" ", "_")] = time.monotonic() - start
    console.print(f"  [dim]{seconds:.1f} s[/dim]")


def show_dataset(summary: Mapping[str, Any], content: ContentFeatures) -> None:
    """What was read: sizes, columns with their kinds, modalities, rejects."""
    sizes = ", ".join(f"{summary[name]:,} {name}" for name in ("users", "videos", "interactions"))
    parts = ", ".join(f"{count:,} {name}" for name, count in summary["parts"].items())
    console.print(f"  {summary['name']}: {sizes} ({parts}), {summary['cold_videos']:,} cold videos")
    for block, wording in (("columns", "{name} ({note})"), ("ignored_columns", "{name} ignored ({note})")):
        for table, columns in summary[block].items():
            if columns:
                notes = (wording.format(name=name, note=note) for name, note in columns.items())
                console.print(f"  {table}: {', '.join(notes)}")
    for name, modality in content.modalities.items():
        shape = " x ".join(str(size) for size in modality.values.shape[1:])
        encoded = f", {content.encoded[name]:,} encoded now" if name in content.encoded else ""
        console.print(f"  {name} features: {(modality.lengths > 0).sum():,} videos, {shape}{encoded}")
    for group, reasons in summary["rejects"].items():
        counted = "; ".join(f"{count:,} x {reason}" for reason, count in reasons.items())
        console.print(f"  [yellow]rejected in {group}: {escape(counted)}[/yellow]")


def show_results(metrics: Mapping[str, Any], folder: Path) -> None:
    """The closing table: metrics against baselines, where things are, what to do next."""
    console.print(_comparison(metrics))
    validated = ", ".join(f"{name} {value:.4f}" for name, value in metrics["validation"].items())
    console.print(f"  retrieval on the validation part, without the cold-start head: {validated}")
    ranking, index = metrics["ranking"], metrics["index"]
    for label in LABELS:
        if ranking.get(f"{label}_auc") is not None:
            console.print(
                f"  ranking, {label}: AUC {_with_interval(ranking, f'{label}_auc')}, the retrieval score alone "
                f"{_with_interval(ranking, f'retrieval_{label}_auc')}; calibration error {ranking[f'{label}_ece']:.3f}"
            )
    for block, found in metrics.get("seeds", {}).items():
        figures = ", ".join(f"{name} {value['mean']:.4f} ± {value['deviation']:.4f}" for name, value in found.items())
        console.print(f"  over {len(next(iter(found.values()))['values'])} seeds, {block}: {figures}")
    slate = ", ".join(f"{name} {value:.4f}" for name, value in metrics["slate"].items() if "@" in name)
    console.print(f"  slates after ranking: {slate}")
    console.print(f"  index: {index['kind']}, recall@100 against exact search {index['recall_vs_exact@100']:.3f}")
    for name in ("report.html", "metrics.json", "models"):
        console.print(f"  {folder / name}")
    models = (folder / "models" / "recommender").resolve()
    command = f"python -m serving.server --model_name=recommender --model_base_path={models} --rest_api_port=8501"
    console.print(f"next: {command}", soft_wrap=True)


def _comparison(metrics: Mapping[str, Any]) -> Table:
    """Recall of the model, the baselines and the oracle, on all videos and its slices."""
    table = Table(title=f"recall@20 on the {metrics['dataset']['evaluated_on']} part, with 95 % intervals")
    table.add_column("")
    for column in ("all videos", "warm videos", "cold videos", "ndcg@20, all"):
        table.add_column(column, justify="right")
    model = {**metrics["retrieval"], "warm": metrics["warm"], "cold_start": metrics["cold_start"]}
    oracle = {"oracle": metrics["oracle"]} if "oracle" in metrics else {}
    for name, block in {"this model": model, **metrics["baselines"], **oracle}.items():
        recalls = [
            _with_interval(part, "recall@20") for part in (block, block.get("warm", {}), block.get("cold_start", {}))
        ]
        table.add_row(
            words(name), *recalls, _with_interval(block, "ndcg@20"), style="bold" if name == "this model" else None
        )
    return table


def _with_interval(block: Mapping[str, Any], name: str) -> str:
    """A number and its interval, or a dash."""
    value, interval = block.get(name), block.get(f"{name}_interval")
    if value is None:
        return "–"
    return f"{value:.4f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
