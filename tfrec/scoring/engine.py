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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from tfrec.scoring.histories import Histories
from tfrec.scoring.modes import Mode, Outputs
from tfrec.scoring.records import Records
from tfrec.scoring.shards import encoded_shard

if TYPE_CHECKING:
    from tfrec.scoring.model import Model

Item = TypeVar("Item")
Result = TypeVar("Result")

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
        question: their inputs, as the model takes them.
    """

    shard: int
    ends_shard: bool
    records: Records
    question: Any


@dataclass(frozen=True)
class Step:
    """Some records are done.

    Args:
        shard: number of their shard.
        num_records: how many they are.
        content: the shard's file, if they end it.
    """

    shard: int
    num_records: int
    content: pa.Buffer | None


class Engine(Protocol):
    """Scores records, here or elsewhere."""

    def steps(
        self, records: Iterable[Records], shard_size: int, batch_size: int, done: Container[int]
    ) -> Iterator[Step]:
        """Scores all records but those of the shards that are done."""


@dataclass(frozen=True)
class LocalEngine:
    """Asks a model from this process.

    Args:
        model: it.
        mode: what is asked.
        histories: of the users.
        k: slots wanted.
    """

    model: Model
    mode: Mode
    histories: Histories
    k: int

    def question(self, records: Records) -> Any:
        """The inputs of the signature, as the model takes them."""
        return self.model.prepared(self.mode.inputs(records, self.histories, self.k))

    def steps(
        self, records: Iterable[Records], shard_size: int, batch_size: int, done: Container[int]
    ) -> Iterator[Step]:
        """Scores all records but those of the shards that are done.

        Reading runs ahead of scoring, and scoring ahead of the caller, in threads of their own.
        """
        batches = prefetched(self._batches(regrouped(records, shard_size), batch_size, done))
        tables: list[pa.Table] = []
        num_records = 0
        for batch, outputs in mapped(self._answered, batches, self.model.num_in_flight):
            tables.append(self.mode.table(batch.records, outputs, self.k, self.model.version))
            num_records += len(batch.records)
            content = encoded_shard(pa.concat_tables(tables), num_records) if batch.ends_shard else None
            yield Step(batch.shard, len(batch.records), content)
            if batch.ends_shard:
                tables, num_records = [], 0

    def _answered(self, batch: Batch) -> tuple[Batch, Outputs]:
        return batch, self.model.answer(batch.question)

    def _batches(self, shards: Iterable[Records], batch_size: int, done: Container[int]) -> Iterator[Batch]:
        for shard, part in enumerate(shards):
            for start in () if shard in done else range(0, len(part), batch_size):
                some = part[start : start + batch_size]
                yield Batch(shard, start + batch_size >= len(part), some, self.question(some))

    def fastest_batch_size(self, sample: Records) -> int:
        """The smallest batch size that a larger one does not beat clearly, from a short measurement.

        Args:
            sample: at least one record.
        """
        best, best_rate = _SIZES[0], 0.0
        for size in _SIZES:
            ask = functools.partial(self.model.answer, self.question(sample[np.arange(size) % len(sample)]))
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


def mapped(call: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """`call(item)` of all items in their order, `num_threads` at once and a little ahead; what fails is raised here."""
    with ThreadPoolExecutor(num_threads) as threads:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(threads.submit(call, item))
                if len(waiting) >= num_threads + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
