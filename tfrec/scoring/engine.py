"""The local engine: reading, scoring and writing at the same time, in bounded memory.

Records are cut into *shards* of a fixed number of records and these into *batches*. Where a batch ends depends on the records
alone, so that its padding, hence the last bits of its answers, are the same however often the job is stopped.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfrec.export.log_requests import tensors
from tfrec.scoring.histories import Histories
from tfrec.scoring.model import PublishedModel
from tfrec.scoring.modes import Mode, Outputs
from tfrec.scoring.records import Records

Item = TypeVar("Item")

_AHEAD = 2  # batches read, and answers kept, before they are needed
_SIZES = (64, 128, 256, 512, 1024, 2048)
_WORTHWHILE = 1.1  # a larger batch must be that much faster


@dataclass(frozen=True)
class Batch:
    """Records that are asked about at once.

    Args:
        shard: number of their shard.
        ends_shard: whether they are its last.
        records: they.
        inputs: of the signature.
    """

    shard: int
    ends_shard: bool
    records: Records
    inputs: dict[str, tf.Tensor]


@dataclass(frozen=True)
class Engine:
    """Asks a model.

    Args:
        model: it.
        mode: what is asked.
        histories: of the users.
        k: slots wanted.
    """

    model: PublishedModel
    mode: Mode
    histories: Histories
    k: int

    def inputs(self, records: Records) -> dict[str, tf.Tensor]:
        """Of the signature."""
        return tensors(self.mode.inputs(records, self.histories, self.k))

    def answers(
        self, records: Iterable[Records], shard_size: int, batch_size: int, done: Container[int]
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Answers to all records but those of the shards that are done.

        Reading runs ahead of scoring, and scoring ahead of the caller, in a thread each.
        """
        batches = prefetched(self._batches(records, shard_size, batch_size, done))
        return prefetched((batch, self.model.answer(batch.inputs)) for batch in batches)

    def _batches(
        self, records: Iterable[Records], shard_size: int, batch_size: int, done: Container[int]
    ) -> Iterator[Batch]:
        for shard, part in enumerate(regrouped(records, shard_size)):
            for start in () if shard in done else range(0, len(part), batch_size):
                some = part[start : start + batch_size]
                yield Batch(shard, start + batch_size >= len(part), some, self.inputs(some))

    def fastest_batch_size(self, sample: Records) -> int:
        """The smallest batch size that a larger one does not beat clearly, from a short measurement.

        Args:
            sample: at least one record.
        """
        best, best_rate = _SIZES[0], 0.0
        for size in _SIZES:
            ask = functools.partial(self.model.answer, self.inputs(sample[np.arange(size) % len(sample)]))
            ask()  # the first call of a size is slower
            rate = size / min(_seconds(ask) for _ in range(2))
            if rate < _WORTHWHILE * best_rate:
                break
            best, best_rate = size, rate
        return best


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def regrouped(records: Iterable[Records], size: int) -> Iterator[Records]:
    """The same records, `size` at a time; the last part may be shorter."""
    waiting: list[Records] = []
    count = 0
    for some in records:
        waiting.append(some)
        count += len(some)
        if count >= size:
            joined = Records.joined(waiting)
            for start in range(0, count - size + 1, size):
                yield joined[start : start + size]
            waiting, count = [joined[count - count % size :]], count % size
    if count:
        yield Records.joined(waiting)


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, made a little ahead in a thread of their own; what fails there is raised here."""
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Any]] = deque(thread.submit(next, iterator, end) for _ in range(_AHEAD))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
