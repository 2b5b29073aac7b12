"""How memory and time grow with users, videos, interactions and embedding dimension: three sizes each, and fitted slopes.

    python benchmarks/scaling.py [--axes users videos interactions dimension] [--scale 1.0]

The log is synthetic: users alike, videos whose popularity falls by Zipf's law, 90 days, every event a positive one; the catalogue
has no contents. Each size is measured in a process of its own: the log is loaded, retrieval is trained for some steps (the first
ones, which trace, are left out), the portable index is built and tuned over clustered vectors, a recommender is exported, and
users are scored with it. Time is that of the processor, added up over its cores, so that other load on the machine counts little;
memory is the highest so far. One of the four numbers grows while the others stay at their first, the dimension at 64. A slope is
the least-squares fit of `measure = a + b * number`; the power is the fit of `log(measure) = c + p * log(number)`: 1 where a
measure is proportional to the number, 0 where it does not depend on it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

SIZES: dict[str, tuple[int, ...]] = {
    "users": (10_000, 40_000, 160_000),
    "videos": (10_000, 40_000, 160_000),
    "interactions": (200_000, 800_000, 3_200_000),
    "dimension": (32, 64, 128),
}

UNIT = {"users": 1e6, "videos": 1e6, "interactions": 1e6, "dimension": 64}
"""What a slope is quoted for."""

STEPS = 16
"""Training steps that are timed, after as many that are not."""

NEGATIVES = 2048
"""Fewer than the smallest catalogue has videos, so that a step asks as many of each."""

NUM_SCORED, BATCH, HISTORY = 768, 256, 20

Measures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """What is measured."""

    users: int
    videos: int
    interactions: int
    dimension: int


def write_log(folder: Path, size: Size) -> None:
    """Writes the events in no particular order."""
    draw = np.random.default_rng(1)
    video = np.minimum(size.videos ** draw.random(size.interactions), size.videos - 1).astype(np.int64)
    video[: size.videos] = np.arange(size.videos)  # so that all of them are there
    columns = {
        "user_id": names("u", np.arange(size.interactions) % size.users),
        "video_id": names("v", video),
        "timestamp": 1_700_000_000 + draw.integers(90 * 86_400, size=size.interactions),
        "click": np.ones(size.interactions, np.int8),
    }
    pa.parquet.write_table(pa.table(columns), folder / "interactions.parquet")


def names(prefix: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pa.compute.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def peak_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, size: Size) -> Measures:
    """All measures of one size; the log is in the folder."""
    import tfrec  # noqa: F401  (before TensorFlow)

    import tensorflow as tf  # isort: skip
    from score_throughput import clustered, publish_model, write_users

    from tfrec.config import DataConfig, ExportConfig, IndexConfig, RetrievalConfig
    from tfrec.data.dataset import load_dataset
    from tfrec.data.input_pipeline import RetrievalBatches
    from tfrec.data.rejects import RejectLog
    from tfrec.data.tables import open_table
    from tfrec.features.content import ContentFeatures
    from tfrec.index.tune import build_index
    from tfrec.models.retrieval import RetrievalModel
    from tfrec.scoring.engine import LocalEngine
    from tfrec.scoring.histories import Histories
    from tfrec.scoring.model import PublishedModel
    from tfrec.scoring.modes import MODES
    from tfrec.scoring.records import Records, TableSource

    found: Measures = {}
    before, start = peak_mib(), time.process_time()
    dataset = load_dataset(DataConfig(folder))
    found["loading, s"] = time.process_time() - start
    found["loading, MiB"] = peak_mib() - before

    config = RetrievalConfig(embedding_dim=size.dimension, num_uniform_negatives=NEGATIVES)
    batches = RetrievalBatches(
        dataset.interactions, config.query.history_length, config.batch_size, config.num_uniform_negatives, 0, 1
    )
    model = RetrievalModel(config, dataset, ContentFeatures({}, {}), batches)
    model.compile(tf.keras.optimizers.Adam(1e-3), steps_per_execution=STEPS)
    model.fit(batches.epoch(0).take(STEPS), verbose=0)
    start = time.process_time()
    model.fit(batches.epoch(1).take(STEPS), verbose=0)
    found["a training step, ms"] = (time.process_time() - start) / STEPS * 1000
    found["an epoch, s"] = found["a training step, ms"] / 1000 * batches.steps_per_epoch
    found["loading and training, MiB"] = peak_mib() - before

    num_centres = round(size.videos**0.5)
    embeddings = clustered(size.videos, model.embed_catalogue().shape[1], num_centres)
    queries = clustered(1000, embeddings.shape[1], num_centres)
    start = time.process_time()
    index, _ = build_index(embeddings, IndexConfig(kind="portable"), queries=queries, num_results=501)
    found["building the index, s"] = time.process_time() - start
    publish_model(folder / "models", dataset, model, embeddings, index, ExportConfig())
    version = folder / "models" / "recommender" / "1"
    found["export, MiB"] = sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) / 2**20

    mode = MODES["recommend"]
    engine = LocalEngine(PublishedModel(version, mode.signature), mode, Histories(None), 100)
    write_users(folder / "users.parquet", dataset, BATCH + NUM_SCORED, HISTORY)
    source = TableSource(open_table(folder / "users.parquet", {}, ()), ("user_id",))
    list(source.records(RejectLog()))
    start = time.process_time()
    records = Records.joined(list(source.records(RejectLog())))
    found["reading a user, ms"] = (time.process_time() - start) / len(records) * 1000
    list(engine.steps([records[:BATCH]], BATCH, BATCH, ()))
    start = time.process_time()
    (*_, last) = engine.steps([records[BATCH:]], NUM_SCORED, BATCH, ())
    found["scoring a user, ms"] = (time.process_time() - start) / NUM_SCORED * 1000
    found["output for a user, KiB"] = last.content.size / NUM_SCORED / 1024
    return found


def measured(size: Size) -> Measures:
    """Measures one size in new processes."""
    with tempfile.TemporaryDirectory() as name:
        for work in (write_log, measure):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                result = process.submit(work, Path(name), size).result()
    return result


def print_axis(axis: str, numbers: tuple[int, ...], rows: list[Measures]) -> None:
    """A table in Markdown, as docs quote it."""
    unit = "+64" if axis == "dimension" else "+1 M"
    head = [axis, *(f"{number:,}" for number in numbers), f"slope, for {unit}", "power"]
    for cells in (head, ["---"] * len(head)):
        print("| " + " | ".join(cells) + " |")
    for name in rows[0]:
        values = [row[name] for row in rows]
        slope = np.polyfit(numbers, values, 1)[0] * UNIT[axis]
        power = np.polyfit(np.log(numbers), np.log(np.maximum(values, 1e-9)), 1)[0]
        print("| " + " | ".join([name, *map(digits, values), digits(slope), f"{power:.2f}"]) + " |")
    print(flush=True)


def digits(value: float) -> str:
    """Three of them."""
    return f"{value:,.{max(0, 2 - int(np.floor(np.log10(max(abs(value), 1e-2)))))}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes but the dimensions")
    parser.add_argument("--axes", nargs="+", choices=SIZES, default=list(SIZES), help="what grows")
    options = parser.parse_args()
    sizes = {
        axis: numbers if axis == "dimension" else tuple(round(options.scale * number) for number in numbers)
        for axis, numbers in SIZES.items()
    }
    base = Size(sizes["users"][0], sizes["videos"][0], sizes["interactions"][0], 64)
    known: dict[Size, Measures] = {}
    for axis in options.axes:
        for number in (numbers := sizes[axis]):
            size = replace(base, **{axis: number})
            if size not in known:
                known[size] = measured(size)
                print(
                    f"{size}: {', '.join(f'{name} {digits(value)}' for name, value in known[size].items())}", flush=True
                )
        print_axis(axis, numbers, [known[replace(base, **{axis: number})] for number in numbers])


if __name__ == "__main__":
    main()
