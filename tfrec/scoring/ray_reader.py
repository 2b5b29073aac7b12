"""A file of users that Ray Data reads: row groups of a Parquet file in parallel, on any machine of the cluster.

They come in the order of the file, so that records, rejects and shards are those of the local engine. A CSV file is read by the
process that was started: where a record of it begins is known only to who has read all before.

Assumes that every machine finds a Parquet file under the same path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet
import ray
from ray.exceptions import RayError

from tfrec.data.tables import Table
from tfrec.errors import TfrecError


class RayTable(Table):
    """A table, on a cluster that this process is connected to."""

    def parquet_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns `names` of a Parquet file, as they are, in the order of its rows."""
        for noisy in ("ray.data", "ray.data._internal"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        path, columns = self.path.absolute(), list(names)
        groups = range(pa.parquet.read_metadata(path).num_row_groups)
        if not groups:
            return

        def read(batch: pa.Table) -> pa.Table:
            with pa.parquet.ParquetFile(path) as file:
                return file.read_row_groups(batch["item"].to_pylist(), columns=columns)

        # No CPU is asked for: the workers hold all of them for as long as the job lasts.
        dataset = ray.data.from_items(list(groups), override_num_blocks=len(groups)).map_batches(
            read, batch_size=1, batch_format="pyarrow", num_cpus=0
        )
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from block.select(columns).to_batches()
        except RayError as error:
            raise TfrecError(f"{self.file} cannot be read on the cluster: {' '.join(str(error).split())}") from error
