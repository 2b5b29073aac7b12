"""The server from outside: REST and gRPC, versions, reload, limits."""

from __future__ import annotations

import gc
import gzip
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from serving.embedded.errors import ServingError

CONFIG = """model_config_list {{
  config {{ name: "plain" base_path: "{0}/plain" model_platform: "tensorflow" }}
  config {{ name: "hot" base_path: "{0}/hot" model_platform: "tensorflow" }}
  config {{ name: "all" base_path: "{0}/all" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
           version_labels {{ key: "stable" value: 1 }} }}
}}"""


def _put(source: Path, target: Path) -> None:
    """Makes a version appear by one rename."""
    part = target.parent / f"part-{target.name}"
    shutil.copytree(source, part)
    part.rename(target)


@pytest.fixture(scope="module")
def folder(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for path, offset in {"plain/1": 1, "hot/1": 1, "all/1": 1, "all/2": 2}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        _put(models / f"offset_{offset}", folder / path)
    (folder / "models.config").write_text(CONFIG.format(folder))
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, running: Callable[..., Any]) -> Iterator[Any]:
    options = {
        "model_config_file": str(folder / "models.config"),
        "monitoring_config_file": str(folder / "monitoring.config"),
        "allow_version_labels_for_unavailable_models": True,
        "enable_grpc_healthcheck_service": True,
        "max_message_bytes": 1 << 20,
        "max_json_bytes": 1 << 20,
        "rest_api_timeout_in_ms": 1500,
    }
    with running(**options) as server:
        yield server


def _wait(server: Any, name: str, version: int, state: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        answer = server.get(f"/v1/models/{name}/versions/{version}").json()
        if answer.get("model_version_status", [{}])[0].get("state") == state:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} {version} is not {state}: {answer}")


def test_the_same_answer_over_both_interfaces(server: Any) -> None:
    assert server.post("/v1/models/plain:predict", {"instances": [1, 2]}).json() == {"predictions": [1.5, 2.0]}
    assert server.post("/v1/models/plain:predict", {"inputs": {"x": [4]}}).json() == {"outputs": [3.0]}
    answer = server.predict("plain", x=[1.0, 2.0])
    assert list(answer.outputs["y"].float_val) == [1.5, 2.0]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "serving_default")


def test_bytes_and_several_outputs(server: Any) -> None:
    body = {"signature_name": "join", "instances": [{"b64": "aGk="}]}
    assert server.post("/v1/models/plain:predict", body).json() == {
        "predictions": [{"joined_bytes": {"b64": "aGkh"}, "size": 2}]
    }


def test_output_filter_runs_only_what_is_wanted(server: Any) -> None:
    request = predict_pb2.PredictRequest(output_filter=["size"])
    request.model_spec.name, request.model_spec.signature_name = "plain", "join"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(["abc"]))
    answer = server.call("PredictionService/Predict", request, predict_pb2.PredictResponse)
    assert {name: list(tensor.int_val) for name, tensor in answer.outputs.items()} == {"size": [3]}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("plain:predict", 400, 'JSON Value: "x" Type: String is not of expected type: float'),
        ("none:predict", 404, "Servable not found for request: Latest(none)"),
        ("plain/versions/7:predict", 404, "Servable not found for request: Specific(plain, 7)"),
        ("all/labels/none:predict", 400, "Unrecognized servable version label: none"),
        ("plain:explain", 400, "Malformed request: POST /v1/models/plain:explain"),
        ("..%2F..%2Fetc:predict", 404, "Servable not found for request: Latest(../../etc)"),
    ],
)
def test_errors_say_what_is_wrong(server: Any, path: str, status: int, message: str) -> None:
    answer = server.post(f"/v1/models/{path}", {"inputs": ["x"]})
    assert (answer.status_code, answer.json()) == (status, {"error": message})


