"""Dynamic batching: requests that arrive together run as one.

The first request of a batch leads it: its thread waits for a free slot and, if so told, a little longer for company, then
runs the batch; the other threads wait for their rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.embedded.config_files import BatchingParameters
from serving.embedded.errors import Code, ServingError, invalid
from serving.embedded.saved_model import SavedModel

Feeds = Mapping[str, np.ndarray]


@dataclass(eq=False)
class _Task:
    feeds: Feeds
    rows: int
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    outputs: list[np.ndarray] | None = None
    error: ServingError | None = None


@dataclass(eq=False)
class _Batch:
    """Tasks of one signature that will run together, while it is open to more."""

    fetches: tuple[str, ...]
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    full: threading.Event = field(default_factory=threading.Event)


class Batcher:
    """Runs a model's signatures in batches; same interface as `SavedModel.run`.

    Args:
        model: The model.
        parameters: How to batch.
        record_size: Called with the number of rows of each batch.
    """

    def __init__(self, model: SavedModel, parameters: BatchingParameters, record_size: Callable[[int], None]) -> None:
        self._model = model
        self._parameters = parameters
        self._record_size = record_size
        signatures = model.signatures.values()
        self._batched = {(frozenset(s.inputs.values()), frozenset(s.outputs.values())) for s in signatures if s.inputs}
        self._slots = threading.Semaphore(parameters.num_batch_threads)
        self._lock = threading.Lock()
        self._open: dict[Any, _Batch] = {}
        self._waiting = 0

    def run(self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int) -> list[np.ndarray]:
        """Runs one request, alone where it is not a whole signature.

        Raises:
            ServingError: UNAVAILABLE where too many batches wait; else as `SavedModel.run`.
        """
        if (frozenset(feeds), frozenset(fetches)) not in self._batched:
            return self._model.run(feeds, fetches, timeout_ms)
        self._model.check_types(feeds)
        rows = _rows(feeds)
        limit = self._parameters.max_execution_batch_size or self._parameters.max_batch_size
        if self._parameters.enable_large_batch_splitting and rows > limit:
            return self._run_pieces(feeds, fetches, timeout_ms, rows, limit)
        if rows > self._parameters.max_batch_size:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {self._parameters.max_batch_size}")
        return self._run_task(_Task(feeds, rows, _deadline(timeout_ms)), tuple(fetches))

    def _run_pieces(
        self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int, rows: int, size: int
    ) -> list[np.ndarray]:
        cuts = range(0, rows, size)
        pieces = [{name: array[cut : cut + size] for name, array in feeds.items()} for cut in cuts]
        deadline = _deadline(timeout_ms)
        results = [self._run_task(_Task(piece, _rows(piece), deadline), tuple(fetches)) for piece in pieces]
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _run_task(self, task: _Task, fetches: tuple[str, ...]) -> list[np.ndarray]:
        batch, is_leader = self._join(task, fetches)
        if is_leader:
            self._lead(batch)
        elif not task.done.wait(max(0.0, task.deadline - time.monotonic())):
            raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for a batch")
        if task.error is not None:
            raise task.error
        assert task.outputs is not None
        return task.outputs

    def _key(self, task: _Task, fetches: tuple[str, ...]) -> Any:
        """Requests join only where their arrays fit, so that none can fail another by its shape."""
        if self._parameters.pad_variable_length_inputs:
            return fetches, tuple(sorted((name, array.ndim) for name, array in task.feeds.items()))
        return fetches, tuple(sorted((name, array.shape[1:]) for name, array in task.feeds.items()))

    def _join(self, task: _Task, fetches: tuple[str, ...]) -> tuple[_Batch, bool]:
        key = self._key(task, fetches)
        with self._lock:
            batch = self._open.get(key)
            if batch is not None and batch.rows + task.rows > self._parameters.max_batch_size:
                batch.full.set()
                batch = None
            is_leader = batch is None
            if batch is None:
                if self._waiting >= self._parameters.max_enqueued_batches:
                    text = "The batch scheduling queue to which this task was submitted is full"
                    raise ServingError(Code.UNAVAILABLE, text)
                self._waiting += 1
                batch = self._open[key] = _Batch(fetches)
            batch.tasks.append(task)
            batch.rows += task.rows
            if batch.rows >= self._parameters.max_batch_size:
                batch.full.set()
                self._open.pop(key)
        return batch, is_leader

    def _lead(self, batch: _Batch) -> None:
        if self._parameters.batch_timeout_micros:
            batch.full.wait(self._parameters.batch_timeout_micros / 1e6)
        with self._slots:
            with self._lock:
                self._waiting -= 1
                for key in [key for key, other in self._open.items() if other is batch]:
                    del self._open[key]
            self._run_batch(batch)

    def _run_batch(self, batch: _Batch) -> None:
        now = time.monotonic()
        live = [task for task in batch.tasks if task.deadline > now]
        for task in set(batch.tasks) - set(live):
            task.error = ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for a batch")
        try:
            if live:
                self._run_together(live, batch.fetches)
        except ServingError as error:
            self._run_apart(live, batch.fetches, error)
        finally:
            for task in batch.tasks:
                if task.outputs is None and task.error is None:
                    task.error = ServingError(Code.INTERNAL, "The batch failed")
                task.done.set()

    def _run_together(self, tasks: list[_Task], fetches: tuple[str, ...]) -> None:
        rows = sum(task.rows for task in tasks)
        self._record_size(rows)
        feeds = {name: self._merge([task.feeds[name] for task in tasks], rows) for name in tasks[0].feeds}
        timeout = max(task.deadline for task in tasks) - time.monotonic()
        outputs = self._model.run(feeds, fetches, max(1, int(min(timeout, 1e6) * 1000)))
        self._share(outputs, tasks, self._padded(rows))

    def _run_apart(self, tasks: list[_Task], fetches: tuple[str, ...], error: ServingError) -> None:
        """After a failure each request runs alone, so that it pays only for its own faults."""
        if len(tasks) == 1:
            tasks[0].error = error
            return
        for task in tasks:
            try:
                self._run_together([task], fetches)
            except ServingError as own:
                task.error = own

    def _padded(self, rows: int) -> int:
        return next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)

    def _merge(self, arrays: list[np.ndarray], rows: int) -> np.ndarray:
        merged = np.concatenate(_pad_to_fit(arrays)) if len(arrays) > 1 else arrays[0]
        surplus = self._padded(rows) - rows
        return np.concatenate([merged, np.repeat(merged[:1], surplus, axis=0)]) if surplus and rows else merged

    def _share(self, outputs: list[np.ndarray], tasks: list[_Task], rows: int) -> None:
        for output in outputs:
            if not output.ndim:
                raise invalid("Batched output tensor has 0 dimensions")
            if len(output) != rows:
                raise invalid(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors"
                )
        start = 0
        for task in tasks:
            task.outputs = [output[start : start + task.rows] for output in outputs]
            start += task.rows


def _deadline(timeout_ms: int) -> float:
    return time.monotonic() + (timeout_ms / 1000 if timeout_ms else 1e9)


def _rows(feeds: Feeds) -> int:
    if any(array.ndim == 0 for array in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _pad_to_fit(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Pads all dimensions but the first with zeros or empty strings, to the largest among `arrays`."""
    target = np.max([array.shape[1:] for array in arrays], axis=0) if arrays[0].ndim > 1 else ()
    return [_pad(array, tuple(map(int, target))) for array in arrays]


def _pad(array: np.ndarray, target: tuple[int, ...]) -> np.ndarray:
    if array.shape[1:] == target:
        return array
    padded = np.full((len(array), *target), b"" if array.dtype == np.object_ else array.dtype.type(0), array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded
