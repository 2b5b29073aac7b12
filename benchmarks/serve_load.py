"""Load on a model server, REST or gRPC: latencies, errors, and what a version swap costs.

    python benchmarks/serve_load.py --server grpc://HOST:8500 [--rate 100] [--clients 8] [--duration 60]
    python benchmarks/serve_load.py --server http://HOST:8501 --swap runs/demo/models/recommender

Requests arrive at random moments (Poisson, `--rate` a second), whether or not earlier ones are answered, and a latency counts
from the moment at which its request was due: a server that stalls cannot hide the requests that it held up (coordinated
omission). `--clients` connections share them; a request that finds all of them busy waits, and its waiting counts. `--rate 0`
is the closed loop: each client asks as fast as it is answered. Nothing is tried again, so every failure is seen.

`--swap FOLDER` copies the newest version in FOLDER as the next one in the middle of the run, where a server that polls FOLDER
finds it, and prints failures and the p99 before and in the 60 s after. Works against TensorFlow Serving and the embedded server;
without `--server`, an embedded one is started on `--models`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from serve_process import ServerProcess

from serving.client import AsyncClient, CallError
from tfrec.console import console
from tfrec.errors import TfrecError
from tfrec.export.versions import next_version, versions

PERCENTILES = (50, 90, 95, 99, 99.9)
AFTER_SECONDS = 60.0
_BARS = 48
_HISTORY = 8


@dataclass
class Measured:
    """What came of the requests that were due after the warm-up.

    Args:
        due: seconds since the start, one a request.
        latency: seconds from then until the answer.
        errors: causes of failures, counted.
        seconds: of the whole run.
    """

    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def percentile(self, percent: float, begin: float = -np.inf, end: float = np.inf) -> float:
        """Milliseconds, of the requests due between `begin` and `end`."""
        due, latency = np.array(self.due), np.array(self.latency)
        chosen = latency[(due >= begin) & (due < end)]
        return float(np.percentile(chosen, percent) * 1000) if len(chosen) else float("nan")

    def summary(self) -> dict[str, Any]:
        """For people and for `--json`."""
        return {
            "requests": len(self.latency) + self.errors.total(),
            "failed": self.errors.total(),
            "errors": dict(self.errors),
            "requests_per_second": len(self.latency) / self.seconds,
            **{f"p{percent:g}_ms": self.percentile(percent) for percent in PERCENTILES},
            "max_ms": self.percentile(100),
        }


async def arrivals(rate: float, end: Callable[[], float], draw: np.random.Generator) -> AsyncIterator[float]:
    """Moments at which requests are due, in time with the clock of the loop, until `end`."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while due < end():
        await asyncio.sleep(max(due - loop.time(), 0))
        yield due
        due += draw.exponential(1 / rate)


