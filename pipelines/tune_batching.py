"""Finds the batching parameters of a server by measurement, and writes `batching.config`.

    python pipelines/tune_batching.py --models runs/demo/models                              the bare signature, in this process
    python pipelines/tune_batching.py --models runs/demo/models --server grpc://HOST:8500    a server without batching

Two things are measured. For each batch size, the time of one call: `max_batch_size` is the largest size that still adds at least
5 % of throughput and stays within `--latency` milliseconds. For each number of threads, the throughput of such calls at once:
`num_batch_threads` is the smallest number within 5 % of the best. `batch_timeout_micros`, how long a request waits for company,
follows: a tenth of what one call of one request takes, 2 ms at most. Waiting longer costs more than joining saves where traffic
is thin; where it is dense, batches fill while the threads are busy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

import numpy as np

from tfrec.errors import TfrecError

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
THREADS = (1, 2, 4, 8)
WORTHWHILE = 1.05
_HISTORY = 16
_LONGEST_MICROS = 2000
Ask = Callable[[int], object]
"""Sends a batch of that many requests and waits for the answer."""


class Timing(NamedTuple):
    """One batch size.

    Args:
        size: requests in a batch.
        milliseconds: median of one call.
    """

    size: int
    milliseconds: float

    @property
    def per_second(self) -> float:
        """Requests a second, one call after the other."""
        return self.size / self.milliseconds * 1000


class Choice(NamedTuple):
    """What `batching.config` says."""

    max_batch_size: int
    batch_timeout_micros: int
    num_batch_threads: int

    def text(self) -> str:
        """The file."""
        return _CONFIG.format(**self._asdict())


def choose(timings: Sequence[Timing], throughput: dict[int, float], latency_ms: float) -> Choice:
    """The parameters that measurements speak for.

    Args:
        timings: by ascending size, the first being 1.
        throughput: requests a second by number of threads.
        latency_ms: limit of one call.

    Raises:
        TfrecError: If one request alone takes longer.
    """
    best = timings[0]
    if best.milliseconds > latency_ms:
        raise TfrecError(
            f"One request alone takes {best.milliseconds:.1f} ms, over --latency {latency_ms:g}. Allow more, or measure on a "
            "machine that does nothing else."
        )
    for timing in timings[1:]:
        if timing.milliseconds <= latency_ms and timing.per_second >= WORTHWHILE * best.per_second:
            best = timing
    threads = min(count for count, rate in throughput.items() if rate * WORTHWHILE >= max(throughput.values()))
    return Choice(best.size, min(round(timings[0].milliseconds * 1000 / 10), _LONGEST_MICROS), threads)


def time_sizes(ask: Ask, sizes: Sequence[int], seconds: float) -> list[Timing]:
    """The median time of a call for each size, after one that does not count."""
    return [Timing(size, _median_ms(lambda size=size: ask(size), seconds)) for size in sizes]


def _median_ms(call: Callable[[], object], seconds: float) -> float:
    call()
    taken, end = [], time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1000)


def throughput(ask: Ask, size: int, threads: int, seconds: float) -> float:
    """Requests a second of calls made at once."""
    end = time.perf_counter() + seconds

    def repeat(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            ask(size)
            count += 1
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        calls = sum(pool.map(repeat, range(threads)))
    return calls * size / (time.perf_counter() - start)


def signature_call(models: Path, name: str) -> Ask:
    """Calls of `recommend` of the newest version that was not rolled back, loaded here; tensors are made before."""
    import tfrec  # noqa: F401  (before TensorFlow)

    import tensorflow as tf  # isort: skip

    from serving.remote import calls
    from tfrec.export.log_requests import tensors
    from tfrec.export.rollout import find_version

    loaded = tf.saved_model.load(str(find_version(models, name, None)))
    inputs = {size: tensors(calls.recommend(_queries(size)).inputs) for size in SIZES}
    return lambda size: loaded.signatures["recommend"](**inputs[size])["video_id"].numpy()


def server_call(address: str, name: str) -> Ask:
    """Calls to a server; it must not batch itself, or its own waiting is measured."""
    from serving.client import Client

    client = Client(address, name, timeout=60)
    queries = {size: _queries(size) for size in SIZES}
    return lambda size: client.recommend_batch(queries[size])


def _queries(size: int) -> list:
    from serving.remote.calls import Query

    return [Query(f"u{row:05d}", [f"v{row + event:04d}" for event in range(_HISTORY)]) for row in range(size)]


def show(timings: Sequence[Timing], rates: dict[int, float], choice: Choice) -> None:
    """The measurements as tables, what was chosen in bold."""
    from rich.table import Table

    from tfrec.console import console

    table = Table(title="one call at a time")
    for column in ("batch size", "ms a call", "requests/s"):
        table.add_column(column, justify="right")
    for timing in timings:
        style = "bold" if timing.size == choice.max_batch_size else None
        table.add_row(str(timing.size), f"{timing.milliseconds:.2f}", f"{timing.per_second:,.0f}", style=style)
    console.print(table)
    table = Table(title=f"calls of {choice.max_batch_size} at once")
    for column in ("threads", "requests/s"):
        table.add_column(column, justify="right")
    for threads, rate in rates.items():
        table.add_row(str(threads), f"{rate:,.0f}", style="bold" if threads == choice.num_batch_threads else None)
    console.print(table)


def tune(options: argparse.Namespace) -> None:
    """Measures, shows and writes.

    Raises:
        TfrecError: If there is no model or no server.
    """
    from tfrec.console import console
    from tfrec.run import atomic_file

    ask = (
        server_call(options.server, options.model) if options.server else signature_call(options.models, options.model)
    )
    timings = time_sizes(ask, SIZES, options.seconds)
    size = choose(timings, {1: 1.0}, options.latency).max_batch_size
    rates = {threads: throughput(ask, size, threads, options.seconds) for threads in THREADS}
    choice = choose(timings, rates, options.latency)
    show(timings, rates, choice)
    path = options.models / "batching.config"
    with atomic_file(path) as file:
        file.write(choice.text().encode())
    console.print(f"{path} written; servers read it when they start")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--models",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of published models; batching.config goes there",
    )
    add("--model", default="recommender", metavar="NAME", help="(default: %(default)s)")
    add("--server", metavar="URL", help="http://HOST:PORT or grpc://HOST:PORT instead of the bare signature")
    add("--latency", type=float, default=50.0, metavar="MS", help="limit of one call (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="for each measurement (default: %(default)s)")
    return parser


_CONFIG = """\
# For tensorflow_model_server --enable_batching --batching_parameters_file=; written by pipelines/tune_batching.py. Requests join
# a batch only if `history` and `exclude` are equally wide: let clients pad them, as serving.client does. Never set
# pad_variable_length_inputs: it repeats the first element, which would lengthen histories.
max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {batch_timeout_micros} }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: {num_batch_threads} }}
"""


if __name__ == "__main__":
    try:
        tune(make_parser().parse_args())
    except TfrecError as error:
        sys.exit(f"error: {error}")
