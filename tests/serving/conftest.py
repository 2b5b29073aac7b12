"""Tiny SavedModels and a server on loopback ports, in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.embedded.flags import Flags
from serving.embedded.lifecycle import serve_until


@dataclass
class Server:
    """A running server: REST at `url`, gRPC at `port` through `channel`."""

    url: str
    port: int
    channel: grpc.Channel

    def post(self, path: str, body: object) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)

    def call(self, method: str, request: object, reply: type, timeout: float | None = 30) -> object:
        rpc = self.channel.unary_unary(
            f"/tensorflow.serving.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return rpc(request, timeout=timeout)

    def predict(self, name: str, timeout: float | None = 30, **inputs: object) -> predict_pb2.PredictResponse:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        return self.call("PredictionService/Predict", request, predict_pb2.PredictResponse, timeout)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _running(**options: object) -> Iterator[Server]:
    flags = Flags(**{"port": _free_port(), "rest_api_port": _free_port(), "max_num_load_retries": 0, **options})
    loop, stopping, opened, failures = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), []

    def run() -> None:
        try:
            loop.run_until_complete(serve_until(stopping, flags, opened.set))
        except Exception as error:
            failures.append(error)
            opened.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert opened.wait(60)
    if failures:
        thread.join()
        raise failures[0]
    with grpc.insecure_channel(f"127.0.0.1:{flags.port}") as channel:
        try:
            yield Server(f"http://127.0.0.1:{flags.rest_api_port}", flags.port, channel)
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join(60)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port that nobody listens on, now."""
    return _free_port


@pytest.fixture(scope="session")
def running() -> Callable[..., object]:
    """Runs a server with the flags given, as a context manager."""
    return _running


def _save_model(folder: Path, offset: float = 0.0) -> Path:
    """Writes a model: `serving_default` y = x / 2 + offset; `join` of strings; `slow` sleeps x seconds; `check` x >= 0."""
    floats, strings = tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.string, "text")
    module = tf.Module()
    module.offset = tf.Variable(offset)

    def slow(x: tf.Tensor) -> dict[str, tf.Tensor]:
        stop = tf.timestamp() + tf.cast(tf.reduce_max(x), tf.float64)
        rounds = tf.while_loop(lambda n: tf.timestamp() < stop, lambda n: [n + 1], [tf.constant(0)])
        with tf.control_dependencies(rounds):
            return {"y": tf.identity(x)}

    def check(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x >= 0), ["x must not be negative"])]):
            return {"y": tf.identity(x)}

    functions = {
        "serving_default": (lambda x: {"y": x * 0.5 + module.offset}, [floats]),
        "join": (
            lambda text: {"joined_bytes": tf.strings.join([text, "!"]), "size": tf.strings.length(text)},
            [strings],
        ),
        "slow": (slow, [floats]),
        "check": (check, [floats]),
    }
    signatures = {name: tf.function(call).get_concrete_function(*specs) for name, (call, specs) in functions.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """Writes a tiny model into a version folder."""
    return _save_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version folders to copy from: `offset_1`, `offset_2`, `broken`."""
    folder = tmp_path_factory.mktemp("models")
    for offset in (1, 2):
        _save_model(folder / f"offset_{offset}", float(offset))
    (folder / "broken").mkdir()
    (folder / "broken" / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    return folder
