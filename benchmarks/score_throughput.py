"""Batch scoring against the bare signature: users per second of both in one process, and memory.

    python benchmarks/score_throughput.py [--users 20000] [--videos 10000] [--k 100] [--rounds 4]
        [--batch-size 256] [--history 20]

The model is the project's own, with random weights and an exact index. The bare loop calls the signature on batches that were
built before; the job reads a Parquet file of users with histories, scores the same users in the same batches and writes its
shards. The two take turns, an equal part of the users in each round, so that other load on the machine meets both alike. Memory
is the resident memory of the process, at the quarters of each round's job and at its highest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from tfrec.config import ExportConfig, QueryConfig, RankingConfig, RetrievalConfig
from tfrec.console import console
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Catalog, Dataset, FeatureColumns, Interactions, Part, Users
from tfrec.data.tables import open_table
from tfrec.export.publish import publish
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.features.content import ContentFeatures
from tfrec.index.exact import ExactIndex
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.scoring.engine import LocalEngine, regrouped
from tfrec.scoring.histories import Histories
from tfrec.scoring.job import ScoreJob, run
from tfrec.scoring.model import PublishedModel, find_version
from tfrec.scoring.modes import MODES
from tfrec.scoring.records import TableSource

SHARD_SIZE = 2048


def platform(num_videos: int) -> Dataset:
    """A catalogue, and a log just long enough to build the models on."""
    draw, num_events = np.random.default_rng(0), 4 * num_videos
    user = np.sort(draw.integers(1000, size=num_events)).astype(np.int32)
    video = draw.integers(num_videos, size=num_events).astype(np.int32)
    timestamp = 1_700_000_000 + np.arange(num_events)
    empty = np.full(num_videos, "", object)
    ids = np.array([f"v{row}" for row in range(num_videos)], object)
    created_at, parameters = np.zeros(num_videos, np.int64), np.zeros((num_videos, 0), np.float32)
    catalog = Catalog(ids, empty, empty, created_at, None, parameters, empty, FeatureColumns.none(), {}, {})
    users = Users(np.array([f"u{row}" for row in range(1000)], object), FeatureColumns.none())
    part = np.zeros(num_events, np.int8)
    log = Interactions(user, video, timestamp, {}, part, 1000, num_videos)
    return Dataset("random", Path(), users, catalog, log, {})


def publish_model(models: Path, dataset: Dataset, k: int) -> None:
    """Publishes the models as they are before training."""
    batches = RetrievalBatches(dataset.interactions, 50, 64, 64, 0, 1)
    retrieval = RetrievalModel(RetrievalConfig(query=QueryConfig()), dataset, ContentFeatures({}, {}), batches)
    retrieval.compute_loss(next(iter(batches.epoch(0))))
    ranking = RankingModel(RankingConfig(), dataset, retrieval, retrieval.embed_catalogue())
    query = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 50).latest(
        tf.constant([0, 1]), tf.constant([1, 1], tf.int64)
    )
    events = tf.gather(ranking.video_embeddings, tf.maximum(query.history, 0))
    candidates = tf.zeros([len(query.user), 2], tf.int32)
    ranking.probabilities(query, retrieval.query_tower(query, events), events, candidates)
    recommender = Recommender(
        ServingModel(
            user_ids=dataset.users.ids,
            video_ids=dataset.videos.ids,
            query_tower=retrieval.query_tower,
            video_embeddings=ranking.video_embeddings,
            history_embeddings=ranking.history_embeddings,
            is_cold=dataset.interactions.train_counts == 0,
            ranking=ranking,
            index=ExactIndex(ranking.video_embeddings.numpy()),
            history_length=50,
            log_end=int(dataset.interactions.timestamp.max()),
            temperature=0.1,
            config=ExportConfig(max_k=k),
        )
    )
    publish(lambda folder: save_recommender(recommender, folder), models, "recommender", 1)


def write_users(path: Path, dataset: Dataset, num_users: int, history: int) -> None:
    """Users with histories between nothing and twice `history` long."""
    draw = np.random.default_rng(1)
    lengths = draw.integers(2 * history + 1, size=num_users)
    events = pa.array(dataset.videos.ids[draw.integers(len(dataset.videos), size=lengths.sum())], pa.string())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = [f"user {number}" for number in range(num_users)]
    pa.parquet.write_table(pa.table({"user_id": ids, "history": pa.ListArray.from_arrays(offsets, events)}), path)


def memory_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


class Memory:
    """Remembers the memory of this process while a job runs; its `progress` is the job's."""

    def __init__(self) -> None:
        self.quarters: list[float] = []
        self.peak = 0.0

    def progress(self, done: int, total: int) -> None:
        """Looks at the memory now."""
        now = memory_mib()
        self.peak = max(self.peak, now)
        if total and 4 * done >= len(self.quarters) * total:
            self.quarters.append(now)


def bare_rate(engine: LocalEngine, users: Path, batch_size: int) -> float:
    """Users per second of the signature in a loop, on batches that were built before."""
    records = TableSource(open_table(users, {}, ()), ("user_id",)).records(RejectLog())
    batches = [
        (len(part[start : start + batch_size]), engine.question(part[start : start + batch_size]))
        for part in regrouped(records, SHARD_SIZE)
        for start in range(0, len(part), batch_size)
    ]
    start = time.perf_counter()
    for _, inputs in batches:
        engine.model.answer(inputs)
    return sum(count for count, _ in batches) / (time.perf_counter() - start)


def measure(folder: Path, options: argparse.Namespace) -> None:
    dataset, models = platform(options.videos), folder / "models"
    publish_model(models, dataset, options.k)
    mode = MODES["recommend"]
    model = PublishedModel(find_version(models, "recommender", None), mode.signature)
    engine = LocalEngine(model, mode, Histories(None), options.k)
    users = folder / "users.parquet"
    write_users(users, dataset, options.users // options.rounds, options.history)
    bare_rate(engine, users, options.batch_size)  # warm-up
    table = Table(
        title=f"{options.users:,} users, {options.videos:,} videos, k = {options.k}, batches of {options.batch_size}"
    )
    memory_column = "memory at 0, 25, 50, 75, 100 %, MiB"
    for column in ("round", "signature in a loop, users/s", "batch scoring, users/s", "ratio", memory_column, "peak"):
        table.add_column(column, justify="right")
    ratios, peaks = [], []
    for number in range(options.rounds):
        loop, memory = bare_rate(engine, users, options.batch_size), Memory()
        output = folder / f"out{number}"
        job = ScoreJob(models, str(users), output, k=options.k, batch_size=options.batch_size, shard_size=SHARD_SIZE)
        summary = run(job, memory.progress)
        shutil.rmtree(output)
        rate = summary.scored / summary.seconds
        ratios.append(rate / loop)
        peaks.append(memory.peak)
        quarters = ", ".join(f"{value:,.0f}" for value in memory.quarters)
        table.add_row(
            str(number + 1), f"{loop:,.0f}", f"{rate:,.0f}", f"{ratios[-1]:.2f}", quarters, f"{peaks[-1]:,.0f}"
        )
        console.print(f"round {number + 1}: {loop:,.0f} and {rate:,.0f} users/s; memory {quarters} MiB", soft_wrap=True)
    console.print(table)
    console.print(
        f"median ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); peak memory {peaks[0]:,.0f} MiB in the "
        f"first round, {peaks[-1]:,.0f} MiB in the last"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (
        ("users", 20_000),
        ("videos", 10_000),
        ("k", 100),
        ("batch-size", 256),
        ("history", 20),
        ("rounds", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


if __name__ == "__main__":
    main()