@pytest.mark.parametrize(("version", "status"), [("9" * 30, 400), ("9" * 5000, 400), ("0" * 4999 + "1", 200)])
def test_versions_of_many_digits(server: Any, version: str, status: int) -> None:
    answer = server.get(f"/v1/models/plain/versions/{version}")
    assert answer.status_code == status
    assert bool(answer.content) == (status == 200)


def test_versions_and_labels(server: Any) -> None:
    paths = {"all": 2.5, "all/versions/1": 1.5, "all/labels/stable": 1.5}
    for path, value in paths.items():
        assert server.post(f"/v1/models/{path}:predict", {"instances": [1]}).json() == {"predictions": [value]}
    status = server.get("/v1/models/all").json()["model_version_status"]
    assert [(row["version"], row["state"]) for row in status] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]


def test_metadata_agrees_over_both_interfaces(server: Any) -> None:
    rest = server.get("/v1/models/plain/metadata").json()["metadata"]["signature_def"]["signature_def"]
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "plain"
    answer = server.call("PredictionService/GetModelMetadata", request, get_model_metadata_pb2.GetModelMetadataResponse)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def.keys() == rest.keys()
    assert rest["join"]["inputs"]["text"]["dtype"] == "DT_STRING"


def test_a_new_version_takes_over_without_a_failed_request(server: Any, folder: Path, models: Path) -> None:
    values: set[float] = set()
    done = threading.Event()

    def ask() -> int:
        count = 0
        while not done.is_set():
            answer = server.post("/v1/models/hot:predict", {"instances": [1]})
            assert answer.status_code == 200, answer.text
            values.update(answer.json()["predictions"])
            values.update(server.predict("hot", x=[1.0]).outputs["y"].float_val)
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(ask) for _ in range(3)]
        _put(models / "offset_2", folder / "hot" / "2")
        _wait(server, "hot", 2, "AVAILABLE")
        _wait(server, "hot", 1, "END")
        done.set()
        assert sum(count.result() for count in counts) > 0
    assert values == {1.5, 2.5}
    _put(models / "broken", folder / "hot" / "3")
    _wait(server, "hot", 3, "END")
    status = server.get("/v1/models/hot/versions/3").json()["model_version_status"][0]["status"]
    assert status["error_code"] == "DATA_LOSS"
    assert "saved_model.pb as binary proto" in status["error_message"]
    assert server.post("/v1/models/hot:predict", {"instances": [1]}).json() == {"predictions": [2.5]}


def _reload(server: Any, text: str, timeout: float = 30) -> Any:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    reply = model_management_pb2.ReloadConfigResponse
    return server.call("ModelService/HandleReloadConfigRequest", request, reply, timeout)


def test_reload_adds_removes_and_moves_labels(server: Any, folder: Path) -> None:
    extra = f'config {{ name: "extra" base_path: "{folder}/plain" model_platform: "tensorflow" }} }}'
    changed = CONFIG.format(folder).replace("value: 1 }", "value: 2 }")[:-1] + extra
    _reload(server, changed)
    assert server.post("/v1/models/extra:predict", {"instances": [1]}).json() == {"predictions": [1.5]}
    assert server.post("/v1/models/all/labels/stable:predict", {"instances": [1]}).json() == {"predictions": [2.5]}
    _reload(server, CONFIG.format(folder))
    _wait(server, "extra", 1, "END")
    assert server.post("/v1/models/extra:predict", {"instances": [1]}).status_code == 404


