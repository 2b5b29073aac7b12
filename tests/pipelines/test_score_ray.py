"""`pipelines/score.py --engine ray`: the bytes of the local engine, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
from ray.cluster_utils import Cluster
from score_jobs import run_job, shards
from tenacity import retry, stop_after_attempt

from tfrec.cluster import connected
from tfrec.data.tables import open_table
from tfrec.errors import TfrecError
from tfrec.scoring.ray_reader import RayTable

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


@retry(stop=stop_after_attempt(3))  # Ray gives a node 30 s to start, which a busy machine may not have
def two_nodes() -> Cluster:
    """On this machine's loopback, with one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    return cluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes.

    Ray replaces a loopback address by one that other machines reach; nobody listens there, and it would wait for minutes.
    """
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr("ray._private.services.get_node_ip_address", lambda address=None: NODE["node_ip_address"])
    cluster = two_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def worker_processes(cluster: Cluster) -> list[int]:
    """Ids of the processes of this cluster's workers."""
    found = []
    for raylet in (info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]):
        for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
            try:
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::ShardWorker"):
                    found.append(int(child))
            except OSError:  # it has ended
                continue
    return found


def test_a_worker_and_a_node_that_die_lose_nothing_and_double_nothing(
    cluster: Cluster, models: Path, data: Path, tmp_path: Path
) -> None:
    options = {"data": data, "batch_size": 2, "shard_size": 2}
    run_job(models, "all", tmp_path / "local", **options)
    (second,) = cluster.worker_nodes

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    def disturb(done: int, total: int) -> None:
        while 4 < done < 12 and len(worker_processes(cluster)) < 2:
            time.sleep(0.1)
        if done == 12:
            os.kill(worker_processes(cluster)[0], signal.SIGKILL)
        if done == 20:
            cluster.remove_node(second, allow_graceful=False)

    with pytest.raises(KeyboardInterrupt):
        run_job(models, "all", tmp_path / "ray", progress=stop, **options)
    on_cluster = {"engine": "ray", "address": cluster.address, **options}
    resumed = run_job(models, "all", tmp_path / "ray", resume=True, progress=disturb, **on_cluster)
    assert resumed.scored == 31 - 4
    assert (resumed.manifest["records"], len(resumed.manifest["shards"])) == (31, 16)
    assert cluster.list_all_nodes() == [cluster.head_node]
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_a_parquet_file_is_read_on_the_cluster(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    users = [f"u{number % 25}" if number % 9 else None for number in range(30)]  # some missing, some repeated
    histories = [[f"v{number}", "v1"] if number % 3 else [] for number in range(30)]
    pa.parquet.write_table(
        pa.table({"user_id": users, "history": histories}), tmp_path / "users.parquet", row_group_size=7
    )
    options = {"batch_size": 2, "shard_size": 4, "max_rejected": 0.5}
    for name, engine in (("local", {}), ("ray", {"engine": "ray", "address": cluster.address})):
        run_job(models, str(tmp_path / "users.parquet"), tmp_path / name, **options, **engine)
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")
    rejected = (tmp_path / "ray" / "_rejected.csv").read_text()
    assert rejected == (tmp_path / "local" / "_rejected.csv").read_text()
    assert "user_id came before" in rejected
    table = open_table(tmp_path / "users.parquet", {}, ())
    with connected(cluster.address):
        by_cluster = RayTable(table.path, table.header, table.names).parquet_batches(["history"])
        assert [batch.num_rows for batch in by_cluster] == [7, 7, 7, 7, 2]


def test_a_server_is_not_asked_from_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(TfrecError, match="leave out `--engine ray`"):
        run_job(None, "all", tmp_path / "out", data=tmp_path, server="127.0.0.1:1", engine="ray")
