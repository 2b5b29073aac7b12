"""The client against a running server, over both interfaces."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from serving.client import AsyncClient, CallError, Client, Filters, Match, Query, Recommendation
from serving.remote import calls, wire
from serving.remote.command import main
from tfrec.errors import TfrecError
from tfrec.export.request import CHOICE_SPECS, FILTER_SPECS, QUERY_SPECS

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["rest", "grpc"])
def address(request: pytest.FixtureRequest, echo_server: Any) -> str:
    return echo_server.url if request.param == "rest" else f"grpc://127.0.0.1:{echo_server.port}"


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout=30) as client:
        yield client


def test_a_request_and_its_slate(client: Client) -> None:
    slate = client.recommend(
        "用户", ["视频 3", "b"], history_timestamp=[1, 2], timestamp=9, exclude=["x", "y", "z"], k=7
    )
    assert slate == [
        Recommendation("视频 3", score=1.0, click=9.0, finish=7.0, like=3.0, reason="用户", is_cold=False),
        Recommendation("b", score=2.0, click=9.0, finish=7.0, like=3.0, reason="用户", is_cold=True),
    ]
    assert type(slate[0].is_cold) is bool


def test_a_batch_keeps_order_and_length(client: Client) -> None:
    slates = client.recommend_batch([Query("u1", ["a"]), Query(), Query("u3", ["b"] * 5)])
    assert [[slot.video_id for slot in slate] for slate in slates] == [["a"], [], ["b"] * 5]
    assert client.recommend_batch([]) == []


def test_similar_videos(client: Client) -> None:
    assert client.similar("v7") == [Match("v7", 0.5), Match("v7", 0.25)]
    assert client.similar("v7", k=1) == [Match("v7", 0.5)]
    assert client.similar("nowhere") == []
    for find in (client.similar, client.search):
        with pytest.raises(TfrecError, match=r"`k` must be from 1 to 2147483647\. Received: 0\."):
            find("v7", k=0)


def test_a_video_file_is_taken_apart_here(client: Client, write_media: Callable[..., Path], tmp_path: Path) -> None:
    pictures = [np.full((64, 64, 3), 200, np.uint8)] * 10
    tone = np.sin(np.arange(44_100) / 10).astype(np.float32)
    video = write_media(tmp_path / "v.mp4", pictures, tone=tone)
    embedding = client.embed_video(video, title="five!", generate_method="abc", gen_params=[1, 2.5]).embedding
    assert embedding == pytest.approx(
        (7, 48, 200, 0.75, 8, 3.5), rel=0.05
    )  # as `media_format` of `echo_server` wants it
    with pytest.raises(TfrecError, match=r"no\.mp4"):
        client.embed_video(tmp_path / "no.mp4")


def test_a_video_with_its_row_of_the_table(client: Client) -> None:
    embedding = client.embed_video(prompt="four", created_at=7, columns={"tags": "a|b", "duration": "12"})
    assert embedding.embedding == (4, 7, 2, 5)


def test_status_and_health(client: Client) -> None:
    assert [(row.version, row.state, row.error) for row in client.status()] == [
        (2, "AVAILABLE", ""),
        (1, "AVAILABLE", ""),
    ]
    assert client.is_healthy()
    assert not client.is_healthy("nothing")


def test_errors_name_server_model_and_cause(client: Client, address: str) -> None:
    with pytest.raises(CallError, match=rf"{address}, model nothing: NOT_FOUND: Could not find .*nothing\. `status`"):
        client.status("nothing")
    with pytest.raises(CallError, match=r'Serving signature .*"search" not found') as caught:
        client.search("no text tower here")
    assert "\n" not in str(caught.value)


def test_labels(address: str) -> None:
    with Client(address, label="stable", timeout=30) as client:
        assert client.recommend(history=["a"])
        with pytest.raises(CallError) as caught:
            client.embed_video(title="without media, which this encoder does not take")
        assert "label" not in str(caught.value)  # which are those of the recommender
    with Client(address, label="canary") as client, pytest.raises(CallError, match=r"Unrecognized .*label: canary"):
        client.recommend()


def test_many_calls_at_once(address: str) -> None:
    async def ask() -> list[float]:
        async with AsyncClient(address, timeout=30) as client:
            slates = await asyncio.gather(*(client.recommend(history=["a"], k=k) for k in range(1, 21)))
            return [slate[0].finish for slate in slates]

    assert asyncio.run(ask()) == list(range(1, 21))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_comes_late_is_waited_for(
    models: Path, tmp_path: Path, running: Callable[..., Any], free_port: Callable[[], int], scheme: str
) -> None:
    shutil.copytree(models / "offset_1", tmp_path / "1")
    port = free_port()
    flags = {"model_name": "m", "model_base_path": str(tmp_path), "rest_api_port" if scheme == "http" else "port": port}
    with Client(f"{scheme}://127.0.0.1:{port}", "m", timeout=30, retries=50) as client:
        states: list[str] = []
        asking = threading.Thread(target=lambda: states.append(client.status()[0].state))
        asking.start()
        time.sleep(0.2)
        with running(**flags):
            asking.join(30)
    assert states == ["AVAILABLE"]


@contextmanager
def _scripted(
    statuses: Sequence[int], seconds: float = 0.0, answer: str = '{"model_version_status": []}'
) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these statuses in turn and then 200; yields its address and the ports it was asked from."""
    left, asked = list(statuses), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(str(self.client_address[1]))
            time.sleep(seconds)
            status = left.pop(0) if left else 200
            body = (answer if status == 200 else '{"error": "busy"}').encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_only_an_unavailable_server_is_asked_again_and_on_one_connection() -> None:
    with _scripted([503, 503]) as (address, asked), Client(address, timeout=10) as client:
        assert client.status() == []
        assert len(asked) == 3
        assert len(set(asked)) == 1
    for status, code in ((400, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL"), (520, "INTERNAL")):
        with _scripted([status]) as (address, asked), Client(address) as client:
            with pytest.raises(CallError, match=f"{code}: busy") as caught:
                client.status()
            assert (caught.value.code, len(asked)) == (code, 1)


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "{}",
        "<html>",
        '{"outputs": 1, "model_version_status": [1]}',
        '{"outputs": {"video_id": []}, "model_version_status": [{"version": "x"}]}',
        json.dumps({"outputs": {name: [] for name in calls.SLOT}, "model_version_status": None}),
    ],
)
def test_another_answer_than_expected_is_an_error_of_one_line(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with _scripted([], answer=answer) as (address, _):
        for command in ("recommend", "status"):
            assert main([command, "--server", address]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: {address}, model recommender: INTERNAL: `{command}` was answered with")
            assert error.count("\n") == 1


def test_a_closed_client_says_so() -> None:
    client = Client()
    client.close()
    client.close()
    with pytest.raises(TfrecError, match="This client was closed"):
        client.status()


def test_retries_end() -> None:
    with _scripted([503] * 9) as (address, asked), Client(address, retries=2, timeout=30) as client:
        with pytest.raises(CallError, match=r"UNAVAILABLE: busy\. Is a server running"):
            client.status()
        assert len(asked) == 3


def test_the_deadline_bounds_all_tries() -> None:
    start = time.monotonic()
    with _scripted([503] * 99) as (address, _), Client(address, retries=90, timeout=0.5) as client:
        with pytest.raises(CallError, match="UNAVAILABLE: busy"):
            client.status()
        assert 0.4 < time.monotonic() - start < 5
    with (
        _scripted([], seconds=1.0) as (address, _),
        Client(address, timeout=0.3) as client,
        pytest.raises(CallError, match="DEADLINE_EXCEEDED: no answer within"),
    ):
        client.status()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"server": "127.0.0.1:8500"}, "must be http://HOST:PORT"),
        ({"server": "ftp://a:1"}, "must be http://HOST:PORT"),
        ({"timeout": 0}, "`timeout` must be above 0"),
        ({"timeout": math.nan}, "`timeout` must be above 0 and finite"),
        ({"timeout": math.inf}, "`timeout` must be above 0 and finite"),
        ({"retries": -1}, "`retries` at least 0"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        AsyncClient(**options)


def test_queries_that_cannot_work() -> None:
    with pytest.raises(TfrecError, match="one time for each video"):
        Query(history=["a"], history_timestamp=[1, 2])
    for k in (0, 2**31):
        with pytest.raises(TfrecError, match=rf"`k` must be from 1 to 2147483647\. Received: {k}\."):
            Query(k=k)
    for times in ({"timestamp": 2**63}, {"history": ["a"], "history_timestamp": [-(2**63) - 1]}):
        with pytest.raises(TfrecError, match=r"timestamp` must be Unix seconds that an int64 holds\. Received: -?92"):
            Query(**times)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("user_id", ["recommend", "a\udcff"]),
        ("history", ["recommend", "--history", "b", "a\udcff"]),
        ("video_id", ["similar", "a\udcff"]),
        ("column", ["embed", "--columns", "a\udcff=1"]),
        ("model", ["status", "--model", "a\udcff"]),
        ("label", ["recommend", "--label", "a\udcff"]),
    ],
)
def test_what_is_no_text_is_refused(
    address: str, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    """A shell hands the byte ff on as U+DCFF."""
    assert main([*arguments, "--server", address]) == 2
    assert capsys.readouterr().err.startswith(f"error: `{name}` must be text that UTF-8 can write. Received: 'a\\udcff")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (1.0, 1.0, 1.0)}, "must be four numbers"),
        ({"weights": (1.0, 1.0, 1.0, -1.0)}, "must be four numbers"),
        ({"weights": (1.0, 1.0, 1.0, math.nan)}, "must be four numbers"),
        ({"min_safety": 1.5}, "`min_safety` must be from 0 to 1"),
        ({"diversity": -0.1}, "`diversity` must be from 0 to 1"),
    ],
)
def test_filters_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        Filters(**options)


