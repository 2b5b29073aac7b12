"""The client of a model server, and `python -m serving.client`.

    with Client("grpc://127.0.0.1:8500") as client:
        for slot in client.recommend("u00050", history=["v0003", "v0017"], k=5):
            print(slot.video_id, slot.score, slot.reason)

`AsyncClient` has the same calls as coroutines. Both work over REST (`http://`) and gRPC (`grpc://`), with TensorFlow Serving and
with the embedded server.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from serving.remote.aio import DEFAULT_SERVER, AsyncClient
from serving.remote.calls import Embedding, Filters, Match, Query, Recommendation, VersionStatus
from serving.remote.errors import CallError
from tfrec.errors import TfrecError

__all__ = [
    "AsyncClient",
    "CallError",
    "Client",
    "Embedding",
    "Filters",
    "Match",
    "Query",
    "Recommendation",
    "VersionStatus",
]

T = TypeVar("T")


class Client:
    """Asks a model server; a context manager, safe to share between threads.

    An `AsyncClient` behind it runs in a thread of its own; see there for the arguments and calls.

    Args:
        server: where it is.
        model: answers all but `embed_video`.
        options: the others of `AsyncClient`.
    """

    def __init__(self, server: str = DEFAULT_SERVER, model: str = "recommender", **options: Any) -> None:
        self._client = AsyncClient(server, model, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a second time does nothing."""
        if not self._loop.is_closed():
            self._wait(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            call.close()
            raise TfrecError("This client was closed. Make another, or call within `with Client(...)`.")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def recommend(self, user_id: str = "", history: Sequence[str] = (), **options: Any) -> list[Recommendation]:
        """A slate for one user."""
        return self._wait(self._client.recommend(user_id, history, **options))

    def recommend_batch(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """Slates for several users in one call."""
        return self._wait(self._client.recommend_batch(queries))

    def similar(self, video_id: str, k: int = 10) -> list[Match]:
        """The `k` videos most alike to one of the catalogue."""
        return self._wait(self._client.similar(video_id, k))

    def search(self, text: str, k: int = 10) -> list[Match]:
        """The `k` best videos for a free text."""
        return self._wait(self._client.search(text, k))

    def embed_video(self, video: str | Path | None = None, **options: Any) -> Embedding:
        """Places a new video in the index's space."""
        return self._wait(self._client.embed_video(video, **options))

    def status(self, model: str | None = None) -> list[VersionStatus]:
        """The versions of a model that the server knows, newest first."""
        return self._wait(self._client.status(model))

    def is_healthy(self, model: str | None = None) -> bool:
        """Whether the server answers and a version of the model serves."""
        return self._wait(self._client.is_healthy(model))


if __name__ == "__main__":
    from serving.remote.command import main

    sys.exit(main())
