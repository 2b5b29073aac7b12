"""What the embedded server does when things go wrong under load: a corrupt version, kill -9, SIGTERM.

    python benchmarks/serve_faults.py [--models runs/demo/models] [--clients 4]

Serves a copy of the newest `recommender` in a process of its own, keeps asking it over gRPC, and

1. adds a version whose variables are cut in half: it must be reported, and no request may fail;
2. kills the server with SIGKILL and starts it again: how long until it answers, beside the first start;
3. sends SIGTERM: calls under way must be answered, new ones refused, and the exit code be 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve_process import PATIENCE_SECONDS, ServerProcess

from serving.client import CallError, Client
from tfrec.console import console
from tfrec.export.versions import versions


class Asking:
    """Clients that ask until told to stop; a context manager.

    Args:
        address: of the server.
        clients: threads.
    """

    def __init__(self, address: str, clients: int) -> None:
        self._address, self._clients = address, clients
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(clients)

    def __enter__(self) -> Asking:
        for _ in range(self._clients):
            self._pool.submit(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _ask(self) -> None:
        with Client(self._address, timeout=60, retries=0) as client:
            while not self._stop.is_set():
                try:
                    client.recommend("u00001", ["v0001", "v0002"])
                    self.outcomes["answered"] += 1
                except CallError as error:
                    refused = "connect" in error.cause.lower() or "shutdown" in error.cause.lower()
                    self.outcomes["refused" if refused else f"{error.code}: {error.cause}"] += 1
                    time.sleep(0.02)


def add_corrupt_version(folder: Path) -> int:
    """The newest version as the next one, its variables cut in half."""
    number = versions(folder)[-1] + 1
    scratch = folder / f".{number}.building"
    shutil.copytree(folder / str(number - 1), scratch)
    data = next((scratch / "variables").glob("variables.data*"))
    os.truncate(data, data.stat().st_size // 2)
    scratch.rename(folder / str(number))
    return number


def wait_for_error(server: ServerProcess, version: int) -> str:
    """What the server says of a version that cannot load."""
    with Client(server.grpc, timeout=60) as client:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            for row in client.status():
                if row.version == version and row.state == "END":
                    return row.error
            time.sleep(0.2)
    raise SystemExit(f"version {version} was not reported within {PATIENCE_SECONDS:g} seconds")


def measure(folder: Path, clients: int) -> None:
    with ServerProcess(folder) as server:
        _measure(server, folder, clients)


def _measure(server: ServerProcess, folder: Path, clients: int) -> None:
    first = server.start()
    with Asking(server.grpc, clients) as asking:
        version = add_corrupt_version(folder)
        error = wait_for_error(server, version)
    console.print(
        f"corrupt version {version}: reported as END ({' '.join(error.split())[:80]}…); meanwhile {dict(asking.outcomes)}"
    )
    shutil.rmtree(folder / str(version))
    code = server.signal(signal.SIGKILL)
    again = server.start()
    console.print(f"killed ({code}): answers {again:.1f} s after the restart, {first:.1f} s after the first start")
    with Asking(server.grpc, clients) as asking:
        time.sleep(3)
        begin = time.monotonic()
        code = server.signal(signal.SIGTERM)
        seconds = time.monotonic() - begin
    console.print(f"SIGTERM under load: exit code {code} after {seconds:.1f} s; {dict(asking.outcomes)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("runs/demo/models"))
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    newest = versions(options.models / "recommender")[-1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "recommender"
        shutil.copytree(options.models / "recommender" / str(newest), folder / "1")
        measure(folder, options.clients)


if __name__ == "__main__":
    main()
