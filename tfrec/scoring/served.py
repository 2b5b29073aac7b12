"""A model that a TensorFlow Serving server has, asked over gRPC.

The version is learned before the first question and asked for by its number from then on, so that all rows come from one.
A server that cannot be reached for a moment, or has too much to do, is asked again; the pauses grow and have a random length, so
that clients that failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import tensorflow as tf
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfrec.errors import TfrecError
from tfrec.export.log_requests import Inputs
from tfrec.scoring.model import Answer

_PATIENCE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 5.0
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served.

    Args:
        address: `host:port` of the gRPC interface, or `grpc://host:port`.
        model: name of the model.
        deadline_seconds: time that one request may take.
        patience_seconds: for how long a server that is unavailable or busy is asked again.
    """

    address: str
    model: str
    deadline_seconds: float
    patience_seconds: float = _PATIENCE_SECONDS


class ServedModel:
    """A version of a model on a server.

    Args:
        endpoint: the server.
        version: number of the version; None for the one that the server answers with.
        signature: the one to ask.
        num_in_flight: requests sent at once.

    Raises:
        TfrecError: If the server does not answer, or has no such model, version or signature.
    """

    digest = None  # no server tells what its files are

    def __init__(self, endpoint: Endpoint, version: int | None, signature: str, num_in_flight: int) -> None:
        self._endpoint = endpoint
        self._signature = signature
        self.num_in_flight = num_in_flight
        channel = grpc.insecure_channel(endpoint.address.removeprefix("grpc://"), _CHANNEL)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.version = self._find_version(version)

    def prepared(self, inputs: Inputs) -> predict_pb2.PredictRequest:
        """The request."""
        request = predict_pb2.PredictRequest(model_spec=self._spec(self.version, self._signature))
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        return request

    def answer(self, question: predict_pb2.PredictRequest) -> Answer:
        """What the server answers.

        Raises:
            TfrecError: If it fails, or answers by another version.
        """
        response = self._ask(self._service.Predict, question)
        if response.model_spec.version.value != self.version:
            raise self._error(
                f"answered by version {response.model_spec.version.value}, and the run was begun with {self.version}. "
                "Serve that one again and go on with --resume, or choose another --output."
            )
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def _find_version(self, version: int | None) -> int:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(version), metadata_field=["signature_def"]
        )
        response = self._ask(self._service.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        if self._signature not in signatures.signature_def:
            there = ", ".join(sorted(name for name in signatures.signature_def if not name.startswith("__")))
            raise self._error(f"has {self._endpoint.model} without the signature `{self._signature}`. It has: {there}.")
        return int(response.model_spec.version.value)

    def _spec(self, version: int | None, signature: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._endpoint.model, signature_name=signature)
        if version is not None:
            spec.version.value = version
        return spec

    def _ask(self, call: Callable[..., Any], request: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE_SECONDS),
            stop=stop_after_delay(self._endpoint.patience_seconds),
            reraise=True,
        )
        try:
            return retrying(call, request, timeout=self._endpoint.deadline_seconds)
        except grpc.RpcError as error:
            raise self._error(self._explained(error, request.model_spec)) from error

    def _explained(self, error: grpc.RpcError, spec: model_pb2.ModelSpec) -> str:
        details = " ".join(error.details().split())
        version = f"version {spec.version.value}" if spec.HasField("version") else "any version"
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return f"cannot be reached: {details}. Once TensorFlow Serving answers there, go on with --resume."
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return (
                    f"has no room for a request: {details}. Lower --in-flight and go on with --resume, or begin again with a "
                    "smaller --batch-size."
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                seconds = self._endpoint.deadline_seconds
                return f"took longer than {seconds:g} s for a request. Raise --deadline, or lower --batch-size."
            case grpc.StatusCode.NOT_FOUND:
                return (
                    f"does not serve {version} of {self._endpoint.model}: {details}. Serve it and go on with --resume, or "
                    "choose another --output."
                )
        return f"refused a request: {error.code().name}: {details}."

    def _error(self, what: str) -> TfrecError:
        return TfrecError(f"The server {self._endpoint.address} {what}")


def _may_pass(error: BaseException) -> bool:
    passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return isinstance(error, grpc.RpcError) and error.code() in passing
