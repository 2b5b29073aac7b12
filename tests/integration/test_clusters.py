"""Whole runs over many processes of this machine, parameter servers and Ray, whose workers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from clusters import free_addresses

ROOT = Path(__file__).parents[2]
EPOCHS = 6
OPTIONS = (
    f"--retrieval.epochs={EPOCHS}",
    f"--retrieval.patience={EPOCHS}",
    "--retrieval.batch_size=64",
    "--retrieval.query.history_length=10",
    "--ranking.epochs=2",
    "--ranking.batch_size=64",
    "--evaluation.bootstrap_samples=20",
    "--evaluation.baselines=[]",
    "--export.num_candidates=30",
    "--export.max_k=20",
)
SMALL_RANKER = (*OPTIONS, "--ranking.linear_dim=4", "--ranking.distilled_units=[8]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and videos of two kinds, who watch their own; most of the users have done nothing, but have rows in a table."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    user = np.repeat(np.arange(150), 20)
    video = 2 * draw.integers(30, size=len(user)) + (user + (draw.random(len(user)) < 0.1)) % 2
    timestamp = 1_700_000_000 + draw.integers(30 * 86_400, size=len(user))
    click = draw.random(len(user)) < 0.8
    log = {"user_id": user, "video_id": video, "timestamp": timestamp, "click": click.astype(int)}
    pd.DataFrame(log).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"user_id": np.arange(4000)}).to_csv(folder / "users.csv", index=False)
    pd.DataFrame({"video_id": np.arange(60)}).to_csv(folder / "videos.csv", index=False)
    return folder


def start(command: list[str], log: Path, tf_config: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("TF_CONFIG", None)
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )


def records(output: Path) -> list[dict[str, float]]:
    """Of the epochs of retrieval so far."""
    try:
        return json.loads((output / "checkpoints/retrieval/history.json").read_text())["records"]
    except FileNotFoundError:
        return []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)


def assert_whole(output: Path, first: dict[str, float]) -> None:
    """All epochs, of which the first is one that was trained before the kill."""
    trained = records(output)
    assert len(trained) == EPOCHS
    assert trained[0] == first
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["published"].keys() == {"recommender", "recommender_scann"}
    assert metrics["retrieval"]["recall@20"] > 0.5  # 20 of 60 videos by chance: 0.33


def test_two_devices_train_a_small_ranker_as_one_does(data: Path, tmp_path: Path) -> None:
    """On a linear model and the score of towers; nothing random, so that replicas draw nothing of their own."""
    options = [
        f"--data={data}",
        "--recipe=plain",
        "--retrieval.epochs=1",
        "--retrieval.batch_size=256",
        "--retrieval.dropout=0",
        "--retrieval.embedding_dim=8",
        "--retrieval.query.history_length=10",
        "--retrieval.query.user_id_dropout=0",
        "--retrieval.candidate.id_dropout=0",
        "--ranking.network=false",
        "--ranking.linear_dim=4",
        "--ranking.epochs=2",
        "--ranking.dropout=0",
        "--ranking.distilled_units=[8]",
    ]
    log = tmp_path / "log"
    program = str(Path(__file__).with_name("stages_on_devices.py"))
    assert start([program, str(tmp_path), *options], log).wait(600) == 0, log.read_text()[-3000:]
    losses = json.loads((tmp_path / "losses.json").read_text())
    for stage, expected in losses["one"].items():
        np.testing.assert_allclose(losses["two"][stage], expected, rtol=0, atol=1e-4, err_msg=stage)
    assert losses["one"]["distillation"][-1] < losses["one"]["distillation"][1]


def start_workers(log: Path, output: Path, *arguments: str) -> list[subprocess.Popen[bytes]]:
    """Two that train in step, the chief first."""
    cluster = free_addresses(worker=2)
    return [
        start(
            ["-m", "tfrec.train", *arguments, f"--output={output}"],
            log.with_suffix(f".{index}"),
            {"cluster": cluster, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    ]


def timeless(numbers: Any) -> Any:
    """All but times, at any depth."""
    if not isinstance(numbers, dict):
        return numbers
    return {name: timeless(value) for name, value in numbers.items() if "second" not in name}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers in step, with a ranker that has a linear model in it, and the small one that learns from it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = start_workers(folder / "log", folder / "run", *SMALL_RANKER, f"--data={data}")
    try:
        assert [process.wait(600) for process in processes] == [0, 0], (folder / "log.0").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0], ids=["worker", "chief"])
def test_workers_in_step_resume_after_one_was_killed(
    data: Path, undisturbed: Path, tmp_path: Path, victim: int
) -> None:
    """Nothing is lost, to the last bit."""
    options, output, log = [*SMALL_RANKER, f"--data={data}"], tmp_path / "run", tmp_path / "killed"
    processes = start_workers(log, output, *options)
    try:
        wait_for(lambda: len(records(output)) >= 2, processes[0], log.with_suffix(".0"))
        processes[victim].kill()
        assert processes[1 - victim].wait(300) != 0
        printed = log.with_suffix(f".{1 - victim}").read_text()
        assert "Traceback" not in printed
        assert printed.count("\nerror: A worker was lost or cannot be reached") == 1
        kept = records(output)
        assert 2 <= len(kept) < EPOCHS
        processes = start_workers(tmp_path / "resumed", output, *options, "--resume")
        assert [process.wait(600) for process in processes] == [0, 0], (tmp_path / "resumed.0").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    assert_whole(output, kept[0])
    assert records(output)[: len(kept) - 1] == kept[:-1]  # the checkpoint of the last one may not have been written yet
    for stage in ("retrieval", "ranking", "distillation"):
        histories = [folder / "checkpoints" / stage / "history.json" for folder in (output, undisturbed)]
        resumed, straight = (json.loads(path.read_text())["records"] for path in histories)
        assert [timeless(record) for record in resumed] == [timeless(record) for record in straight]
    resumed, straight = (json.loads((folder / "metrics.json").read_text()) for folder in (output, undisturbed))
    for name in ("retrieval", "ranking", "slate"):
        assert timeless(resumed[name]) == timeless(straight[name])


@pytest.mark.slow
def test_parameter_servers_outlive_a_worker_and_resume_after_the_chief(data: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    command = ["-m", "tfrec.train", *OPTIONS, "--strategy=parameter_server", f"--data={data}", f"--output={output}"]

    def start_all(*arguments: str) -> list[subprocess.Popen[bytes]]:
        cluster = free_addresses(chief=1, worker=2, ps=2)
        return [
            start([*command, *arguments], log, {"cluster": cluster, "task": {"type": task, "index": index}})
            for task, addresses in cluster.items()
            for index in range(len(addresses))
        ]

    processes = start_all()
    try:
        # The record stands a moment before the checkpoint does; an epoch that is repeated ends with other numbers.
        wait_for((output / "checkpoints/retrieval/last/checkpoint").exists, processes[0], log)
        (first, *_) = records(output)
        for process in processes:
            process.kill()
        processes = start_all("--resume")
        wait_for(lambda: len(records(output)) >= 3, processes[0], log)
        processes[1].send_signal(signal.SIGKILL)
        assert processes[0].wait(600) == 0, log.read_text()[-3000:]
        assert [process.wait(60) for process in processes[2:]] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    assert_whole(output, first)


@pytest.mark.slow
def test_ray_starts_lost_workers_again_and_they_resume(data: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    options = ["--num-workers=2", *OPTIONS, f"--data={data}", f"--output={output}"]
    process = start(["pipelines/train_ray.py", *options], log)
    try:
        wait_for(lambda: len(records(output)) >= 1, process, log)
        (first, *_) = records(output)
        os.kill(worker_processes(process.pid)[-1], signal.SIGKILL)
        assert process.wait(600) == 0, log.read_text()[-3000:]
    finally:
        process.terminate()
    assert_whole(output, first)
    assert not list(output.glob(".ray-*"))


def worker_processes(driver: int) -> list[int]:
    """Ids of the processes that train, of the local cluster that a driver has started."""
    children: dict[int, list[int]] = {}
    titles = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parent = int(status.split("PPid:")[1].split()[0])
        children.setdefault(parent, []).append(int(folder.name))
    family, found = [driver], []
    while family:
        family.extend(children.get(member := family.pop(), []))
        if b"RayTrainWorker" in titles[member]:
            found.append(member)
    return sorted(found)
