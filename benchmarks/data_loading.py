"""Loads a log of millions of events and turns it into training batches, within 4 GiB of memory.

    python benchmarks/data_loading.py [--rows 10000000] [--format csv.gz]

The log is synthetic: 500,000 users, 200,000 videos whose popularity falls by Zipf's law, 90 days. A child process writes
it, so that its memory does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

NUM_USERS, NUM_VIDEOS = 500_000, 200_000
MAX_BYTES = 4 << 30
CHUNK_ROWS = 1_000_000
FIRST_SECOND, NUM_SECONDS = 1_700_000_000, 90 * 86_400


def write_log(path: Path, num_rows: int) -> None:
    """Writes `num_rows` events in chunks."""
    generator = np.random.default_rng(1)
    sizes = [min(CHUNK_ROWS, num_rows - start) for start in range(0, num_rows, CHUNK_ROWS)]
    schema = chunk(generator, 1).schema
    if path.suffix == ".parquet":
        with pa.parquet.ParquetWriter(path, schema) as writer:
            for size in sizes:
                writer.write_table(chunk(generator, size))
        return
    stream = pa.output_stream(path, compression="gzip" if path.suffix == ".gz" else None)
    with stream, pa.csv.CSVWriter(stream, schema) as writer:
        for size in sizes:
            writer.write_table(chunk(generator, size))


def chunk(generator: np.random.Generator, size: int) -> pa.Table:
    """Events in no particular order."""
    video = np.minimum(NUM_VIDEOS ** generator.random(size), NUM_VIDEOS - 1).astype(np.int64)  # density 1 / rank
    return pa.table(
        {
            "user_id": names("u", generator.integers(NUM_USERS, size=size)),
            "video_id": names("v", video),
            "timestamp": FIRST_SECOND + generator.integers(NUM_SECONDS, size=size),
            "click": generator.integers(2, size=size),
            "finish": generator.integers(2, size=size),
            "like": generator.integers(2, size=size),
        }
    )


def names(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.compute.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(what: str, count: int, seconds: float) -> None:
    peak = f"{peak_bytes() / 2**30:.2f} GiB"
    print(f"{what}: {count:,} in {seconds:.1f} s, {count / seconds:,.0f} per second, peak {peak}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("csv", "csv.gz", "parquet"), default="csv.gz")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"interactions.{options.format}"
        writer = multiprocessing.get_context("spawn").Process(target=write_log, args=(path, options.rows))
        writer.start()
        writer.join()
        print(f"{path.name}: {path.stat().st_size / 2**20:,.0f} MiB")
        load_and_iterate(Path(folder))
    assert peak_bytes() <= MAX_BYTES, f"peak memory {peak_bytes() / 2**30:.2f} GiB exceeds 4 GiB"


def load_and_iterate(folder: Path) -> None:
    """Loads the log, then goes through one epoch of retrieval batches."""
    from tfrec.config import DataConfig
    from tfrec.data.dataset import load_dataset
    from tfrec.data.input_pipeline import RetrievalBatches

    start = time.perf_counter()
    dataset = load_dataset(DataConfig(folder))
    report("rows loaded", len(dataset.interactions), time.perf_counter() - start)
    start = time.perf_counter()
    batches = RetrievalBatches(
        dataset.interactions,
        history_length=50,
        batch_size=1024,
        num_uniform_negatives=1024,
        max_examples_per_user=0,
        seed=1,
    )
    num_examples = sum(int(batch["video"].shape[0]) for batch in batches.epoch(0))
    report("training examples batched", num_examples, time.perf_counter() - start)


if __name__ == "__main__":
    main()
