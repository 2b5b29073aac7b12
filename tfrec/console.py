"""What a person at a terminal sees: stages, progress with rates, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(highlight=False)
"""Standard output; plain lines where it is no terminal."""

ProgressCallback = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """The rate so far, or nothing before the first unit."""
        if task.speed is None:
            return Text("")
        return Text(
            f"{task.speed:,.0f} {task.fields['unit']}/s"
            if task.speed >= 10
            else f"{task.speed:.2g} {task.fields['unit']}/s"
        )


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[ProgressCallback]:
    """A bar with count, rate and remaining time, gone when the work is done.

    Args:
        description: what is going on.
        unit: what is counted, in the plural.

    Yields:
        The callback that moves the bar.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None, unit=unit)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    start = time.monotonic()
    console.print(f"[bold]{name}[/bold]")
    yield
    console.print(f"  [dim]{time.monotonic() - start:.1f} s[/dim]")