def test_a_filtered_request_has_the_inputs_of_the_signature() -> None:
    call = calls.recommend([Query(filters=Filters(allow=["a", "b"], min_safety=0.5)), Query("u")])
    specs = (*QUERY_SPECS, *FILTER_SPECS, *CHOICE_SPECS)
    assert call.signature == "recommend_filtered"
    for spec in specs:
        array = call.inputs[spec.name]
        assert spec.is_compatible_with(tf.constant(array.tolist(), spec.dtype, array.shape)), spec
    assert set(call.inputs) == {spec.name for spec in specs}
    assert call.inputs["allow"].tolist() == [["a", "b"], ["", ""]]
    np.testing.assert_allclose(call.inputs["min_safety"], [0.5, -1])
    np.testing.assert_array_equal(call.inputs["weights"], np.full((2, 4), -1))


def test_a_plain_request_asks_for_the_default_signature() -> None:
    assert calls.recommend([Query()]).signature == "recommend"


def test_widths_are_powers_of_two_so_that_requests_join() -> None:
    call = calls.recommend([Query(history=["a"] * 5), Query(exclude=["b"] * 3)])
    assert {name: array.shape for name, array in call.inputs.items() if array.ndim == 2} == {
        "history": (2, 8),
        "history_timestamp": (2, 8),
        "exclude": (2, 4),
    }


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.0]], np.float32),
        np.array([[1, -(2**31)]], np.int32),
        np.array([2**62], np.int64),
        np.array([[True, False]]),
        np.array([["é", ""]], object),
        np.zeros((0, 3), np.float32),
    ],
)
def test_tensors_are_tensorflows_own(array: np.ndarray) -> None:
    request = wire.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "m", "canary"
    wire.write_tensor(request.tensors["x"], array)
    theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version_label) == ("m", "canary")
    read = tf.make_ndarray(theirs.inputs["x"])
    wanted = np.array([[text.encode() for text in row] for row in array], object) if array.dtype == object else array
    np.testing.assert_array_equal(read, wanted)
    reply = predict_pb2.PredictResponse()
    reply.outputs["y"].CopyFrom(tf.make_tensor_proto(wanted.tolist(), read.dtype, read.shape))
    ours = wire.PredictResponse.FromString(reply.SerializeToString())
    np.testing.assert_array_equal(wire.read_tensor(ours.tensors["y"]), wanted)


