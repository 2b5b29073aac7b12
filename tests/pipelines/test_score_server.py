"""`pipelines/score.py --server`: what a server answers is what the model answers here, or there is no answer."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from embedded_server import Server
from score_jobs import read, run_job, score, shards
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfrec.config import DataConfig
from tfrec.data.dataset import load_dataset
from tfrec.errors import TfrecError
from tfrec.export.log_requests import Inputs
from tfrec.scoring.histories import Histories, query_inputs
from tfrec.scoring.records import Records
from tfrec.scoring.served import Endpoint, ServedModel

ROOT = Path(__file__).parents[2]
Running = Callable[..., AbstractContextManager[Server]]
USER = query_inputs(Records({"user_id": np.array(["u1"], object)}), Histories(None), 5)


@pytest.fixture(scope="module")
def server(models: Path, running: Running) -> Iterator[Server]:
    with running(model_name="recommender", model_base_path=str(models / "recommender")) as server:
        yield server


@contextmanager
def server_process(base_path: Path, port: int) -> Iterator[Server]:
    """`python -m serving.server`."""
    flags = [f"--port={port}", "--model_name=recommender", f"--model_base_path={base_path}"]
    process = subprocess.Popen([sys.executable, "-m", "serving.server", *flags], cwd=ROOT)
    try:
        connect(f"127.0.0.1:{port}", patience_seconds=600.0)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Server("", port, channel)
    finally:
        process.kill()
        process.wait()


def connect(address: str, version: int | None = None, signature: str = "recommend", **options: Any) -> ServedModel:
    settings = {"deadline_seconds": 30.0, "patience_seconds": 20.0, **options}
    return ServedModel(Endpoint(address, "recommender", **settings), version, signature, 2)


def test_a_server_leaves_the_bytes_of_the_model(server: Server, models: Path, data: Path, tmp_path: Path) -> None:
    options = {"data": data, "batch_size": 4, "shard_size": 12}
    run_job(models, "all", tmp_path / "here", **options)
    manifest = run_job(None, "all", tmp_path / "there", server=server.address, in_flight=3, **options).manifest
    assert manifest["job"]["version"] == 2
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    assert len(shards(tmp_path / "here")) == 3


@pytest.mark.parametrize("mode", ["rank", "similar", "embed"])
def test_every_mode_can_be_asked_of_a_server(
    server: Server, models: Path, tmp_path: Path, mode: str, dataset: Any
) -> None:
    ids = dataset.videos.ids[:9]
    pd.DataFrame({"user_id": [f"u{row}" for row in range(9)], "video_id": ids}).to_csv(tmp_path / "in.csv", index=False)
    here = score(models, tmp_path / "in.csv", tmp_path / "here", mode=mode)
    there = score(None, tmp_path / "in.csv", tmp_path / "there", mode=mode, server=server.address)
    pd.testing.assert_frame_equal(there, here)


def assert_online_is_batch(rows: pd.DataFrame, inputs: Inputs, server: Server) -> None:
    """The rows of each user are the server's answer to a request of that user alone.

    Its sums are taken in another order, so scores differ in the last bits, and two that are equal but for these may swap.
    """
    slates, num_swapped = dict(iter(rows.groupby("user_id", sort=False))), 0
    for number, user in enumerate(inputs["user_id"]):
        one = {name: values[number : number + 1] for name, values in inputs.items()}
        one = {name: values.astype("S") if name == "user_id" else values for name, values in one.items()}
        response = server.predict("recommender", **one)
        answer = {name: tf.make_ndarray(proto)[0] for name, proto in response.outputs.items()}
        slate = slates[user]
        assert set(slate["model_version"]) == {response.model_spec.version.value}
        shown = [value.decode() for value in answer["video_id"] if value]
        np.testing.assert_allclose(slate["score"], answer["score"][: len(slate)], rtol=5e-5)
        num_swapped += slate["video_id"].tolist() != shown
        slate = slate.set_index("video_id").loc[shown]
        assert slate["reason"].tolist() == [value.decode() for value in answer["reason"][: len(slate)]]
        for name in ("score", "click", "finish", "like"):
            np.testing.assert_allclose(slate[name], answer[name][: len(slate)], rtol=5e-5)
    assert num_swapped <= 0.01 * len(slates)


def some_users(videos: np.ndarray, count: int, k: int) -> tuple[pd.DataFrame, Inputs]:
    """Random histories, as a file of users and as the inputs of requests."""
    draw = np.random.default_rng(0)
    histories = [draw.choice(videos, draw.integers(1, 12), replace=False).tolist() for _ in range(count)]
    users = np.array([f"random {row}" for row in range(count)], object)
    events = np.empty(count, object)
    events[:] = histories
    inputs = query_inputs(Records({"user_id": users, "history": events}), Histories(None), k)
    return pd.DataFrame({"user_id": users, "history": histories}), inputs


def test_online_is_batch(server: Server, models: Path, dataset: Any, tmp_path: Path) -> None:
    users, inputs = some_users(dataset.videos.ids, 60, 5)
    users.to_parquet(tmp_path / "users.parquet")
    assert_online_is_batch(score(models, tmp_path / "users.parquet", tmp_path / "out"), inputs, server)


@pytest.mark.slow
def test_online_is_batch_for_500_users_of_the_demo(free_port: Callable[[], int], tmp_path: Path) -> None:
    models, data = ROOT / "runs" / "demo" / "models", ROOT / "runs" / ".cache" / "demo"
    if not (models / "recommender").is_dir():
        pytest.skip("needs the run of `make train`")
    everybody = pd.read_csv(next(data.glob("users.csv*")), dtype=str)["user_id"].to_numpy(object)
    users = np.random.default_rng(0).choice(everybody, 500, replace=False)
    pd.DataFrame({"user_id": users}).to_csv(tmp_path / "users.csv", index=False)
    options = {"data": data, "k": 100, "batch_size": 64, "shard_size": 200}
    rows = score(models, tmp_path / "users.csv", tmp_path / "here", **options)
    inputs = query_inputs(Records({"user_id": users}), Histories(load_dataset(DataConfig(folder=data))), 100)
    with server_process(models / "recommender", free_port()) as server:
        assert_online_is_batch(rows, inputs, server)
        run_job(None, tmp_path / "users.csv", tmp_path / "there", server=server.address, **options)
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_a_run_that_meets_another_version_is_refused_and_goes_on_with_its_own(
    models: Path, data: Path, running: Running, tmp_path: Path
) -> None:
    base, newer = tmp_path / "base", models / "recommender" / "2"
    shutil.copytree(models / "recommender" / "1", base / "1")
    options = {"data": data, "batch_size": 1, "shard_size": 4}
    run_job(models, "all", tmp_path / "undisturbed", version=1, **options)

    @retry(retry=retry_if_result(lambda version: version == 1), wait=wait_fixed(0.1), stop=stop_after_delay(120))
    def served_version() -> int:
        return connect(server.address).version

    def publish_halfway(done: int, total: int) -> None:
        if done == 16:
            shutil.copytree(newer, base / "tmp")
            (base / "tmp").rename(base / "2")
            served_version()

    with running(model_name="recommender", model_base_path=str(base)) as server:
        with pytest.raises(TfrecError, match=r"does not serve version 1 of recommender.*--resume"):
            run_job(None, "all", tmp_path / "out", server=server.address, progress=publish_halfway, **options)
        with pytest.raises(TfrecError, match="does not serve version 1"):
            run_job(None, "all", tmp_path / "out", server=server.address, resume=True, **options)
        with pytest.raises(TfrecError, match="begun with another version"):
            run_job(None, "all", tmp_path / "out", server=server.address, resume=True, version=2, **options)
    assert 0 < len(shards(tmp_path / "out")) < 8
    shutil.rmtree(base / "2")
    with running(model_name="recommender", model_base_path=str(base)) as server:
        run_job(None, "all", tmp_path / "out", server=server.address, resume=True, **options)
    assert shards(tmp_path / "out") == shards(tmp_path / "undisturbed")
    assert set(read(tmp_path / "out")["model_version"]) == {1}


class Proxy(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Hands questions on to a server, but does `fault` with each first; it may end the call or change the answer."""

    def __init__(self, server: Server, fault: Callable[[int, grpc.ServicerContext], int]) -> None:
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(server.channel)
        self.calls = 0
        self.fault = fault

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.service.GetModelMetadata(request)

    def Predict(self, request: Any, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:  # noqa: N802
        self.calls += 1
        version = self.fault(self.calls, context)
        response = self.service.Predict(request)
        response.model_spec.version.value = version or response.model_spec.version.value
        return response


@contextmanager
def proxied(server: Server, fault: Callable[[int, grpc.ServicerContext], int | None]) -> Iterator[tuple[str, Proxy]]:
    proxy, listener = Proxy(server, fault), grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(proxy, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    try:
        yield f"127.0.0.1:{port}", proxy
    finally:
        listener.stop(None).wait()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_server_that_cannot_answer_for_a_moment_is_asked_again(server: Server, code: grpc.StatusCode) -> None:
    def fails_twice(call: int, context: grpc.ServicerContext) -> None:
        if call <= 2:
            context.abort(code, "busy")

    with proxied(server, fails_twice) as (address, proxy):
        model = connect(f"grpc://{address}")
        assert model.answer(model.prepared(USER))["video_id"].shape == (1, 5)
    assert proxy.calls == 3


def test_what_asking_again_does_not_mend_is_one_clear_line(server: Server) -> None:
    def faults(call: int, context: grpc.ServicerContext) -> int | None:
        if call == 1:
            return 7
        if call == 2:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such\ninput")
        while context.is_active():
            pass
        return None

    with proxied(server, faults) as (address, proxy):
        model = connect(address, deadline_seconds=1.0)
        question = model.prepared(USER)
        for message in ("by version 7, and the run was begun with 2", "INVALID_ARGUMENT: no such input", "than 1 s"):
            with pytest.raises(TfrecError, match=message):
                model.answer(question)
    assert proxy.calls == 3


def test_a_server_that_stays_busy_is_named(server: Server) -> None:
    with proxied(server, lambda _, context: context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")) as (address, _):
        model = connect(address, patience_seconds=0.2)
        with pytest.raises(TfrecError, match=r"has no room for a request: full\. Lower --in-flight"):
            model.answer(model.prepared(USER))


def test_a_server_that_is_not_there_or_has_no_such_model_is_named(server: Server) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(TfrecError, match=f"server {nowhere} cannot be reached.*--resume"):
        connect(nowhere, patience_seconds=0.2)
    with pytest.raises(TfrecError, match="does not serve version 9 of recommender"):
        connect(server.address, version=9)
    with pytest.raises(TfrecError, match=r"without the signature `embed_video`\. It has: embed_candidate"):
        connect(server.address, signature="embed_video")
