"""The gRPC interface: PredictionService, ModelService and, if asked for, the health service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.embedded.core import Core
from serving.embedded.errors import from_exception
from serving.embedded.flags import Flags
from serving.embedded.workers import Workers

Context = grpc.aio.ServicerContext
_LONGEST_MS = 2**31 - 1


class _Caller:
    """Runs calls on worker threads and tells their errors to the client."""

    def __init__(self, core: Core, workers: Workers) -> None:
        self._core = core
        self._workers = workers

    async def _timed(self, context: Context, call: Callable[..., Any], request: Any) -> Any:
        return await self._answer(context, call, request, _timeout_ms(context), size=request.ByteSize())

    async def _answer(self, context: Context, call: Callable[..., Any], *arguments: Any, size: int = 0) -> Any:
        try:
            return await self._workers.run(call, *arguments, size=size)
        except Exception as error:
            known = from_exception(error)
        await context.abort(known.code, known.message)


def _timeout_ms(context: Context) -> int:
    """The time that the client still gives, 0 for no limit."""
    remaining = context.time_remaining()
    if remaining is None or remaining * 1000 > _LONGEST_MS:
        return 0
    return max(1, int(remaining * 1000))


class PredictionService(_Caller, prediction_service_pb2_grpc.PredictionServiceServicer):
    """tensorflow.serving.PredictionService."""

    async def Predict(self, request: predict_pb2.PredictRequest, context: Context) -> Any:  # noqa: N802
        """Runs a signature."""
        return await self._timed(context, self._core.predict, request)

    async def Classify(self, request: classification_pb2.ClassificationRequest, context: Context) -> Any:  # noqa: N802
        """Runs a classification signature."""
        return await self._timed(context, self._core.classify, request)

    async def Regress(self, request: regression_pb2.RegressionRequest, context: Context) -> Any:  # noqa: N802
        """Runs a regression signature."""
        return await self._timed(context, self._core.regress, request)

    async def MultiInference(self, request: inference_pb2.MultiInferenceRequest, context: Context) -> Any:  # noqa: N802
        """Runs several signatures on the same examples."""
        return await self._timed(context, self._core.multi_inference, request)

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> Any:
        """The signatures of a version."""
        return await self._answer(context, self._core.metadata, request)


class ModelService(_Caller, model_service_pb2_grpc.ModelServiceServicer):
    """tensorflow.serving.ModelService."""

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> Any:
        """The states of a model's versions."""
        return await self._answer(context, self._core.status, request)

    async def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: Context
    ) -> Any:
        """Replaces the model config; on a thread of its own, because it waits for models to load."""
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(self._core.reload, request, given_up)
        except Exception as error:
            known = from_exception(error)
        finally:
            given_up.set()
        await context.abort(known.code, known.message)


class GrpcApi:
    """The gRPC server.

    Args:
        core: The models.
        workers: The threads that work.
        flags: Port, limits and options.
    """

    def __init__(self, core: Core, workers: Workers, flags: Flags) -> None:
        self._server = grpc.aio.server(options=_options(flags), maximum_concurrent_rpcs=flags.max_concurrent_requests)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(core, workers), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core, workers), self._server)
        self._health = health.aio.HealthServicer() if flags.enable_grpc_healthcheck_service else None
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"{flags.host}:{flags.port}")
        if flags.grpc_socket_path:
            self._server.add_insecure_port(f"unix:{flags.grpc_socket_path}")

    async def start(self) -> None:
        """Takes calls from now on."""
        await self._server.start()
        if self._health is not None:
            await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Takes no more calls, and waits `grace_seconds` at most for those under way."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


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
