"""The Ray engine: shards are scored on all machines of a cluster, and written by this process.

Records are made here, since only who sees them all can tell which came before, from rows that `ray_reader.py` reads; files are
written here, so that nobody else needs the output folder and no shard can be written twice. A worker turns the records of a shard
into the shard's file.

Assumes that every machine finds `tfrec` and the folder of models under the same path.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tfrec.cluster import Crew, share_machine
from tfrec.scoring.engine import LocalEngine, Step, prefetched, regrouped
from tfrec.scoring.histories import Histories
from tfrec.scoring.model import PublishedModel
from tfrec.scoring.modes import Mode
from tfrec.scoring.records import Records


class ShardWorker:
    """Scores shards.

    Args:
        version: folder of the model's version.
        mode: what is asked.
        histories: of the users.
        k: slots wanted.
    """

    def __init__(self, version: Path, mode: Mode, histories: Histories, k: int) -> None:
        self._version, self._mode, self._histories, self._k = version, mode, histories, k

    def load(self) -> None:
        """Loads the model."""
        share_machine()
        model = PublishedModel(self._version, self._mode.signature)
        self._engine = LocalEngine(model, self._mode, self._histories, self._k)

    def work(self, item: tuple[Records, int]) -> pa.Buffer:
        """The file of the shard that holds some records, asked about in batches of a size."""
        records, batch_size = item
        steps = self._engine.steps([records], len(records), batch_size, ())
        return next(step.content for step in steps if step.content is not None)


@dataclass(frozen=True)
class RayEngine:
    """Hands shards to workers.

    Args:
        crew: of `ShardWorker`s.
    """

    crew: Crew

    def steps(
        self, records: Iterable[Records], shard_size: int, batch_size: int, done: Container[int]
    ) -> Iterator[Step]:
        """Scores all records but those of the shards that are done; shards come as they are ready."""
        items = (
            ((number, len(part)), (part, batch_size))
            for number, part in enumerate(regrouped(records, shard_size))
            if number not in done
        )
        for (number, num_records), content in self.crew.results(prefetched(items)):
            yield Step(number, num_records, content)
