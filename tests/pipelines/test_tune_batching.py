"""The choice of batching parameters, and a run against a server."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from serving.embedded import config_files
from tfrec.errors import TfrecError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tuning() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_batching", ROOT / "pipelines" / "tune_batching.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timings(tuning: ModuleType, *milliseconds: float) -> list:
    return [tuning.Timing(2**power, value) for power, value in enumerate(milliseconds)]


def test_the_largest_size_that_pays_within_the_limit(tuning: ModuleType) -> None:
    """1, 2, 4, 8 requests in 2, 2.5, 4, 7.9 ms: 500, 800, 1000, 1013 a second; the last gains too little."""
    measured = timings(tuning, 2.0, 2.5, 4.0, 7.9)
    assert tuning.choose(measured, {1: 100.0}, 50).max_batch_size == 4
    assert tuning.choose(measured, {1: 100.0}, 3).max_batch_size == 2
    with pytest.raises(TfrecError, match=r"One request alone takes 2\.0 ms, over --latency 0\.1"):
        tuning.choose(measured, {1: 100.0}, 0.1)


def test_the_fewest_threads_near_the_best(tuning: ModuleType) -> None:
    assert tuning.choose(timings(tuning, 2.0), {1: 500, 2: 960, 4: 1000, 8: 990}, 50).num_batch_threads == 2


def test_the_wait_is_a_tenth_of_a_call_and_never_long(tuning: ModuleType) -> None:
    assert tuning.choose(timings(tuning, 2.0), {1: 1}, 50).batch_timeout_micros == 200
    assert tuning.choose(timings(tuning, 40.0), {1: 1}, 50).batch_timeout_micros == 2000


def test_measured_times_are_medians_of_calls(tuning: ModuleType) -> None:
    found = tuning.time_sizes(lambda size: time.sleep(0.002 * size), (1, 4), 0.1)
    assert [timing.size for timing in found] == [1, 4]
    assert 2 <= found[0].milliseconds < found[1].milliseconds
    assert tuning.throughput(lambda size: time.sleep(0.01), 2, 4, 0.2) > 200  # one thread would reach 2 / 0.01


def test_the_file_is_one_that_servers_read(tuning: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text(tuning.Choice(32, 150, 2).text())
    parameters = config_files.read_batching_parameters(str(path))
    assert (parameters.max_batch_size, parameters.batch_timeout_micros, parameters.num_batch_threads) == (32, 150, 2)


def test_what_is_not_there(tuning: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TfrecError, match="holds no published model"):
        tuning.tune(tuning.make_parser().parse_args(["--models", str(tmp_path)]))
    assert list(tmp_path.iterdir()) == []