def test_a_config_that_does_not_fit_changes_nothing(server: Any, folder: Path) -> None:
    wrong = CONFIG.format(folder)[:-1] + 'config { name: "bad" base_path: "relative" model_platform: "tensorflow" } }'
    with pytest.raises(grpc.RpcError, match="to have an absolute path or URI"):
        _reload(server, wrong)
    missing = (
        CONFIG.format(folder)[:-1]
        + f'config {{ name: "late" base_path: "{folder}/late" model_platform: "tensorflow" }} }}'
    )
    with pytest.raises(grpc.RpcError) as caught:
        _reload(server, missing, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.post("/v1/models/plain:predict", {"instances": [1]}).status_code == 200
    _reload(server, CONFIG.format(folder))


def test_deadlines(server: Any) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "plain", "slow"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([5.0]))
    with pytest.raises(grpc.RpcError) as caught:
        server.call("PredictionService/Predict", request, predict_pb2.PredictResponse, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    answer = server.post("/v1/models/plain:predict", {"signature_name": "slow", "instances": [5.0]})
    assert answer.status_code == 504
    assert server.predict("plain", x=[1.0]).outputs["y"].float_val == [1.5]


def test_size_limits(server: Any) -> None:
    url = server.url + "/v1/models/plain:predict"
    large = b'{"instances": [' + b"1," * (1 << 20) + b"1]}"
    assert requests.post(url, data=large, timeout=30).status_code == 413
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    assert requests.post(url, data=bomb, headers={"Content-Encoding": "gzip"}, timeout=30).status_code == 413
    with pytest.raises(grpc.RpcError) as caught:
        server.predict("plain", x=[0.0] * (1 << 19))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def _raw(server: Any, data: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"FOO /v1/models/plain HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"POST /v1/models/plain:predict HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", 400),
        (b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00", 501),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_broken_http(server: Any, request_bytes: bytes, status: int) -> None:
    answer = _raw(server, request_bytes)
    assert answer.split()[1] == str(status).encode()
    assert b"Traceback" not in answer


def test_metrics_page(server: Any) -> None:
    server.post("/v1/models/plain:predict", {"instances": [1]})
    server.post("/v1/models/nothing:predict", {"instances": [1]})
    page = server.get("/metrics").text
    assert ':tensorflow:serving:request_count{model_name="nothing",status="NOT_FOUND"} ' in page
    assert (
        ':tensorflow:serving:request_latency_bucket{model_name="plain",API="predict",entrypoint="REST",le="10"} '
        in page
    )


def test_long_names_that_no_model_has_are_not_kept(server: Any) -> None:
    name = "n" * 10_000
    with pytest.raises(grpc.RpcError, match="Servable not found"):
        server.predict(name, x=[1.0])
    page = server.get("/metrics").text
    assert ':tensorflow:serving:request_count{model_name="(other)",status="NOT_FOUND"} 1' in page
    assert name not in page


def test_a_request_that_fails_is_freed_at_once(server: Any) -> None:
    gc.collect()
    gc.disable()  # only what is in no circle goes now
    try:
        for _ in range(3):
            with pytest.raises(grpc.RpcError):
                server.predict("none", x=[1.0])
        time.sleep(0.2)
        kept = [o for o in gc.get_objects() if isinstance(o, ServingError) and "Latest(none)" in o.message]
        assert not kept
    finally:
        gc.enable()


def test_health(server: Any) -> None:
    answer = health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_status_of_a_model_never_seen(server: Any) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "never"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model never"):
        server.call("ModelService/GetModelStatus", request, get_model_status_pb2.GetModelStatusResponse)


def test_overload_is_told_and_passes(models: Path, tmp_path: Path, running: Callable[..., Any]) -> None:
    _put(models / "offset_1", tmp_path / "1")
    options = {
        "rest_api_num_threads": 1,
        "max_concurrent_requests": 2,
        "model_name": "m",
        "model_base_path": str(tmp_path),
    }
    with running(**options) as server:
        slow = {"signature_name": "slow", "instances": [0.5]}
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda _: server.post("/v1/models/m:predict", slow).status_code, range(8)))
        assert set(codes) == {200, 503}
        assert server.post("/v1/models/m:predict", {"instances": [1]}).status_code == 200


def test_more_requests_than_threads_join_a_batch(models: Path, tmp_path: Path, running: Callable[..., Any]) -> None:
    shutil.copytree(models / "offset_1", tmp_path / "m" / "1")
    (tmp_path / "batching").write_text("max_batch_size { value: 8 } batch_timeout_micros { value: 20000000 }")
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    options = {
        "rest_api_num_threads": 2,
        "enable_batching": True,
        "batching_parameters_file": str(tmp_path / "batching"),
        "monitoring_config_file": str(tmp_path / "monitoring"),
        "model_name": "m",
        "model_base_path": str(tmp_path / "m"),
    }
    with running(**options) as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: server.predict("m", x=[float(x)]).outputs["y"].float_val[0], range(8)))
        assert answers == [x / 2 + 1 for x in range(8)]
        assert 'processed_batch_size_sum{model_name="m"} 8\n' in server.get("/metrics").text
        assert 'processed_batch_size_count{model_name="m"} 1\n' in server.get("/metrics").text


