"""Load on a real port: arrivals, latencies from the moment a request is due, failures, the histogram."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SLATE = {"video_id": [["a"]], "score": [[1.0]], "click": [[0.5]], "finish": [[0.5]], "like": [[0.5]]}
ANSWER = {"outputs": {**SLATE, "reason": [["new"]], "is_cold": [[True]]}}


@pytest.fixture(scope="module")
def load(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("serve_load")


@contextmanager
def answering(stall: float, statuses: dict[int, int]) -> Iterator[str]:
    """A server whose third answer takes `stall` seconds; `statuses` of the n-th request are other than 200."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal count
            count += 1
            number = count
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(stall if number == 3 else 0)
            body = json.dumps(ANSWER).encode()
            self.send_response(statuses.get(number, 200))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def options(load: ModuleType, server: str, *more: str) -> object:
    return load.make_parser().parse_args(["--server", server, "--duration", "2", "--warm-up", "0", *more])


def test_a_stall_counts_for_every_request_that_was_due_meanwhile(load: ModuleType) -> None:
    """One client, 30 requests a second, a stall of one second: some 30 requests were due and waited half a second on average."""
    with answering(1.0, {}) as server:
        measured, _, _ = asyncio.run(load.Load(options(load, server, "--clients", "1", "--rate", "30")).run())
    assert not measured.errors
    assert 30 < len(measured.latency) < 100
    assert sum(latency > 0.25 for latency in measured.latency) > 8  # the closed loop would see one


def test_the_run_lasts_until_after_the_swap_however_long_that_takes(
    load: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "AFTER_SECONDS", 1.0)

    def swap() -> float:
        moment = time.monotonic()
        time.sleep(2.5)
        return moment

    with answering(0, {}) as server:
        run = load.Load(options(load, server, "--clients", "2", "--rate", "30")).run(swap)
        measured, published, serving = asyncio.run(run)
    assert 1 <= published < serving - 2.4
    assert all(np.isfinite([measured.percentile(99, 0, published), measured.percentile(99, serving, serving + 1)]))


def test_failures_are_counted_and_not_tried_again(load: ModuleType) -> None:
    with answering(0, {2: 503, 4: 400}) as server:
        measured, _, _ = asyncio.run(load.Load(options(load, server, "--clients", "2", "--rate", "0")).run())
    summary = measured.summary()
    assert summary["failed"] == 2
    assert {cause.split(":")[0] for cause in summary["errors"]} == {"UNAVAILABLE", "INVALID_ARGUMENT"}
    assert summary["requests"] == len(measured.latency) + 2


def test_arrivals_are_random_at_the_rate_wanted(load: ModuleType) -> None:
    async def collect() -> list[float]:
        loop = asyncio.get_running_loop()
        end = loop.time() + 1.0
        return [due async for due in load.arrivals(1000.0, lambda: end, np.random.default_rng(0))]

    gaps = np.diff(asyncio.run(collect()))
    assert 0.0008 < gaps.mean() < 0.0012
    assert 0.8 < gaps.std() / gaps.mean() < 1.2  # of an exponential distribution, both are equal


def test_percentiles_of_a_part_of_the_run(load: ModuleType) -> None:
    measured = load.Measured(due=[0.0, 1.0, 2.0, 3.0], latency=[0.001, 0.002, 0.1, 0.2], seconds=4.0)
    assert measured.percentile(50, 0, 2) == pytest.approx(1.5)
    assert measured.percentile(100, 2, 4) == pytest.approx(200)
    assert np.isnan(measured.percentile(50, 9))


def test_the_histogram_counts_every_latency_once(load: ModuleType) -> None:
    latency = np.array([0.001] * 5 + [0.1] * 3)
    counts = [int(line.split("ms")[1].split()[0]) for line in load.histogram(latency)]
    assert (sum(counts), counts[0], counts[-1]) == (8, 5, 3)


def test_a_copy_is_the_next_version(load: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "saved_model.pb").write_text("model")
    load.publish_copy(tmp_path)
    assert (tmp_path / "5" / "saved_model.pb").read_text() == "model"
