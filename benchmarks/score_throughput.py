"""Batch scoring against the bare signature: users per second of both, taking turns, and memory.

    python benchmarks/score_throughput.py [--users 20000] [--videos 10000] [--k 100] [--candidates 500] [--history 20]
        [--batch-size 256] [--turn-seconds 10] [--loop-share 0.5]

The model is the project's own, with random weights, clustered embeddings and the index that is built by default. A process makes
calls in a loop, with batches that were built before. Another is the job: it reads a Parquet file of users with histories,
scores them in batches of the same size, and writes shards and manifest. They take turns, and who waits is stopped (SIGSTOP): so
other load on the machine meets both alike, and neither has cores that the other left idle. Rates are users per second of own
turns, which should be many batches long, without starting and loading, the job's to the end of its manifest. Memory is that of
the job's process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from ctypes import c_int64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from tfrec.config import ExportConfig, IndexConfig, QueryConfig, RankingConfig, RetrievalConfig
from tfrec.console import console
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Catalog, Dataset, FeatureColumns, Interactions, Part, Users
from tfrec.data.tables import open_table
from tfrec.export.publish import publish
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.export.rollout import find_version
from tfrec.features.content import ContentFeatures
from tfrec.index.base import Index
from tfrec.index.tune import build_index
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.scoring.engine import LocalEngine
from tfrec.scoring.histories import Histories
from tfrec.scoring.job import ScoreJob, run
from tfrec.scoring.model import PublishedModel
from tfrec.scoring.modes import MODES
from tfrec.scoring.records import TableSource

Matrix = NDArray[np.float32]

LOOP_BATCHES = 16
"""Batches that the loop goes round and round."""

MEMORY_ROWS = 10


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


def untrained_retrieval(dataset: Dataset) -> RetrievalModel:
    """The towers with random weights."""
    batches = RetrievalBatches(dataset.interactions, 50, 64, 64, 0, 1)
    retrieval = RetrievalModel(RetrievalConfig(query=QueryConfig()), dataset, ContentFeatures({}, {}), batches)
    retrieval.compute_loss(next(iter(batches.epoch(0))))
    return retrieval


def publish_model(
    models: Path, dataset: Dataset, retrieval: RetrievalModel, embeddings: Matrix, index: Index, config: ExportConfig
) -> None:
    """Publishes a recommender whose ranker has random weights.

    Args:
        models: folder of all models.
        dataset: what it knows.
        retrieval: its towers.
        embeddings: float32 `[num_videos, D]`.
        index: over them.
        config: of the export.
    """
    ranking = RankingModel(RankingConfig(), dataset, retrieval, embeddings)
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
            index=index,
            history_length=50,
            log_end=int(dataset.interactions.timestamp.max()),
            temperature=0.1,
            config=config,
        )
    )
    publish(lambda folder: save_recommender(recommender, folder), models, "recommender", 1)


def clustered(num: int, dimension: int, num_centres: int) -> Matrix:
    """Vectors around common centres, as embeddings of videos are."""
    centres = np.random.default_rng(0).standard_normal((num_centres, dimension), np.float32)
    draw = np.random.default_rng(num)
    noise = draw.standard_normal((num, dimension), np.float32)
    return (centres[draw.integers(num_centres, size=num)] + noise) / dimension**0.5


def write_users(path: Path, dataset: Dataset, num_users: int, history: int) -> None:
    """Users with histories between nothing and twice `history` long."""
    draw = np.random.default_rng(1)
    lengths = draw.integers(2 * history + 1, size=num_users)
    events = pa.array(dataset.videos.ids[draw.integers(len(dataset.videos), size=lengths.sum())], pa.string())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = [f"user {number}" for number in range(num_users)]
    pa.parquet.write_table(pa.table({"user_id": ids, "history": pa.ListArray.from_arrays(offsets, events)}), path)


class Side:
    """A process that counts the users it has done, and runs in its turns only.

    Args:
        work: what it does; given the counter, which it sets to 0 once it has loaded, and `arguments`.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._users = context.RawValue(c_int64, -1)  # without a lock, which a stopped process might hold
        self._process = context.Process(target=work, args=(self._users, *arguments), daemon=True)
        self._process.start()
        while self._users.value < 0:
            assert self._process.is_alive(), "it ended while it was loading"
            time.sleep(0.002)
        self._signal(signal.SIGSTOP)
        self.users, self.seconds = 0, 0.0

    @property
    def is_alive(self) -> bool:
        """Whether it has more to do."""
        return self._process.is_alive()

    def turn(self, seconds: float) -> float:
        """Lets it run, and returns its users per second."""
        start, before = time.perf_counter(), self._users.value
        self._signal(signal.SIGCONT)
        self._process.join(seconds)
        self._signal(signal.SIGSTOP)
        taken, users = time.perf_counter() - start, self._users.value - before
        self.users += users
        self.seconds += taken
        return users / taken

    def memory_mib(self) -> tuple[float, float]:
        """Resident memory now and at its highest."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        kibibytes = {
            name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines) if "kB" in value
        }
        return kibibytes["VmRSS"] / 1024, kibibytes["VmHWM"] / 1024

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # a stopped process hears nothing else
        self._process.join()

    def _signal(self, number: int) -> None:
        if self.is_alive and self._process.pid is not None:
            os.kill(self._process.pid, number)


def loop(users: Any, models: Path, file: Path, k: int, batch_size: int) -> None:
    """Calls the signature on batches that were built before, for ever."""
    mode = MODES["recommend"]
    engine = LocalEngine(
        PublishedModel(find_version(models, "recommender", None), mode.signature), mode, Histories(None), k
    )
    records = next(TableSource(open_table(file, {}, ()), ("user_id",)).records(RejectLog()))
    parts = [records[start : start + batch_size] for start in range(0, LOOP_BATCHES * batch_size, batch_size)]
    batches = [(len(part), engine.question(part)) for part in parts if len(part)]
    engine.model.answer(batches[0][1])  # the first call is slower
    users.value = 0
    for count, question in itertools.cycle(batches):
        engine.model.answer(question)
        users.value += count


def job(users: Any, models: Path, file: Path, output: Path, k: int, batch_size: int) -> None:
    """Scores a file of users."""

    def progress(done: int, total: int) -> None:
        users.value = done

    run(ScoreJob(models, str(file), output, k=k, batch_size=batch_size), progress)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Lets the two take turns until the job is done, and prints what was measured."""
    models, file, output = folder / "models", folder / "users.parquet", folder / "output"
    asked = (options.k, options.batch_size)
    with Side(job, models, file, output, *asked) as scored, Side(loop, models, file, *asked) as bare:
        ratios, memory, peak = take_turns(options, scored, bare)
    manifest = json.loads((output / "_manifest.json").read_text())
    assert manifest["records"] == options.users, manifest["records"]
    report(options, scored, bare, ratios, memory, peak)


