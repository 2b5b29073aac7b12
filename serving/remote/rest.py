"""Calls over REST: `/v1/models/NAME[/labels/L]:predict` in columnar form."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
from numpy.typing import NDArray

from serving.remote.calls import Arrays, Call, VersionStatus
from serving.remote.errors import DEADLINE_EXCEEDED, NOT_FOUND, UNAVAILABLE, CallError, reading

_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.NOT_FOUND: NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: DEADLINE_EXCEEDED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RESOURCE_EXHAUSTED",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    HTTPStatus.SERVICE_UNAVAILABLE: UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: DEADLINE_EXCEEDED,
}


class RestTransport:
    """Connections to a REST port, kept open between calls.

    Args:
        address: `http://host:port` or `https://host:port`.
        model: name of the model.
        label: of the version wanted; empty for the newest.
    """

    def __init__(self, address: str, model: str, label: str) -> None:
        self._address, self._model = address, model
        self._url = f"{address}/v1/models/{quote(model, safe='')}"
        self._label = f"/labels/{quote(label, safe='')}" if label else ""
        self._session: aiohttp.ClientSession | None = None

    async def predict(self, call: Call[Any], timeout: float) -> Arrays:
        """Sends a call and returns its outputs.

        Raises:
            CallError: If the server cannot be reached or refuses.
        """
        inputs = {name: _json_values(array) for name, array in call.inputs.items()}
        body = {"signature_name": call.signature, "inputs": inputs}
        answer = await self._send("POST", f"{self._url}{self._label}:predict", timeout, body)
        with reading(self._address, self._model, f"`{call.signature}`"):
            return {name: np.array(values, _kind(values)) for name, values in answer["outputs"].items()}

    async def status(self, timeout: float) -> list[VersionStatus]:
        """The versions of the model, newest first."""
        answer = await self._send("GET", self._url, timeout)
        with reading(self._address, self._model, "`status`"):
            return [
                VersionStatus(int(row["version"]), row["state"], row.get("status", {}).get("error_message", ""))
                for row in answer["model_version_status"]
            ]

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _send(self, method: str, url: str, timeout: float, body: Any = None) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=True)
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(method, url, json=body, timeout=limit) as response:
                return self._read(response.status, await response.read())
        except TimeoutError as error:
            raise self._error(DEADLINE_EXCEEDED, f"no answer within {timeout:.3g} seconds") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            # Never sent, or lost on the way: a question can be asked again.
            raise self._error(UNAVAILABLE, getattr(error, "strerror", None) or str(error)) from error
        except aiohttp.ClientError as error:
            raise self._error("INTERNAL", str(error)) from error

    def _read(self, status: int, body: bytes) -> Any:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        if status == HTTPStatus.OK:
            return answer
        reason = answer.get("error", "") if isinstance(answer, dict) else ""
        raise self._error(_CODES.get(status, "INTERNAL"), str(reason or f"HTTP status {status}"))

    def _error(self, code: str, cause: str) -> CallError:
        return CallError(self._address, self._model, code, cause)


def _json_values(array: NDArray[Any]) -> list[Any]:
    return array.tolist() if array.dtype != object else _with_base64(array.tolist())


def _with_base64(values: Any) -> Any:
    if isinstance(values, list):
        return [_with_base64(value) for value in values]
    return {"b64": base64.b64encode(values).decode()} if isinstance(values, bytes) else values


def _kind(values: Any) -> Any:
    """Object for texts, whatever NumPy finds for numbers."""
    while isinstance(values, list) and values:
        values = values[0]
    return object if isinstance(values, str) else None
