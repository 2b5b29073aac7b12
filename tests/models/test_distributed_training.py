"""Training by two workers on one machine, and on two devices of one process, against training on one device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import free_addresses

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("distributed_training.py")


def start(arguments: list[str], tf_config: dict[str, Any] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "TFREC_ROOT": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    environment.pop("TF_CONFIG", None)
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_workers(arguments: list[str], **tasks: int) -> list[subprocess.Popen[str]]:
    """Tasks on free loopback ports, two workers if nothing else is said; in the order of their types and indices."""
    cluster = free_addresses(**tasks or {"worker": 2})
    return [
        start(arguments, {"cluster": cluster, "task": {"type": task, "index": index}})
        for task, addresses in cluster.items()
        for index in range(len(addresses))
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """What each process printed."""
    results = []
    try:
        for process in processes:
            printed, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]
            results.append(json.loads(printed.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return results


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for kind, numbers in expected.items():
        np.testing.assert_allclose(result[kind]["losses"], numbers["losses"], rtol=0, atol=1e-4, err_msg=kind)
        np.testing.assert_allclose(result[kind]["weights"], numbers["weights"], rtol=0.01, atol=0.01, err_msg=kind)


ALL = "events,sequences,ranking"


def assert_workers_learn_what_one_does(kinds: str, folder: Path) -> None:
    expected = finish([start([kinds, str(folder / "one"), "one_device", "2"])])[0]
    for result in finish(start_workers([kinds, str(folder / "two"), "one_device", "2"])):
        assert_same(result, expected)


def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    """In-batch and uniform negatives, masked positives, weight penalty and alignment included."""
    assert_workers_learn_what_one_does("events", tmp_path)
    # The chief alone has written.
    assert sorted(path.name for path in (tmp_path / "two/events").iterdir()) == ["best", "history.json", "last"]


@pytest.mark.slow
def test_two_workers_learn_what_one_does_from_sequences_and_labels(tmp_path: Path) -> None:
    """Targets and labels that are not equally many in the shares; batch normalisation."""
    assert_workers_learn_what_one_does("sequences,ranking", tmp_path)


@pytest.mark.slow
def test_two_devices_learn_what_one_does(tmp_path: Path) -> None:
    (expected,) = finish([start([ALL, str(tmp_path / "one"), "one_device", "2"])])
    (result,) = finish([start([ALL, str(tmp_path / "two"), "mirrored", "2"])])
    assert_same(result, expected)


@pytest.mark.slow
def test_steps_are_handed_out_over_parameter_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table larger than two shards lies on both servers; of two workers one is killed; servers end with the chief."""
    users, epochs = 20_000, 12
    monkeypatch.setenv("TFREC_KNOWN_USERS", str(users))
    chief, *workers, first, second = start_workers(
        ["events", str(tmp_path), "parameter_server", str(epochs)], chief=1, worker=2, ps=2
    )
    try:
        while not (tmp_path / "events/history.json").exists() and chief.poll() is None:
            time.sleep(0.05)
        workers[1].send_signal(signal.SIGKILL)
        (result,) = finish([chief])
        assert workers[0].wait(60) == first.wait(60) == second.wait(60) == 0
    finally:
        for process in (*workers, first, second):
            process.kill()
    losses, devices = result["events"]["losses"], result["events"]["devices"]
    assert len(losses) == epochs
    assert losses[-1] < 0.9 * losses[0]
    shards = {place: shape for shape, place in devices if shape[0] > users // 3}
    assert sorted(place.split("/")[3] for place in shards) == ["task:0", "task:1"]
    assert all(place.startswith("/job:ps/") for _, place in devices)
    assert sum(shape[0] for shape in shards.values()) == users + 1
