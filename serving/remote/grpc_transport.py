"""Calls over gRPC: PredictionService.Predict and ModelService.GetModelStatus."""

from __future__ import annotations

from typing import Any

import grpc

from serving.remote import wire
from serving.remote.calls import Arrays, Call, VersionStatus
from serving.remote.errors import CallError, reading

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # the client's own are bounded by its deadline
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcTransport:
    """One connection to a gRPC port, kept open between calls.

    Args:
        address: `grpc://host:port`, or `grpcs://host:port` for TLS.
        model: name of the model.
        label: of the version wanted; empty for the newest.
    """

    def __init__(self, address: str, model: str, label: str) -> None:
        self._address, self._model, self._label = address, model, label
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}

    async def predict(self, call: Call[Any], timeout: float) -> Arrays:
        """Sends a call and returns its outputs.

        Raises:
            CallError: If the server cannot be reached or refuses.
        """
        request = wire.PredictRequest()
        spec = request.model_spec
        spec.name, spec.signature_name, spec.version_label = self._model, call.signature, self._label
        for name, array in call.inputs.items():
            wire.write_tensor(request.tensors[name], array)
        answer = await self._send("PredictionService/Predict", request, wire.PredictResponse, timeout)
        with reading(self._address, self._model, f"`{call.signature}`"):
            return {name: wire.read_tensor(tensor) for name, tensor in answer.tensors.items()}

    async def status(self, timeout: float) -> list[VersionStatus]:
        """The versions of the model, newest first."""
        request = wire.StatusRequest()
        request.model_spec.name = self._model
        answer = await self._send("ModelService/GetModelStatus", request, wire.StatusResponse, timeout)
        return [
            VersionStatus(row.version, wire.STATES.get(row.state, "UNKNOWN"), row.status.error_message)
            for row in answer.versions
        ]

    async def close(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            await self._channel.close()

    async def _send(self, method: str, request: Any, reply: Any, timeout: float) -> Any:
        try:
            return await self._method(method, reply)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise CallError(self._address, self._model, error.code().name, error.details() or "") from error

    def _method(self, name: str, reply: Any) -> Any:
        if self._channel is None:
            self._channel = _open(self._address)
        if name not in self._methods:
            self._methods[name] = self._channel.unary_unary(
                f"/tensorflow.serving.{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=reply.FromString,
            )
        return self._methods[name]


def _open(address: str) -> grpc.aio.Channel:
    scheme, target = address.split("://")
    if scheme == "grpcs":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(target, options=_OPTIONS)
