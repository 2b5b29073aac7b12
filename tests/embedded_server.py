"""Fixtures: the embedded server on loopback ports, in this process.

A `conftest.py` that imports them makes them known to its tests.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

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
    assert opened.wait(300)
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
