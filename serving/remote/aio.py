"""The client for programs with an event loop of their own."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from serving.remote import calls
from serving.remote.calls import Arrays, Call, Embedding, Filters, Match, Query, Recommendation, VersionStatus
from serving.remote.errors import DEADLINE_EXCEEDED, UNAVAILABLE, CallError, reading
from tfrec.errors import TfrecError

T = TypeVar("T")
DEFAULT_SERVER = "http://127.0.0.1:8501"
_ADDRESS = re.compile(r"(https?|grpcs?)://[^/\s]+")
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 2.0


class Transport(Protocol):
    """A way to one model on one server."""

    async def predict(self, call: Call[Any], timeout: float) -> Arrays:
        """Sends a call and returns its outputs."""

    async def status(self, timeout: float) -> list[VersionStatus]:
        """The versions of the model, newest first."""

    async def close(self) -> None:
        """Closes connections."""


class AsyncClient:
    """Asks a model server; an asynchronous context manager. Connections are opened at the first call and kept.

    A call that finds the server unavailable (gRPC UNAVAILABLE, HTTP 503, no connection or one that broke) is made again after
    random waits that double, as long as its deadline allows; no other failure is. Answers change nothing on the server, so a
    call that was lost on the way may be made twice.

    Args:
        server: `http://host:port` or `https://...` for REST, `grpc://host:port` or `grpcs://...` for gRPC.
        model: answers all but `embed_video`.
        video_encoder: answers `embed_video`.
        label: of the version of `model` that is wanted, for instance `canary`; empty for the newest.
        timeout: seconds that a call may take, further tries among them.
        retries: further tries at most.

    Raises:
        TfrecError: If `server` is no such address, or a number cannot work.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        model: str = "recommender",
        *,
        video_encoder: str = "video_encoder",
        label: str = "",
        timeout: float = 5.0,
        retries: int = 4,
    ) -> None:
        if not _ADDRESS.fullmatch(server.rstrip("/")):
            raise TfrecError(
                f"`server` must be http://HOST:PORT (REST) or grpc://HOST:PORT (gRPC), or their TLS forms https:// and "
                f"grpcs://. Received: {server!r}."
            )
        if not 0 < timeout < math.inf or retries < 0:
            raise TfrecError(
                f"`timeout` must be above 0 and finite, and `retries` at least 0. Received: timeout={timeout}, retries={retries}."
            )
        self._server, self._model, self._video_encoder, self._label = server.rstrip("/"), model, video_encoder, label
        self._timeout, self._retries = timeout, retries
        self._transports: dict[str, Transport] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        for transport in self._transports.values():
            await transport.close()
        self._transports.clear()

    async def recommend(
        self,
        user_id: str = "",
        history: Sequence[str] = (),
        *,
        history_timestamp: Sequence[int] = (),
        timestamp: int = 0,
        exclude: Sequence[str] = (),
        k: int = 10,
        filters: Filters | None = None,
    ) -> list[Recommendation]:
        """A slate for one user.

        Args:
            user_id: may be unknown, or empty.
            history: video ids, oldest first.
            history_timestamp: Unix seconds of the same events; none at all where unknown.
            timestamp: Unix seconds of the request, 0 for now.
            exclude: video ids that may not be shown.
            k: slots wanted; what the model was exported with bounds them.
            filters: allow-list, block-list, safety, weights and diversity; None for the exported defaults.

        Returns:
            The filled slots, best first.

        Raises:
            CallError: Naming server, model and cause, as do the other calls.
        """
        query = Query(user_id, history, history_timestamp, timestamp, exclude, k, filters)
        return (await self.recommend_batch([query]))[0]

    async def recommend_batch(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """Slates for several users in one call, in their order."""
        return await self._predict(self._model, calls.recommend(queries)) if queries else []

    async def similar(self, video_id: str, k: int = 10) -> list[Match]:
        """The `k` videos most alike to one of the catalogue; none for one that is unknown."""
        return await self._predict(self._model, calls.similar(video_id, k))

    async def search(self, text: str, k: int = 10) -> list[Match]:
        """The `k` best videos for a free text, where the model has a text tower."""
        return await self._predict(self._model, calls.search(text, k))

    async def embed_video(
        self,
        video: str | Path | None = None,
        *,
        title: str = "",
        generate_method: str = "",
        gen_params: Sequence[float] = (),
        prompt: str | None = None,
        created_at: int = 0,
        columns: Mapping[str, str] | None = None,
    ) -> Embedding:
        """Places a new video in the index's space.

        Args:
            video: file, of which frames and sound are taken on this machine, as the encoder says that training took them; None
                for no media.
            title: the whole text: title, tags and prompt, joined with ". "; the title alone where any of the last three is given.
            generate_method: how it was made.
            gen_params: numbers that the generator was given; as many as in training, or none.
            prompt: that it was made from.
            created_at: Unix seconds, 0 for now, -1 where unknown.
            columns: other cells of its row of videos.csv by column, `tags` among them, written as there.

        Raises:
            TfrecError: If the file cannot be read, before anything of it is sent.
        """
        frames: list[bytes] = []
        audio = b""
        if video is not None:
            from serving.remote.media import read_video

            media_format = await self._predict(self._video_encoder, calls.media_format())
            frames, audio = await asyncio.to_thread(read_video, Path(video), media_format)
        call = calls.embed_video(title, frames, audio, generate_method, gen_params)
        if prompt is not None or created_at or columns is not None:
            call = calls.embed_video_row(call, prompt or "", created_at, columns or {})
        return await self._predict(self._video_encoder, call)

    async def status(self, model: str | None = None) -> list[VersionStatus]:
        """The versions of a model that the server knows, newest first."""
        name = model or self._model
        return await self._in_time(name, lambda left: self._transport(name).status(left))

    async def is_healthy(self, model: str | None = None) -> bool:
        """Whether the server answers and a version of the model serves."""
        try:
            return any(version.state == "AVAILABLE" for version in await self.status(model))
        except CallError:
            return False

    async def _predict(self, model: str, call: Call[T]) -> T:
        outputs = await self._in_time(model, lambda left: self._transport(model).predict(call, left))
        with reading(self._server, model, f"`{call.signature}`"):
            return call.read(outputs)

    def _transport(self, model: str) -> Transport:
        if model not in self._transports:
            self._transports[model] = self._open(model)
        return self._transports[model]

    def _open(self, model: str) -> Transport:
        label = self._label if model == self._model else ""
        for name, text in (("server", self._server), ("model", model), ("label", label)):
            calls.require_utf8(name, text)
        # Imported here, since each library takes a while to load and one of them is enough.
        if self._server.startswith("http"):
            from serving.remote.rest import RestTransport

            return RestTransport(self._server, model, label)
        from serving.remote.grpc_transport import GrpcTransport

        return GrpcTransport(self._server, model, label)

    async def _in_time(self, model: str, send: Callable[[float], Awaitable[T]]) -> T:
        """Sends once, and again while the server is unavailable and time is left; `send` is told the seconds left."""
        loop = asyncio.get_running_loop()
        end, failures = loop.time() + self._timeout, [""]

        async def attempt() -> T:
            try:
                return await send(max(end - loop.time(), 0.001))
            except CallError as error:
                failures.append(error.cause)
                raise

        again = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.code == UNAVAILABLE),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
            stop=stop_after_attempt(self._retries + 1),
            reraise=True,
        )
        try:
            async with asyncio.timeout_at(end):
                return await again(attempt)
        except TimeoutError:
            cause = failures[-1] or f"no answer within {self._timeout:g} seconds"
            raise CallError(self._server, model, UNAVAILABLE if failures[-1] else DEADLINE_EXCEEDED, cause) from None
