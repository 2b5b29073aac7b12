"""The gRPC interface: PredictionService, ModelService and, if asked for, the health service.

Messages are read and written on worker threads, not on the event loop, which a large one would hold up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded.core import Core
from serving.embedded.errors import Code, ServingError, from_exception
from serving.embedded.flags import Flags
from serving.embedded.workers import Deadline, Workers

Context = grpc.aio.ServicerContext
_LOOK_SECONDS, _STRAY_SECONDS = 0.02, 1.0
_LONGEST_TEXT = 1024


class GrpcApi:
    """The gRPC server.

    Args:
        core: The models.
        workers: The threads that work.
        flags: Port, limits and options.
    """

    def __init__(self, core: Core, workers: Workers, flags: Flags) -> None:
        self._core = core
        self._workers = workers
        self._grace_seconds = flags.shutdown_grace_seconds
        self._under_way, self._stopping = 0, False
        self._server = grpc.aio.server(options=_options(flags), maximum_concurrent_rpcs=flags.max_concurrent_requests)
        self._server.add_generic_rpc_handlers((self._prediction_service(), self._model_service()))
        self._health = health.aio.HealthServicer() if flags.enable_grpc_healthcheck_service else None
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"{flags.host}:{flags.port}") if flags.port else 0
        if flags.grpc_socket_path:
            self._server.add_insecure_port(f"unix:{flags.grpc_socket_path}")

    def _prediction_service(self) -> grpc.GenericRpcHandler:
        core = self._core
        methods = {
            "Predict": self._method(predict_pb2.PredictRequest, core.predict),
            "Classify": self._method(classification_pb2.ClassificationRequest, core.classify),
            "Regress": self._method(regression_pb2.RegressionRequest, core.regress),
            "MultiInference": self._method(inference_pb2.MultiInferenceRequest, core.multi_inference),
            "GetModelMetadata": self._method(get_model_metadata_pb2.GetModelMetadataRequest, _untimed(core.metadata)),
        }
        return grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods)

    def _model_service(self) -> grpc.GenericRpcHandler:
        methods = {
            "GetModelStatus": self._method(get_model_status_pb2.GetModelStatusRequest, _untimed(self._core.status)),
            "HandleReloadConfigRequest": grpc.unary_unary_rpc_method_handler(self._answering(self._reload)),
        }
        return grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", methods)

    def _method(self, kind: Any, call: Callable[[Any, int], Any]) -> grpc.RpcMethodHandler:
        async def handle(data: bytes, context: Context) -> bytes:
            deadline = Deadline(context.time_remaining())
            return await self._workers.run(_call, kind, call, data, deadline, size=len(data))

        return grpc.unary_unary_rpc_method_handler(self._answering(handle))

    def _answering(
        self, handle: Callable[[bytes, Context], Awaitable[bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """Tells the client an error of `handle`, cut short like the original does."""

        async def handle_or_abort(data: bytes, context: Context) -> bytes:
            if self._stopping:
                return await context.abort(grpc.StatusCode.UNAVAILABLE, "Server shutdown")
            self._under_way += 1
            try:
                return await handle(data, context)
            except Exception as error:
                code, text = _told(from_exception(error))
            finally:
                self._under_way -= 1
            return await context.abort(code, text)

        return handle_or_abort

    async def _reload(self, data: bytes, _: Context) -> bytes:
        """On a thread of its own, because it waits for models to load; a client that leaves ends the wait."""
        request = _parse(model_management_pb2.ReloadConfigRequest, data)
        given_up = threading.Event()
        try:
            return (await asyncio.to_thread(self._core.reload, request, given_up)).SerializeToString()
        finally:
            given_up.set()

    async def start(self) -> None:
        """Takes calls from now on."""
        await self._server.start()
        if self._health is not None:
            await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Takes no more calls and waits for those under way."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        self._stopping = True
        end = time.monotonic() + self._grace_seconds
        while self._under_way and time.monotonic() < end:
            await asyncio.sleep(_LOOK_SECONDS)
        # What is left came after: gRPC may keep a call that comes with the stop, and never hand it on.
        await self._server.stop(min(_STRAY_SECONDS, self._grace_seconds))


def _told(error: ServingError) -> tuple[Code, str]:
    is_long = len(error.message) > _LONGEST_TEXT
    return error.code, error.message[:_LONGEST_TEXT] + "...TRUNCATED" if is_long else error.message


def _untimed(call: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    return lambda request, _: call(request)


def _call(kind: Any, call: Callable[[Any, int], Any], data: bytes, deadline: Deadline) -> bytes:
    return call(_parse(kind, data), deadline.remaining_ms()).SerializeToString()


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except message.DecodeError as error:
        raise ServingError(Code.INTERNAL, "The request is no such message") from error


def _options(flags: Flags) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", flags.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    for argument in filter(None, flags.grpc_channel_arguments.split(",")):
        name, _, value = argument.partition("=")
        options.append((name, int(value) if value.lstrip("-").isdigit() else value))
    return options
