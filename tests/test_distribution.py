"""What `TF_CONFIG` and the options make of a run, and batches that cannot be shared out."""

import json
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import DistributionConfig
from tfrec.distribution import ONE_DEVICE, Distribution, open_distribution
from tfrec.errors import TfrecError
from tfrec.parameter_server import wait_while_alive
from tfrec.tf_config import is_server, read_cluster


@pytest.mark.parametrize(
    "described", ["", '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}']
)
def test_one_worker_is_one_device(described, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described)
    assert open_distribution(DistributionConfig()) == ONE_DEVICE


@pytest.mark.parametrize("described", ["{", "[]", '{"cluster": {"worker": 3}}', '{"cluster": [1]}'])
def test_a_broken_cluster_description_is_shown(described, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described)
    with pytest.raises(TfrecError, match=r"TF_CONFIG is no cluster description\. Received: "):
        open_distribution(DistributionConfig())


def test_many_workers_need_a_description(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(TfrecError, match="needs the environment variable TF_CONFIG"):
        open_distribution(DistributionConfig(strategy="multi_worker"))


WORKERS = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("cluster", "task", "strategy", "expected"),
    [
        (WORKERS, "worker", "one_device", ("multi_worker", False)),
        (WORKERS, "worker", "mirrored", ("mirrored", False)),
        ({"chief": ["c:1"], "ps": ["d:1"], **WORKERS}, "chief", "one_device", ("parameter_server", False)),
        ({"chief": ["c:1"], "ps": ["d:1"], **WORKERS}, "worker", "one_device", ("parameter_server", True)),
        ({"chief": ["c:1"], "ps": ["d:1"], **WORKERS}, "ps", "parameter_server", ("parameter_server", True)),
        ({"chief": ["c:1"], **WORKERS}, "worker", "multi_worker", ("multi_worker", False)),
    ],
)
def test_what_the_tasks_of_a_cluster_do(cluster, task, strategy, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": task, "index": 0}}))
    config = DistributionConfig(strategy=strategy)
    assert (read_cluster().strategy(config), is_server(config)) == expected


@pytest.mark.parametrize("lacking", ["chief", "worker", "ps"])
def test_parameter_servers_need_all_types_of_tasks(lacking, monkeypatch):
    cluster = {task: ["a:1"] for task in ("chief", "worker", "ps") if task != lacking}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(
        TfrecError, match=r"parameter_server` needs .* TF_CONFIG in every task, with a chief, workers and"
    ):
        open_distribution(DistributionConfig(strategy="parameter_server"))


def test_servers_wait_for_the_chief_and_end_when_it_stays_away():
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as chief:
        address = f"127.0.0.1:{chief.getsockname()[1]}"
        waiting = threading.Thread(target=wait_while_alive, args=(address, 0.3, 0.02))
        waiting.start()
        waiting.join(0.6)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()
    assert time.monotonic() - begin > 0.8


def test_batches_must_be_shared_out_equally():
    class Three(Distribution):
        num_replicas = 3

    Three().check_batch_size("retrieval.batch_size", 12)
    with pytest.raises(TfrecError, match=r"`retrieval.batch_size` must be a multiple .* 3, .* Received: 16."):
        Three().check_batch_size("retrieval.batch_size", 16)


def test_one_worker_asks_nobody():
    values = np.array([1.0, 2.0])
    assert ONE_DEVICE.from_chief(values) is values
    with pytest.raises(tf.errors.InternalError), ONE_DEVICE.noticing_lost_workers():
        raise tf.errors.InternalError(None, None, "not for want of a worker")