def test_states_are_tensorflows_own() -> None:
    states = get_model_status_pb2.ModelVersionStatus.State
    assert dict(states.items()) == {name: number for number, name in wire.STATES.items()}


def test_the_command_line_prints_tables_and_json(echo_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--server", echo_server.url, "--timeout", "30"]
    assert main(["recommend", "u1", "--history", "视频 1", "v2", "--json", *at]) == 0
    slots = json.loads(capsys.readouterr().out)
    assert len(slots) == 2
    assert set(slots[0]) == {"video_id", "score", "click", "finish", "like", "reason", "is_cold"}
    assert main(["recommend", "u1", "--history", "视频 1", "v2", *at]) == 0
    table = capsys.readouterr().out
    assert all(slot["video_id"] in table for slot in slots)
    assert "is cold" in table
    assert main(["similar", "nowhere", *at]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["similar", "v7", "--k", "1", "--json", *at]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert main(["embed", "--columns", "tags=cat", "age=9", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["embedding"] == [0, 0, 2, 4]
    assert main(["status", *at]) == 0
    assert "AVAILABLE" in capsys.readouterr().out
    assert (main(["health", *at]), main(["health", "--model", "no", *at])) == (0, 1)
    assert main(["status", "--model", "no", *at]) == 2
    assert capsys.readouterr().err.startswith(f"error: {echo_server.url}, model no: NOT_FOUND")


def test_a_reader_that_has_enough_is_no_error(echo_server: Any) -> None:
    command = [sys.executable, "-m", "serving.client", "similar", "v7", "--json", "--server", echo_server.url]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_rest_needs_neither_tensorflow_nor_grpc() -> None:
    code = (
        "import sys; from serving.remote.command import main\n"
        "assert main(['status', '--server', 'http://127.0.0.1:1', '--retries', '0']) == 2\n"
        "assert not {'tensorflow', 'grpc', 'cv2', 'pandas'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("error: http://127.0.0.1:1, model recommender: UNAVAILABLE: ")
