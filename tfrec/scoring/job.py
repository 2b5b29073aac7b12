"""A scoring job from its options to its manifest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tfrec.config import DataConfig
from tfrec.console import ProgressCallback
from tfrec.data.dataset import load_dataset
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Dataset
from tfrec.data.tables import Table, open_table
from tfrec.errors import TfrecError
from tfrec.export.rollout import find_version
from tfrec.export.versions import versions
from tfrec.scoring.engine import Engine, LocalEngine
from tfrec.scoring.histories import Histories
from tfrec.scoring.modes import MODES, Mode
from tfrec.scoring.records import OPTIONAL, IdSource, Records, Source, TableSource
from tfrec.scoring.shards import REJECTED, OutputFolder, open_output

if TYPE_CHECKING:
    from tfrec.scoring.model import Model

ModeName: TypeAlias = Literal["recommend", "rank", "similar", "embed"]

_OPTION = "--max-rejected"

ALL = "all"
"""In place of a file: every user, or video, of the dataset."""


@dataclass(frozen=True)
class ScoreJob:
    """What to score.

    Args:
        models: folder of published models, or of the versions of one; None where a server is asked.
        users: a file, or `all`.
        output: folder of the shards.
        server: `host:port`, or `grpc://host:port`, of a TensorFlow Serving that has the model; in place of `models`.
        model: name of the model.
        version: of it; None for the newest that was not rolled back.
        data: dataset folder, for histories and for `all`.
        max_rejected: share of bad rows of `users`, or of a table of the dataset, above which the job fails.
        k: rows per user, or per video.
        mode: what is asked.
        embed: whose embeddings `mode` embed asks for.
        columns: names in the file of users by the names that are expected, where they differ.
        deadline: seconds that a request to the server may take.
        in_flight: requests that are sent to the server at once.
        batch_size: records asked about at once; None for the fastest.
        shard_size: records per shard.
        engine: where scoring is done: in this process, or on a Ray cluster.
        address: of the cluster; None starts one on this machine.
        num_workers: of the cluster; None for as many as have room.
        num_gpus_per_worker: may be a part of one.
        resume: go on with a job that was stopped.

    Raises:
        TfrecError: If the options contradict each other.
    """

    models: Path | None
    users: str
    output: Path
    server: str | None = None
    model: str = "recommender"
    version: int | None = None
    data: Path | None = None
    max_rejected: float = 0.01
    k: int = 100
    mode: ModeName = "recommend"
    embed: Literal["users", "videos"] = "users"
    columns: Mapping[str, str] = field(default_factory=dict)
    deadline: float = 60.0
    in_flight: int = 4
    batch_size: int | None = 256
    shard_size: int = 8192
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    num_workers: int | None = None
    num_gpus_per_worker: float = 0.0
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "batch_size", "shard_size", "in_flight", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TfrecError(f"`--{name.replace('_', '-')}` must be at least 1. Received: {value}.")
        if self.deadline <= 0:
            raise TfrecError(f"`--deadline` must be above 0 seconds. Received: {self.deadline:g}.")
        if (self.models is None) == (self.server is None):
            raise TfrecError("Give either the folder of published models with --models DIR or --server host:port.")
        if self.server is not None and self.engine == "ray":
            raise TfrecError("`--server` scores on its own machine: leave out `--engine ray`, or give --models DIR.")
        scheme, separator, _ = (self.server or "").partition("://")
        if separator and scheme != "grpc":
            raise TfrecError(
                f"`--server` is asked over gRPC: give HOST:PORT or grpc://HOST:PORT. Received: {self.server}."
            )
        if self.users == ALL and self.data is None:
            raise TfrecError("`--users all` needs the dataset: give its folder with --data DIR.")
        if self.users == ALL and self.mode == "rank":
            raise TfrecError("`--mode rank` scores pairs: give a file of user_id and video_id with --users FILE.")

    @property
    def asked(self) -> Mode:
        """The mode, by what is embedded."""
        return MODES["embed_videos" if (self.mode, self.embed) == ("embed", "videos") else self.mode]


@dataclass(frozen=True)
class Summary:
    """What a run of a job did.

    Args:
        manifest: of the output folder.
        scored: records scored in this run; the others were there.
        seconds: spent on them, without loading.
    """

    manifest: dict[str, Any]
    scored: int
    seconds: float


def run(job: ScoreJob, progress: ProgressCallback) -> Summary:
    """Scores, and writes the output folder; what can be refused without TensorFlow, whose import takes seconds, is before.

    Args:
        job: what to score.
        progress: told how many records are done, of how many.

    Raises:
        TfrecError: If the model, the input or the output cannot be used.
    """
    if job.users != ALL and not Path(job.users).is_file():
        raise TfrecError(f"The file of users {job.users} does not exist.")
    job = _located(job)
    if job.models is not None:
        find_version(job.models, job.model, job.version)
    with open_output(job.output, job.resume) as folder:
        if job.version is None and folder.job is not None:
            job = replace(job, version=folder.job["version"])  # not a newer one that was published meanwhile
        rejects = RejectLog(REJECTED, _OPTION)
        dataset = _load(job, rejects)
        source = _source(job, dataset)
        total, sample = _survey(source, folder, rejects, job.max_rejected)
        model = _find_model(job)
        here = LocalEngine(model, job.asked, Histories(dataset), job.k)
        _check_slots(here, sample)
        batch_size = job.batch_size or _noted_batch_size(folder) or _fastest(here, sample)
        asked = {
            **{name: getattr(job, name) for name in ("model", "mode", "embed", "k", "shard_size")},
            "columns": dict(job.columns),
            "version": model.version,
            "batch_size": batch_size,
            "model_sha256": model.digest,
            "users_sha256": source.digest,
            "data_sha256": _digest_of_tables(job.data) if job.data else None,
        }
        folder.begin(asked)
        with _engine(job, here) as engine:
            start = time.monotonic()
            scored = _score(engine, _read_by(job, source), folder, job.shard_size, batch_size, progress, total)
        return Summary(folder.finish(asked, rejects), scored, time.monotonic() - start)


def _located(job: ScoreJob) -> ScoreJob:
    """The same job by the folder of all models, where it names that of one."""
    if job.models is None or not (job.models.is_dir() and versions(job.models)):
        return job
    folder = job.models.absolute()
    return replace(job, models=folder.parent, model=folder.name)


def _find_model(job: ScoreJob) -> Model:
    signature = job.asked.signature
    if job.server is not None:
        from tfrec.scoring.served import Endpoint, ServedModel

        return ServedModel(Endpoint(job.server, job.model, job.deadline), job.version, signature, job.in_flight)
    from tfrec.scoring.model import PublishedModel

    assert job.models is not None
    return PublishedModel(find_version(job.models, job.model, job.version), signature)


@contextmanager
def _engine(job: ScoreJob, here: LocalEngine) -> Iterator[Engine]:
    """The engine that was asked for; `here` knows the model, the mode and the histories."""
    if job.engine == "local":
        yield here
        return
    from tfrec import cluster
    from tfrec.scoring.ray_engine import RayEngine, ShardWorker

    assert job.models is not None
    version = find_version(job.models.absolute(), job.model, here.model.version)
    with cluster.connected(job.address):
        arguments = (version, here.mode, here.histories, here.k)
        yield RayEngine(cluster.Crew.hired(ShardWorker, arguments, job.num_workers, job.num_gpus_per_worker))


def _read_by(job: ScoreJob, source: Source) -> Source:
    """The same records, read by Ray Data where the cluster can share that work."""
    if job.engine == "local" or not isinstance(source, TableSource):
        return source
    from tfrec.scoring.ray_reader import RayTable

    return source.read_by(RayTable)


def _load(job: ScoreJob, rejects: RejectLog) -> Dataset | None:
    config = DataConfig(folder=job.data, max_rejected=job.max_rejected)
    return None if job.data is None else load_dataset(config, rejects=rejects)


def _source(job: ScoreJob, dataset: Dataset | None) -> Source:
    keys = job.asked.keys
    if job.users != ALL:
        return TableSource(_open_users(job), keys)
    assert dataset is not None
    return IdSource(keys[0], dataset.videos.ids if keys == ("video_id",) else dataset.users.ids)


def _open_users(job: ScoreJob) -> Table:
    table = open_table(Path(job.users), job.columns, ())
    known = (*job.asked.keys, *OPTIONAL)
    for name, column in job.columns.items():
        if name not in known:
            raise TfrecError(f"`--columns` has no use for `{name}`. It takes: {', '.join(known)}.")
        if table.names.get(name) != column:
            raise TfrecError(
                f"{table.file} has no column `{column}` to take for `{name}`. It has: {', '.join(table.header)}."
            )
    return table


def _survey(
    source: Source, folder: OutputFolder, rejects: RejectLog, max_rejected: float
) -> tuple[int, Records | None]:
    """Reads all records, so that a source of which too many cannot be used ends the job before any is scored.

    Args:
        source: of the records.
        folder: is told of the rejects if the job ends.
        rejects: learns of those that cannot be used.
        max_rejected: share of them above which the job ends.

    Returns:
        How many can be used, and the first of them.
    """
    # A log of its own: a file of users may be called as a table of the dataset is, and they do not share a limit.
    found, total, sample = RejectLog(REJECTED, _OPTION), 0, None
    for records in source.records(found):
        total += len(records)
        sample = records if sample is None and len(records) else sample
    rejects.extend(found)
    try:
        for file in found.counts():
            found.check(file, max_rejected)
    except TfrecError:
        if folder.job is None:
            folder.list_rejects(rejects)
        raise
    return total, sample


def _check_slots(engine: LocalEngine, sample: Records | None) -> None:
    """Refuses a `k` that the model was not exported for."""
    if sample is None:
        return
    outputs = engine.model.answer(engine.question(sample[:1]))
    slots = outputs["video_id"].shape[1] if "video_id" in outputs else engine.k
    if slots < engine.k:
        raise TfrecError(
            f"`--k` must not exceed the slots that the model was exported with. Received: k={engine.k}, slots={slots}. "
            "Lower it, or export with a larger --export.max_k."
        )


def _noted_batch_size(folder: OutputFolder) -> int | None:
    return None if folder.job is None else int(folder.job["batch_size"])


def _fastest(engine: LocalEngine, sample: Records | None) -> int:
    return 1 if sample is None else engine.fastest_batch_size(sample)


def _digest_of_tables(data: Path) -> str:
    """SHA-256 of the tables of a dataset folder."""
    total = hashlib.sha256()
    for path in sorted(path for name in ("users", "videos", "interactions") for path in data.glob(f"{name}.*")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _score(
    engine: Engine,
    source: Source,
    folder: OutputFolder,
    shard_size: int,
    batch_size: int,
    progress: ProgressCallback,
    total: int,
) -> int:
    """Writes the shards that are missing and returns how many records they have; `source` has `total` records."""
    done = folder.shards()
    before, scored = sum(done.values()), 0
    progress(before, total)
    for step in engine.steps(source.records(RejectLog()), shard_size, batch_size, done):
        if step.content is not None:
            folder.write_shard(step.shard, step.content)
        scored += step.num_records
        progress(before + scored, total)
    return scored
