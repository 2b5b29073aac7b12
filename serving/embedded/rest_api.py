"""The REST interface, on aiohttp's low-level server: TensorFlow Serving matches paths in ways that no router does."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.web_protocol import RequestHandler
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.embedded import json_output
from serving.embedded.core import Core
from serving.embedded.errors import Code, ServingError, from_exception, invalid
from serving.embedded.flags import Flags
from serving.embedded.workers import Deadline, Workers

_LOG = logging.getLogger(__name__)
_VERSION = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_INFERENCE_PATH = re.compile(rf"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS_PATH = re.compile(rf"/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_ANY_PATH = re.compile(r"/v1/.*|/v1/models", re.IGNORECASE)
_METHODS = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"}
_JSON = {"Content-Type": "application/json"}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_HTTP_STATUS = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
_REASONS = {400: "Bad Request", 404: "Not Found", 500: "Internal Server Error", 501: "Not Implemented"}
_LARGEST_VERSION = 2**63 - 1
_HEADER_SECONDS = 30
_BODY_SECONDS = 60


class _Connection(RequestHandler):
    """A connection that is closed when its first request does not come in time, and answers bad requests in HTML."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        asyncio.get_running_loop().call_later(_HEADER_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.transport is not None and not self._request_count:
            self.transport.abort()

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            _LOG.error("HTTP error %d", status, exc_info=exc)
        return _page(501 if isinstance(exc, BadHttpMethod) else status)


class _Server(web.Server):
    """aiohttp's server with connections of our own kind, which leave bodies as they came."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, auto_decompress=False, access_log=None, keepalive_timeout=75)


class RestApi:
    """The REST server.

    Args:
        core: The models.
        workers: The threads that work.
        flags: Port, limits and options.
        metrics_path: Where the page for Prometheus lies, None for nowhere.
    """

    def __init__(self, core: Core, workers: Workers, flags: Flags, metrics_path: str | None) -> None:
        self._core = core
        self._workers = workers
        self._flags = flags
        self._metrics_path = metrics_path
        self._common = _CORS if flags.rest_api_enable_cors_support else {}
        self._buffered = 0
        self._calls = {
            "predict": core.predict_json,
            "classify": core.classify_json,
            "regress": core.regress_json,
        }
        self._runner = web.ServerRunner(_Server(self._handle), shutdown_timeout=flags.shutdown_grace_seconds)
        self.port = 0

    async def start(self) -> None:
        """Takes requests from now on."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._flags.host, self._flags.rest_api_port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Takes no more requests and waits for those under way."""
        await self._runner.cleanup()

    # ---------------------------------------------------------------- routing

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = _path(request.raw_path)
        if request.method not in _METHODS:
            return _page(501)
        if self._metrics_path is not None and path == self._metrics_path:
            return web.Response(body=self._core.metrics.page().encode(), headers={"Content-Type": "text/plain"})
        if not _ANY_PATH.fullmatch(path):
            return _page(404)
        if request.method == "OPTIONS":
            return self._preflight(request)
        try:
            body = await self._answer(request, path)
        except Exception as error:
            return self._failure(from_exception(error))
        return web.Response(body=body, headers={**_JSON, **self._common})

    def _failure(self, error: ServingError) -> web.Response:
        status = error.http_status or _HTTP_STATUS.get(error.code, 500)
        body = json_output.error_body(error.message) if error.message else b""
        return web.Response(status=status, body=body, headers={**_JSON, **self._common})

    def _preflight(self, request: web.BaseRequest) -> web.Response:
        is_known = re.search(r"https?://", request.headers.get("Origin", "")) is not None
        headers = {"Content-Type": "text/html; charset=ISO-8859-1", **self._common}
        return web.Response(status=200 if is_known else 400, headers=headers)

    async def _answer(self, request: web.BaseRequest, path: str) -> bytes:
        match = _INFERENCE_PATH.fullmatch(path) if request.method == "POST" else None
        if match and match[4] in self._calls:
            return await self._infer(request, _spec(*match.groups()[:3]), match[4])
        match = _STATUS_PATH.fullmatch(path) if request.method == "GET" else None
        if match:
            if match[1] is None:
                raise invalid("Missing model name in request.")
            spec = _spec(*match.groups()[:3])
            call = self._metadata if match[4] == "metadata" else self._status
            return await self._workers.run(call, spec)
        raise invalid(f"Malformed request: {request.method} {path}")

    def _status(self, spec: model_pb2.ModelSpec) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return (_json(self._core.status(request)) + "\n").encode()

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._core.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec_text, signature_text = _json(response.model_spec), _json(signatures)
        return f'{{\n"model_spec":{spec_text}\n,\n"metadata": {{"signature_def": {signature_text}\n}}\n}}\n'.encode()

    # ----------------------------------------------------------------- bodies

    async def _infer(self, request: web.BaseRequest, spec: model_pb2.ModelSpec, method: str) -> bytes:
        if "100-continue" in request.headers.get("Expect", "").lower() and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.content.iter_chunked(1 << 16):
                    size += len(chunk)
                    self._buffered += len(chunk)
                    self._check_size(size)
                    chunks.append(chunk)
            body = _decompressed(b"".join(chunks), request.headers.get("Content-Encoding", ""), self._flags)
            deadline = Deadline(self._flags.rest_api_timeout_in_ms / 1000)
            return await self._workers.run(_call, self._calls[method], spec, body, deadline, size=len(body))
        except TimeoutError as error:
            raise ServingError(Code.DEADLINE_EXCEEDED, "The request body did not come in time", 408) from error
        finally:
            self._buffered -= size

    def _check_size(self, size: int) -> None:
        if size > self._flags.max_json_bytes:
            raise _too_large(self._flags)
        if self._buffered > self._flags.max_buffered_bytes:
            text = "Too many large requests under way; try again later"
            raise ServingError(Code.RESOURCE_EXHAUSTED, text, 503)


def _call(call: Callable[..., bytes], spec: model_pb2.ModelSpec, body: bytes, deadline: Deadline) -> bytes:
    return call(spec, body, deadline.remaining_ms())


def _too_large(flags: Flags) -> ServingError:
    text = f"The request is larger than --max_json_bytes={flags.max_json_bytes}; gRPC takes more"
    return ServingError(Code.RESOURCE_EXHAUSTED, text, 413)


def _decompressed(body: bytes, encoding: str, flags: Flags) -> bytes:
    """Undoes gzip where the header has that word; a damaged stream counts as an empty body, as in the original."""
    if "gzip" not in encoding:
        return body
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, flags.max_json_bytes)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise _too_large(flags)
    return plain if stream.eof else b""


def _path(raw: str) -> str:
    """The request target without the scheme and host of an absolute one; a query stays part of the path."""
    if raw.startswith("/"):
        return raw
    parts = urlsplit(raw)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=_unquote(name))
    if version is not None:
        digits = version.lstrip("0")[: len(str(_LARGEST_VERSION)) + 1] or "0"  # `int` raises on thousands of digits
        if int(digits) > _LARGEST_VERSION:
            raise invalid("")  # the original answers 400 with an empty body
        spec.version.value = int(digits)
    if label is not None:
        spec.version_label = _unquote(label)
    return spec


def _unquote(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _json(message: Any) -> str:
    fields = json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)
    return json.dumps(_whole(fields), indent=1, ensure_ascii=False)


def _whole(value: Any) -> Any:
    """Floats without a fraction as integers, which is how protobuf's C++ printer writes them."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _page(status: int) -> web.Response:
    reason = _REASONS.get(status, "Error")
    html = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    response = web.Response(status=status, text=html, content_type="text/html")
    response.force_close()
    return response
