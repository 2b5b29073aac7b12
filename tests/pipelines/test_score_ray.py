"""`pipelines/score.py --engine ray`: the bytes of the local engine, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from score_jobs import run_job, shards

from tfrec.errors import TfrecError

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes on this machine with one CPU each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def worker_processes() -> list[int]:
    """Ids of the processes of this cluster's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::ShardWorker"):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_worker_and_a_node_that_die_lose_nothing_and_double_nothing(
    cluster: Cluster, models: Path, data: Path, tmp_path: Path
) -> None:
    options = {"data": data, "batch_size": 2, "shard_size": 2}
    run_job(models, "all", tmp_path / "local", **options)
    (second,) = cluster.worker_nodes

    def disturb(done: int, total: int) -> None:
        while 0 < done < 8 and len(worker_processes()) < 2:
            time.sleep(0.1)
        if done == 8:
            os.kill(worker_processes()[0], signal.SIGKILL)
        if done == 16:
            cluster.remove_node(second, allow_graceful=False)

    on_cluster = {"engine": "ray", "address": cluster.address, **options}
    manifest = run_job(models, "all", tmp_path / "ray", progress=disturb, **on_cluster).manifest
    assert len(cluster.list_all_nodes()) == 1
    assert (manifest["records"], len(manifest["shards"])) == (31, 16)
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")

    def stop(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(models, "all", tmp_path / "both", progress=stop, **on_cluster)
    resumed = run_job(models, "all", tmp_path / "both", resume=True, **options)
    assert resumed.scored == 31 - 10
    assert shards(tmp_path / "both") == shards(tmp_path / "local")


def test_a_server_is_not_asked_from_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(TfrecError, match="leave out `--engine ray`"):
        run_job(None, "all", tmp_path / "out", data=tmp_path, server="127.0.0.1:1", engine="ray")