class Load:
    """Clients that ask one server.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._draw = np.random.default_rng(options.seed)
        self._measured = Measured()
        self._begin = self._end = 0.0

    async def run(self, at_half: Callable[[], float] | None = None) -> tuple[Measured, float, float]:
        """Asks for `--duration` seconds after the warm-up.

        Args:
            at_half: called in a thread in the middle; returns a moment of `time.monotonic`. The run lasts a minute after it.

        Returns:
            What was measured, that moment, and the one at which `at_half` returned, in seconds since the start.
        """
        options, loop = self._options, asyncio.get_running_loop()
        clients = [
            AsyncClient(options.server, options.model, timeout=options.timeout, retries=0)
            for _ in range(options.clients)
        ]
        self._begin = loop.time() + options.warm_up
        end = self._begin + options.duration
        self._end = end if at_half is None else float("inf")
        asking = asyncio.create_task(self._open_loop(clients) if options.rate else self._closed_loop(clients))
        called, returned = 0.0, 0.0
        if at_half is not None:
            await asyncio.sleep(options.warm_up + options.duration / 2)
            called = await asyncio.to_thread(at_half) - self._begin
            returned = loop.time() - self._begin
            self._end = max(end, loop.time() + AFTER_SECONDS)
        await asking
        self._measured.seconds = loop.time() - self._begin
        for client in clients:
            await client.close()
        return self._measured, called, returned

    async def _open_loop(self, clients: list[AsyncClient]) -> None:
        idle: asyncio.LifoQueue[AsyncClient] = asyncio.LifoQueue()
        for client in clients:
            idle.put_nowait(client)

        async def ask(due: float) -> None:
            client = await idle.get()
            try:
                await self._ask(client, due)
            finally:
                idle.put_nowait(client)

        async with asyncio.TaskGroup() as group:
            async for due in arrivals(self._options.rate, lambda: self._end, self._draw):
                group.create_task(ask(due))

    async def _closed_loop(self, clients: list[AsyncClient]) -> None:
        loop = asyncio.get_running_loop()

        async def ask_on(client: AsyncClient) -> None:
            while loop.time() < self._end:
                await self._ask(client, loop.time())

        await asyncio.gather(*map(ask_on, clients))

    async def _ask(self, client: AsyncClient, due: float) -> None:
        history = [f"v{video:04d}" for video in self._draw.integers(self._options.videos, size=_HISTORY)]
        user = f"u{self._draw.integers(self._options.users):05d}"
        try:
            await client.recommend(user, history, k=self._options.k)
        except CallError as error:
            if due >= self._begin:
                self._measured.errors[f"{error.code}: {error.cause[:100]}"] += 1
            return
        if due >= self._begin:
            self._measured.due.append(due - self._begin)
            self._measured.latency.append(asyncio.get_running_loop().time() - due)


def histogram(latency: NDArray[np.float64]) -> list[str]:
    """A line of text for each step of the latencies; steps grow by a factor of about 1.5."""
    milliseconds = np.maximum(latency * 1000, 1e-3)
    low, high = np.log(milliseconds.min()), np.log(milliseconds.max() * 1.0001)
    edges = np.exp(np.linspace(low, high, max(2, int((high - low) / np.log(1.5)) + 2)))
    counts, _ = np.histogram(milliseconds, edges)
    return [
        f"  {begin:9.2f} – {end:9.2f} ms {count:8,} {'█' * max(round(_BARS * count / counts.max()), int(count > 0))}"
        for begin, end, count in zip(edges, edges[1:], counts, strict=False)
    ]


def show(measured: Measured, options: argparse.Namespace) -> None:
    summary = measured.summary()
    kind = f"{options.rate:g} requests/s, open loop" if options.rate else "closed loop"
    table = Table(title=f"{options.server}, {options.model}: {kind}, {options.clients} clients, {options.duration:g} s")
    names = ("requests", "failed", "requests_per_second", *(f"p{percent:g}_ms" for percent in PERCENTILES), "max_ms")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(
        *(f"{summary[name]:,}" if isinstance(summary[name], int) else f"{summary[name]:,.2f}" for name in names)
    )
    console.print(table)
    if measured.latency:
        console.print("\n".join(histogram(np.array(measured.latency))))
    for cause, count in measured.errors.items():
        console.print(f"  [red]{count:,} failed: {cause}[/red]")


def publish_copy(folder: Path) -> float:
    """The newest version once more, as the next; returns the moment at which it appeared."""
    version = next_version(folder)
    scratch = folder / f".{version}.building"
    shutil.copytree(folder / str(versions(folder)[-1]), scratch)
    scratch.rename(folder / str(version))
    return time.monotonic()


async def wait_for(options: argparse.Namespace, version: int) -> None:
    """Returns once the server answers with `version`; says so if it does not within the rest of the run."""
    async with AsyncClient(options.server, options.model, timeout=30) as client:
        for _ in range(1500):
            if any(row.version == version and row.state == "AVAILABLE" for row in await client.status()):
                return
            await asyncio.sleep(0.2)
    raise TfrecError(
        f"{options.server} has not loaded version {version} within five minutes. Does it poll {options.swap}?"
    )


def measure_swap(options: argparse.Namespace) -> dict[str, Any]:
    """Latency before a new version and in the minute after, and all failures."""
    options.duration = max(options.duration, 2 * AFTER_SECONDS)

    def swap() -> float:
        moment = publish_copy(options.swap)
        asyncio.run(wait_for(options, versions(options.swap)[-1]))
        return moment

    measured, published, serving = asyncio.run(Load(options).run(swap))
    show(measured, options)
    before = measured.percentile(99, published - AFTER_SECONDS, published)
    loading = measured.percentile(99, published, serving)
    after = measured.percentile(99, serving, serving + AFTER_SECONDS)
    console.print(
        f"swap to version {versions(options.swap)[-1]}, loaded in {serving - published:.1f} s: {measured.errors.total()} failed "
        f"requests; p99 {before:.2f} ms in the 60 s before, {loading:.2f} ms while it loads, {after:.2f} ms in the 60 s after; "
        f"after to before {after / before:.2f}"
    )
    return {**measured.summary(), "p99_before_ms": before, "p99_loading_ms": loading, "p99_after_ms": after}


def make_parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--server", metavar="URL", help="grpc://HOST:PORT or http://HOST:PORT (default: an embedded server is started)")
    add("--models", type=Path, default=Path("runs/demo/models"), help="that it serves (default: %(default)s)")
    add("--model", default="recommender", help="(default: %(default)s)")
    add(
        "--rate", type=float, default=100.0, help="requests a second; 0: as fast as answers come (default: %(default)s)"
    )
    add("--clients", type=int, default=8, help="connections (default: %(default)s)")
    add("--duration", type=float, default=60.0, metavar="SECONDS", help="(default: %(default)s)")
    add("--warm-up", type=float, default=5.0, metavar="SECONDS", help="not measured (default: %(default)s)")
    add("--timeout", type=float, default=10.0, metavar="SECONDS", help="of a request (default: %(default)s)")
    add("--k", type=int, default=10, help="slots (default: %(default)s)")
    add("--users", type=int, default=1500, help="asked for at random (default: %(default)s)")
    add("--videos", type=int, default=400, help="in histories at random (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--swap", type=Path, metavar="FOLDER", help="folder of the model, to which a version is added")
    add("--json", type=Path, metavar="FILE", help="where the figures go too")
    return parser


def main() -> int:
    options = make_parser().parse_args()
    with contextlib.ExitStack() as stack:
        if options.server is None:
            server = stack.enter_context(ServerProcess(options.models / options.model, options.model))
            options.server = server.grpc
            server.start()
        return run(options)


def run(options: argparse.Namespace) -> int:
    """Measures, prints, and returns the exit code."""
    try:
        if options.swap is not None:
            result = measure_swap(options)
        else:
            measured, _, _ = asyncio.run(Load(options).run())
            show(measured, options)
            result = measured.summary()
    except TfrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(json.dumps({**vars(options), **result}, default=str, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