def test_the_config_file_is_read_again(models: Path, tmp_path: Path, running: Callable[..., Any]) -> None:
    (tmp_path / "plain").mkdir()
    _put(models / "offset_1", tmp_path / "plain" / "1")
    entry = f'config {{{{ name: "{{}}" base_path: "{tmp_path}/plain" model_platform: "tensorflow" }}}}'
    file = tmp_path / "models.config"
    file.write_text("model_config_list {" + entry.format("a") + "}")
    nowhere = entry.format("late").replace("/plain", "/mistyped")
    with running(model_config_file=str(file), model_config_file_poll_wait_seconds=1) as server:
        for wrong in (b"not a config", b"\xff\xfe", f"model_config_list {{{entry.format('a')} {nowhere}}}".encode()):
            file.write_bytes(wrong)
            time.sleep(1.2)
        file.unlink()
        time.sleep(1.2)
        file.write_text("model_config_list {" + entry.format("a") + entry.format("b") + "}")
        _wait(server, "b", 1, "AVAILABLE")
        assert server.post("/v1/models/a:predict", {"instances": [1]}).json() == {"predictions": [1.5]}


def test_a_config_that_changes_during_the_start_is_seen(
    models: Path, tmp_path: Path, running: Callable[..., Any]
) -> None:
    entry = f'config {{{{ name: "{{}}" base_path: "{tmp_path}/plain" model_platform: "tensorflow" }}}}'
    file = tmp_path / "models.config"
    file.write_text("model_config_list {" + entry.format("a") + "}")

    def change() -> None:
        file.write_text("model_config_list {" + entry.format("a") + entry.format("b") + "}")
        (tmp_path / "plain").mkdir()  # which the start waits for
        _put(models / "offset_1", tmp_path / "plain" / "1")

    threading.Timer(1, change).start()
    with running(model_config_file=str(file), model_config_file_poll_wait_seconds=1) as server:
        _wait(server, "b", 1, "AVAILABLE")


@pytest.mark.parametrize(("data", "error"), [(b"\xff\xfe", "Invalid protobuf file"), (None, "Cannot read")])
def test_a_config_file_that_cannot_be_read_stops_the_start(
    tmp_path: Path, running: Callable[..., Any], data: bytes | None, error: str
) -> None:
    if data is not None:
        (tmp_path / "models.config").write_bytes(data)
    with pytest.raises(ServingError, match=error), running(model_config_file=str(tmp_path / "models.config")):
        pass


def _warm_up_file(version: Path, alias: str) -> None:
    request = predict_pb2.PredictRequest()
    request.inputs[alias].CopyFrom(tf.make_tensor_proto([1.0]))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


@pytest.mark.parametrize(("alias", "loads"), [("x", True), ("wrong", False)])
def test_warm_up_requests(models: Path, tmp_path: Path, running: Callable[..., Any], alias: str, loads: bool) -> None:
    _put(models / "offset_1", tmp_path / "1")
    _warm_up_file(tmp_path / "1", alias)
    options = {"model_name": "m", "model_base_path": str(tmp_path), "enable_batching": True}
    if loads:
        with running(**options) as server:
            assert server.post("/v1/models/m:predict", {"instances": [1]}).json() == {"predictions": [1.5]}
        return
    with pytest.raises(ServingError, match=r"did not become available.*not found in request"), running(**options):
        pass
