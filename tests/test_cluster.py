"""Crews of workers on a Ray cluster of this machine, with workers that need no TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfrec import cluster
from tfrec.cluster import Crew, connected
from tfrec.errors import TfrecError


@pytest.fixture(scope="module", autouse=True)
def local_cluster() -> Iterator[None]:
    with connected(None):
        yield


def worker_class() -> type:
    """Defined here, so that it is sent to the workers' processes by value."""

    class Worker:
        """Adds; what it is asked to do else happens once, which the file `memory` remembers, or always."""

        def __init__(self, memory: str, offset: int) -> None:
            self.memory, self.offset, self.loaded = memory, offset, 0

        def load(self) -> None:
            if self.offset < 0:
                raise TfrecError("no such model")
            self.loaded += 1

        def work(self, item: Any) -> tuple[int, int]:
            if item == "die" or (item == 7 and not os.path.exists(self.memory)):
                open(self.memory, "w").close()
                os._exit(1)
            return item + self.offset, self.loaded

    return Worker


def crew(folder: Path, offset: int = 100, num_workers: int = 2) -> Crew:
    return Crew.hired(worker_class(), (str(folder / "memory"), offset), num_workers, 0)


def test_each_item_is_done_once_though_a_worker_dies(tmp_path: Path) -> None:
    found = dict(crew(tmp_path).results((str(number), number) for number in range(20)))
    assert found == {str(number): (number + 100, 1) for number in range(20)}
    assert (tmp_path / "memory").exists()


def test_a_worker_without_room_and_jobs_without_items_are_no_problem(tmp_path: Path) -> None:
    workers = crew(tmp_path, num_workers=(os.cpu_count() or 1) + 1)
    assert list(workers.results(iter([(0, 1)]))) == [(0, (101, 1))]
    assert list(workers.results(iter(()))) == []


def test_failures_are_told_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(TfrecError, match=r"^no such model$"):
        list(crew(tmp_path, offset=-1, num_workers=1).results(iter([(0, 1)])))
    with pytest.raises(TypeError, match="concatenate"):
        list(crew(tmp_path, num_workers=1).results(iter([(0, "text")])))
    with pytest.raises(TfrecError, match="The same work ended 3 workers"):
        list(crew(tmp_path, num_workers=1).results(iter([(0, "die")])))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, cluster.__name__)
    with pytest.raises(TfrecError, match=r"pip install 'tfrec\[ray\]'"):
        __import__(cluster.__name__)
