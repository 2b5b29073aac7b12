"""The folder of a run: what has been finished, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tfrec.errors import TfrecError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block ends, and leaves it alone when the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to write in that becomes `path` when the block ends, and vanishes when the block fails.

    Args:
        path: of the folder.
        replace: whether one that exists gives way; otherwise it is refused.

    Raises:
        TfrecError: If `path` exists and may not be replaced.
    """
    if path.exists() and not replace:
        raise TfrecError(f"{path} exists already. Remove it, or choose another folder.")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if path.exists():
            shutil.rmtree(path)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Waits for other processes that hold the file, and keeps them out until the block ends or this process dies."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON atomically."""
    with atomic_file(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())


def _locked(folder: Path) -> BinaryIO:
    """An open file that keeps other processes out of a run's folder until it is closed, or its process dies."""
    file = (folder / ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TfrecError(f"Another run is at work in {folder}. Wait for it, or choose another --output.") from None
    return file


class RunFolder:
    """What a run leaves behind, and how it continues.

    A stage is *finished* once its name stands in `state.json`, which is written after everything the stage leaves behind.
    `--resume` does not run it again.

    Args:
        folder: the run's folder, made if missing.
        fingerprint: of configuration and data; a run of another fingerprint cannot be resumed.
        resume: keep what is there; otherwise the stages start over.

    Raises:
        TfrecError: If another process runs in the folder, or `resume` is asked of a run with another configuration.
    """

    def __init__(self, folder: Path, fingerprint: str, resume: bool) -> None:
        self.folder = folder
        self._state_file = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        state = json.loads(self._state_file.read_text()) if self._state_file.exists() else None
        if resume and state is not None and state["fingerprint"] != fingerprint:
            self.close()
            raise TfrecError(
                f"`--resume` needs the configuration and data that {folder} was started with, and they have changed. "
                "Start over without `--resume`, or choose another `--output`."
            )
        self.resumed = resume and state is not None
        self._state: dict[str, Any] = state if self.resumed and state else {"fingerprint": fingerprint, "stages": {}}
        self._state.setdefault("id", uuid.uuid4().hex)
        self._save()

    def close(self) -> None:
        """Lets other runs into the folder; the end of the process does too."""
        self._lock.close()

    @property
    def id(self) -> str:
        """Of the run: the same after it was resumed, another where it started over."""
        return str(self._state["id"])

    def finished(self, stage: str) -> bool:
        """Whether `stage` was finished."""
        return stage in self._state["stages"]

    def result(self, stage: str) -> dict[str, Any]:
        """What `finish` was told of a finished stage."""
        return self._state["stages"][stage]

    @property
    def progress(self) -> str:
        """How far the run had come when it was opened to be resumed, in words."""
        if not self.resumed:
            return f"nothing to resume in {self.folder}: starts over"
        done = ", ".join(self._state["stages"]).replace("_", " ")
        return f"resumes the run in {self.folder}; trained before: {done or 'nothing yet'}"

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent in each finished stage."""
        return {name: stage["seconds"] for name, stage in self._state["stages"].items()}

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Runs `work`, unless the stage was finished before, and remembers its result.

        Args:
            name: of the stage.
            work: does the stage and returns what to remember of it, as JSON values.

        Returns:
            What `work` returned, now or then, and `seconds`.
        """
        if not self.finished(name):
            start = time.monotonic()
            result = work()
            self._state["stages"][name] = {**result, "seconds": round(time.monotonic() - start, 3)}
            self._save()
        return self.result(name)

    def _save(self) -> None:
        write_json(self._state_file, self._state)


class SharedRunFolder(RunFolder):
    """The folder of a run that another worker leads: what was finished when that one opened it. Nothing is written here.

    Args:
        folder: the run's folder, opened by the leading worker.
        fingerprint: of this worker's configuration and data.

    Raises:
        TfrecError: If the leading worker does not run in this folder, or has another configuration or data.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        try:
            self._state = json.loads((folder / "state.json").read_text())
        except OSError as error:
            raise TfrecError(
                f"The output folder {folder} does not show what the first worker wrote: {error.strerror}. "
                "Give all workers the same --output, on storage that all of them see."
            ) from None
        if self._state["fingerprint"] != fingerprint:
            raise TfrecError(
                f"This worker's configuration or data differ from those of the first worker, which opened {folder}. "
                "Start all workers with the same options and the same dataset."
            )
        self.resumed = True

    def close(self) -> None:
        """There is nothing to close."""

    def _save(self) -> None:
        """What this worker has finished is known to itself alone."""
