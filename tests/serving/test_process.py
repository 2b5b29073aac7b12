"""`python -m serving.server` as a process: start, drain, failure."""

from __future__ import annotations

import ast
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "serving.server"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _process(base_path: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = _free_port()
    arguments = ["--port=0", f"--rest_api_port={port}", "--model_name=m", f"--model_base_path={base_path}", *flags]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        yield process, f"http://127.0.0.1:{port}/v1/models/m"
    finally:
        process.kill()
        process.communicate()


def _wait_until_open(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


def test_sigterm_lets_requests_end_and_takes_no_more(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "offset_1", tmp_path / "1")
    with _process(tmp_path) as (process, url), ThreadPoolExecutor(4) as pool:
        _wait_until_open(url)
        slow = {"signature_name": "slow", "instances": [1.0]}
        answers = [pool.submit(requests.post, f"{url}:predict", json=slow, timeout=30) for _ in range(4)]
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        assert [answer.result().json() for answer in answers] == [{"predictions": [1.0]}] * 4
        assert process.wait(20) == 0
        assert process.stderr is not None
        lines = process.stderr.read().decode().splitlines()
        assert all(" INFO " in line for line in lines), lines  # nothing of what TensorFlow says to itself
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)


def test_a_model_that_cannot_load_stops_the_start(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "offset_1", tmp_path / "1")
    shutil.copytree(models / "broken", tmp_path / "2")
    with _process(tmp_path, "--max_num_load_retries=0") as (process, _):
        _, log = process.communicate(timeout=60)
        assert process.returncode == 255
        assert (
            b"Failed to start server. Error: UNKNOWN: 1 model(s) did not become available: {{{name: m version: 2}"
            in log
        )


def _imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


CLIENT_MAY = ("tfrec.errors", "tfrec.console", "tfrec.config", "tfrec.data.schema", "tfrec.media")


def test_serving_imports_nothing_that_trains() -> None:
    files = list((ROOT / "serving").rglob("*.py"))
    assert len(files) > 10
    for file in files:
        ours = {name for name in _imported(file) if name.split(".")[0] in ("tfrec", "pipelines", "tf_keras")}
        is_server = file.parent.name == "embedded" or file.name == "server.py"
        assert not [name for name in ours if is_server or not name.startswith(CLIENT_MAY)], file


@pytest.mark.parametrize("flags", [[], ["--model_base_path=/m", "--no_such_flag=1"], ["--enable_batching=maybe"]])
def test_flags_that_do_not_fit(flags: list[str]) -> None:
    run = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "usage: python -m serving.server" in run.stderr
