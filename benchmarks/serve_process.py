"""The embedded server in a process of its own, for the scripts beside this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).parents[1]))

from serving.client import Client

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 600.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A server of one model, started anew by each `start`; a context manager that kills it at the end.

    Args:
        folder: of the model.
        name: of the model.
        log: where its output goes; None for nowhere.
    """

    def __init__(self, folder: Path, name: str = "recommender", log: Path | None = None) -> None:
        self.grpc, self.rest = f"grpc://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self._folder, self._name = folder.resolve(), name
        self._log = Path(os.devnull) if log is None else log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Returns the seconds until it serves.

        Raises:
            CallError: If it does not.
        """
        begin = time.monotonic()
        ports = [f"--port={self.grpc.rpartition(':')[2]}", f"--rest_api_port={self.rest.rpartition(':')[2]}"]
        model = [f"--model_name={self._name}", f"--model_base_path={self._folder}", "--max_num_load_retries=0"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving.server", *ports, *model],
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdout=log,
                stderr=log,
            )
        with Client(self.grpc, self._name, timeout=PATIENCE_SECONDS, retries=10_000) as client:
            client.status()
        return time.monotonic() - begin

    def signal(self, number: int) -> int:
        """Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
