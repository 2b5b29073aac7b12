"""What a person at a terminal sees."""

import io

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from tfrec import console
from tfrec.data.rejects import RejectLog
from tfrec.features.content import ContentFeatures


@pytest.fixture
def screen(monkeypatch):
    """Standard output, as text, of a terminal."""
    text = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=text, force_terminal=True, width=100, color_system=None))
    return text


def test_stage_says_what_begins_and_how_long_it_took(screen):
    with console.stage("retrieval"):
        assert "retrieval" in screen.getvalue()
        assert " s" not in screen.getvalue()
    assert "0.0 s" in screen.getvalue()


def test_stage_lets_errors_pass(screen):
    with pytest.raises(ValueError, match="bad"), console.stage("retrieval"):
        raise ValueError("bad")
    assert " s" not in screen.getvalue()


def test_bar_shows_count_and_rate(screen):
    with console.progress_bar("features", "videos") as progress:
        progress(10, 40)
        progress(30, 40)
    shown = screen.getvalue()
    assert "features" in shown
    assert "30/40" in shown
    assert "videos/s" in shown


def test_where_there_is_no_terminal_a_line_a_minute_says_how_far_it_is(monkeypatch):
    """A resumed run: 400 were done before, so 600 in 60 s, then 61 in 61 s."""
    text, times = io.StringIO(), iter([1000.0, 1030.0, 1060.0, 1100.0, 1121.0])
    monkeypatch.setattr(console, "console", Console(file=text, width=100))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    with console.progress_bar("Scoring", "users") as progress:
        for done in (400, 900, 1000, 1050, 1061):
            progress(done, 100_000)
    assert text.getvalue().splitlines() == [
        "  Scoring: 1,000 of 100,000 users, 10 users/s, 2:45:00 left",
        "  Scoring: 1,061 of 100,000 users, 1 users/s, 1 day, 3:28:59 left",
    ]


def test_a_count_that_begins_anew_has_no_negative_rate(monkeypatch):
    """Two modalities: of the second, 30 in the minute since its first report."""
    text, times = io.StringIO(), iter([0.0, 59.0, 70.0, 130.0])
    monkeypatch.setattr(console, "console", Console(file=text, width=100))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    with console.progress_bar("features", "items") as progress:
        for done in (1, 150, 0, 30):
            progress(done, 150)
    assert text.getvalue().splitlines() == ["  features: 30 of 150 items, 0.5 items/s, 0:04:00 left"]


@pytest.mark.parametrize(
    ("units", "seconds", "text"),
    [(0, 0, ""), (123, 1000, "0.12 videos/s"), (994, 100, "9.9 videos/s"), (37_037, 3, "12,346 videos/s")],
)
def test_rate(units, seconds, text):
    now = 0.0
    progress = Progress(get_time=lambda: now, speed_estimate_period=1e6, disable=True)
    task = progress.add_task("features", total=100_000, unit="videos")
    progress.update(task, completed=1)
    now = float(seconds)
    if units:
        progress.update(task, completed=1 + units)
    assert console.RateColumn().render(progress.tasks[0]).plain == text


def test_what_was_rejected_is_counted_by_file(screen):
    rejects = RejectLog()
    rejects.add("videos.csv", np.arange(2), "bad duration")
    rejects.add("videos.csv", np.arange(3), "not [a, list]")
    rejects.add("v1.mp4", None, "the file is empty", "media")
    sizes = {"name": "films", "users": 1, "videos": 5, "interactions": 9, "parts": {"train": 9}, "cold_videos": 0}
    columns: dict[str, dict[str, dict[str, str]]] = {"columns": {}, "ignored_columns": {}}
    console.show_dataset({**sizes, **columns, "rejects": rejects.counts()}, ContentFeatures({}, {}))
    lines = screen.getvalue().splitlines()
    assert "  rejected in videos.csv: 3 x not [a, list]; 2 x bad duration" in lines
    assert "  rejected in media: 1 x the file is empty" in lines
