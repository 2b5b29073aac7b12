"""Decoding in worker processes, so that a bad file can cost no more than itself.

A worker is a fresh interpreter that imports neither TensorFlow nor the caller's main module, and that gets one file at a
time over a pipe. If it dies, the file it had is to blame; if it is late, it is killed; either way the next file gets a new
worker.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import tfrec
from tfrec.data.schema import MediaSource
from tfrec.media.container import MediaError, timeout_reason
from tfrec.media.read import Decoded, DecodeSettings, main_path

Tag = TypeVar("Tag")
_GRACE_SECONDS = 2.0  # a worker that watches its own deadline says so; one that hangs does not
_JOBS_AHEAD_PER_WORKER = 8


class DecodePool:
    """Workers that decode media; a context manager.

    Args:
        settings: what to take from each file.
        workers: number of processes; 0 means one per core.
    """

    def __init__(self, settings: DecodeSettings, workers: int = 0) -> None:
        self._settings = settings
        self._count = workers or os.cpu_count() or 1
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker() for _ in range(self._count)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="decode")

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()  # wakes its thread, which may be using the connection: only then is that closed
        self._threads.shutdown()
        for worker in self._workers:
            worker.stop()

    def decode(self, sources: Iterable[tuple[Tag, MediaSource]]) -> Iterator[tuple[Tag, Decoded | MediaError]]:
        """Yields each source's frames and sound, or why there are none, in the order given.

        A few sources per worker are read ahead, so memory does not grow with their number.
        """
        ahead: deque[tuple[Tag, Future[Decoded | MediaError]]] = deque()
        for tag, source in sources:
            ahead.append((tag, self._threads.submit(self._run, source)))
            if len(ahead) >= _JOBS_AHEAD_PER_WORKER * self._count:
                first, result = ahead.popleft()
                yield first, result.result()
        for tag, result in ahead:
            yield tag, result.result()

    def _run(self, source: MediaSource) -> Decoded | MediaError:
        worker = self._idle.get()
        try:
            return worker.decode(source, self._settings)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, started when it is first needed and after each that was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def decode(self, source: MediaSource, settings: DecodeSettings) -> Decoded | MediaError:
        try:
            connection = self._connection or self._start()
            connection.send((source, settings))
            if connection.poll(settings.timeout_seconds + _GRACE_SECONDS):
                return connection.recv()
            reason = timeout_reason(settings.timeout_seconds)
        except (EOFError, OSError):
            reason = f"the decoder crashed on it (exit status {self._process and self._process.wait()})"
        self.stop()
        return MediaError(main_path(source), reason, lasting=False)

    def kill(self) -> None:
        """Ends the process, and with it the job it is at; from any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """Ends the process and closes the connection; from the thread that uses it."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        root = str(Path(tfrec.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfrec.media.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = ours
        ours.recv()  # it is ready: what it took to start is no file's fault
        return ours