Memory = list[tuple[int, float]]


def take_turns(options: argparse.Namespace, scored: Side, bare: Side) -> tuple[list[float], Memory, float]:
    """Ratio of the rates in each pair of turns; memory by the users done, and its peak, in MiB."""
    loop_seconds = options.turn_seconds * options.loop_share / (1 - options.loop_share)
    ratios: list[float] = []
    memory, peak, begun = [(0, scored.memory_mib()[0])], 0.0, time.perf_counter()
    while scored.is_alive:
        loop_rate, before = bare.turn(loop_seconds), scored.users
        rate = scored.turn(options.turn_seconds)
        ratios += [rate / loop_rate] if loop_rate else []  # a turn may be too short for a batch
        if scored.is_alive:
            now, peak = scored.memory_mib()
            memory.append((scored.users, now))
        if 100 * before // options.users < 100 * scored.users // options.users:
            console.print(
                f"{time.perf_counter() - begun:,.0f} s: {scored.users:,} users, {scored.users / scored.seconds:,.0f} users/s; "
                f"loop {bare.users / bare.seconds:,.0f} users/s; {memory[-1][1]:,.0f} MiB",
                soft_wrap=True,
            )
    return ratios, memory, peak


def report(
    options: argparse.Namespace,
    scored: Side,
    bare: Side,
    ratios: list[float],
    memory: Memory,
    peak: float,
) -> None:
    """Prints what was measured."""
    table = Table(
        title=f"{options.users:,} users, {options.videos:,} videos, k = {options.k}, {options.candidates} candidates, batches "
        f"of {options.batch_size}"
    )
    for column in ("", "users", "seconds", "users/s"):
        table.add_column(column, justify="right")
    for name, side in (("signature in a loop", bare), ("batch scoring", scored)):
        table.add_row(name, f"{side.users:,}", f"{side.seconds:,.1f}", f"{side.users / side.seconds:,.0f}")
    console.print(table)
    ratio = scored.users / scored.seconds / (bare.users / bare.seconds)
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    console.print(f"ratio {ratio:.2f}; of {len(ratios)} turns: median {middle:.2f}, 10 to 90 % {low:.2f} to {high:.2f}")
    rows = [memory[place] for place in np.linspace(0, len(memory) - 1, min(MEMORY_ROWS, len(memory))).astype(int)]
    console.print(
        "memory of the job, MiB: " + ", ".join(f"{mib:,.0f} at {users:,}" for users, mib in rows), soft_wrap=True
    )
    half = np.array([row for row in memory if 2 * row[0] >= options.users])
    if len(half) > 2:
        slope = np.polyfit(half[:, 0] / 1e6, half[:, 1], 1)[0]
        console.print(f"peak {peak:,.0f} MiB; in the second half it grew by {slope:,.0f} MiB per million users")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (
        ("users", 20_000),
        ("videos", 10_000),
        ("k", 100),
        ("candidates", 500),
        ("batch-size", 256),
        ("history", 20),
    ):
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N")
    parser.add_argument("--turn-seconds", type=float, default=10.0, metavar="S", help="of the job")
    parser.add_argument("--loop-share", type=float, default=0.5, metavar="SHARE", help="of the time, for the loop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare = multiprocessing.get_context("spawn").Process(target=make_input, args=(Path(folder), options))
        prepare.start()
        prepare.join()
        measure(Path(folder), options)


def make_input(folder: Path, options: argparse.Namespace) -> None:
    """The model and the file of users."""
    dataset = platform(options.videos)
    retrieval = untrained_retrieval(dataset)
    dimension, num_centres = retrieval.embed_catalogue().shape[1], round(options.videos**0.5)
    embeddings, queries = (clustered(number, dimension, num_centres) for number in (options.videos, 1000))
    index, _ = build_index(embeddings, IndexConfig(), queries=queries, num_results=options.candidates + 1)
    print(f"index: {index.name}, {int(index.leaves_to_search)} of {index.num_leaves} leaves searched", flush=True)
    config = ExportConfig(max_k=options.k, num_candidates=options.candidates)
    publish_model(folder / "models", dataset, retrieval, embeddings, index, config)
    write_users(folder / "users.parquet", dataset, options.users, options.history)


if __name__ == "__main__":
    main()
