"""Worker threads behind the event loop, with a bound on how much may be under way."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.embedded.errors import Code, ServingError

T = TypeVar("T")
_LARGE_BYTES = 1 << 20
_LARGE_AT_ONCE = 2
_LONGEST_MS = 2**31 - 1


class Deadline:
    """When a request is of no more use.

    Args:
        seconds: From now; None for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None or seconds * 1000 > _LONGEST_MS else time.monotonic() + seconds

    def remaining_ms(self) -> int:
        """The time left in milliseconds, 0 for no limit.

        Raises:
            ServingError: DEADLINE_EXCEEDED if none is left.
        """
        if self._at is None:
            return 0
        milliseconds = math.ceil((self._at - time.monotonic()) * 1000)
        if milliseconds <= 0:
            raise ServingError(Code.DEADLINE_EXCEEDED, "The request waited until its deadline")
        return milliseconds


class Workers:
    """Runs blocking calls; turns requests away rather than let a queue grow.

    An exception holds the frames it passed, and these the request. No frame may hold the exception or its future in turn: such
    a circle, and a large request with it, stays until the garbage collector's next full run.

    Args:
        threads: Calls run at once.
        limit: Calls running and waiting.
    """

    def __init__(self, threads: int, limit: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "request")
        self._limit = limit
        self._under_way = 0
        # Parsing a large body takes many times its size in memory.
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def run(self, call: Callable[..., T], *arguments: object, size: int = 0) -> T:
        """Runs `call` on a thread; `size` is the length of the request in bytes.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if too many calls are under way; else what `call` raises.
        """
        if self._under_way >= self._limit:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "Too many requests under way; try again later", 503)
        if size <= _LARGE_BYTES:
            return await self._start(call, *arguments)
        async with self._large:
            try:
                return await self._start(call, *arguments)
            finally:
                with contextlib.suppress(RuntimeError):  # the server is closing
                    self._pool.submit(_return_memory)

    def _start(self, call: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        future = self._pool.submit(call, *arguments)
        self._under_way += 1
        loop = asyncio.get_running_loop()
        # A call whose client has left still counts until its thread is free.
        future.add_done_callback(lambda done: _tell(loop, self._finished, done))
        return asyncio.wrap_future(future)

    def _finished(self, _: Future[object]) -> None:
        self._under_way -= 1

    def close(self) -> None:
        """Lets running calls end and drops those that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _return_memory() -> None:
    """Gives what the C library keeps of freed memory back to the system; only glibc keeps it, and has the call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)
