"""The output folder of a scoring job.

    part-00000.parquet ...   shards: the rows of a fixed range of records each; a file that is there is complete
    _rejected.csv            file, row and reason of what could not be used, where there is any
    _job.json                what was asked, once scoring has begun; a resumed run must ask the same
    _manifest.json           counts and checksums; written last, so a folder that has it is complete

Every file appears by a rename, and holds nothing that depends on when or how often the job ran.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tfrec.data.rejects import RejectLog
from tfrec.errors import TfrecError
from tfrec.run import atomic_file, write_json

JOB, MANIFEST, REJECTED = "_job.json", "_manifest.json", "_rejected.csv"

_RECORDS = b"tfrec.records"


class OutputFolder:
    """Shards and what is told of them; opened by `open_output`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def job(self) -> Mapping[str, Any] | None:
        """What was asked here before."""
        path = self._path / JOB
        return json.loads(path.read_text()) if path.exists() else None

    def begin(self, job: Mapping[str, Any]) -> None:
        """Notes what is asked.

        Raises:
            TfrecError: If something else was asked here before.
        """
        before = self.job
        if before is None:
            with _writing(self._path):
                write_json(self._path / JOB, job)
        elif before != job:
            changed = ", ".join(name.removesuffix("_sha256") for name in job if before.get(name) != job[name])
            raise TfrecError(
                f"{self._path} was begun with another {changed}. Resume with what it was begun with, or choose another "
                "`--output`."
            )

    def shards(self) -> dict[int, int]:
        """Number of records in each shard that is there, ascending."""
        return {int(path.stem.removeprefix("part-")): self._num_records(path) for path in self._parts()}

    def write_shard(self, number: int, content: pa.Buffer) -> None:
        """Writes a shard that `encoded_shard` made."""
        with _writing(self._path), atomic_file(self._path / f"part-{number:05d}.parquet") as file:
            file.write(content)

    def list_rejects(self, rejects: RejectLog) -> None:
        """Writes `_rejected.csv`."""
        with _writing(self._path):
            rejects.write(self._path / REJECTED)

    def finish(self, job: Mapping[str, Any], rejects: RejectLog) -> dict[str, Any]:
        """Writes `_rejected.csv` and the manifest, and returns the latter."""
        self.list_rejects(rejects)
        shards = [self._describe(path) for path in self._parts()]
        manifest = {
            "job": dict(job),
            "records": sum(shard["records"] for shard in shards),
            "rows": sum(shard["rows"] for shard in shards),
            "rejected": rejects.counts(),
            "shards": shards,
        }
        with _writing(self._path):
            write_json(self._path / MANIFEST, manifest)
        return manifest

    def clear_leftovers(self) -> None:
        """Removes what killed runs left half-written."""
        for path in self._path.glob(".*.[0-9]*"):
            path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self._path.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))

    def _num_records(self, path: Path) -> int:
        try:
            return int(pa.parquet.read_schema(path).metadata[_RECORDS])
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise TfrecError(
                f"{path} is no shard of a scoring job. Remove it, or choose another `--output`."
            ) from error

    def _describe(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        rows = pa.parquet.read_metadata(path).num_rows
        return {"file": path.name, "records": self._num_records(path), "rows": rows, "sha256": checksum}


def encoded_shard(rows: pa.Table, num_records: int) -> pa.Buffer:
    """The file of a shard that has the rows of `num_records` records."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(rows.replace_schema_metadata({_RECORDS: str(num_records)}), sink, compression="zstd")
    return sink.getvalue()


@contextmanager
def open_output(path: Path, resume: bool) -> Iterator[OutputFolder]:
    """The output folder, for this process alone.

    Args:
        path: made if missing.
        resume: whether a job that was begun there may go on.

    Raises:
        TfrecError: If the folder cannot be written, holds a job and `resume` is not asked, or another process is at it.
    """
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor, path)
        folder = OutputFolder(path)
        folder.clear_leftovers()
        if not resume and (folder.job or folder.shards()):
            raise TfrecError(f"{path} holds a scoring job. Go on with it by `--resume`, or choose another `--output`.")
        yield folder
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Keeps other processes out, until this one ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TfrecError(f"Another process is writing to {path}. Wait for it, or choose another `--output`.") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a full or read-only disk into one line."""
    try:
        yield
    except OSError as error:
        raise TfrecError(
            f"{path} cannot be written: {error.strerror or error}. What is there is complete; make room or choose a folder "
            "that can be written, then go on with `--resume`."
        ) from error
