"""The main job on a demo dataset in miniature, as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TINY = (
    "--demo.num_videos=40",
    "--demo.num_users=120",
    "--demo.num_days=12",
    "--retrieval.embedding_dim=16",
    "--retrieval.epochs=3",
    "--retrieval.batch_size=128",
    "--retrieval.query.history_length=10",
    "--cold_start.epochs=2",
    "--cold_start.batch_size=128",
    "--ranking.epochs=2",
    "--evaluation.bootstrap_samples=50",
    "--export.num_candidates=30",
    "--export.max_k=20",
)


@dataclass(frozen=True)
class TrainJob:
    """`python -m tfrec.train` on a tiny demo dataset.

    Args:
        cache: where the dataset is made once.
    """

    cache: Path

    def start(self, output: Path, *arguments: str) -> subprocess.Popen[str]:
        """Starts a run; both output streams come through `stdout`, line by line."""
        command = [sys.executable, "-u", "-m", "tfrec.train", *TINY, f"--data.cache={self.cache}", f"--output={output}"]
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, output: Path, *arguments: str) -> str:
        """Runs to the end and returns what was printed."""
        process = self.start(output, *arguments)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        return printed


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    return TrainJob(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class FinishedRun:
    """A run that nothing disturbed: its folder and what it printed."""

    output: Path
    printed: str


@pytest.fixture(scope="session")
def finished(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    output = tmp_path_factory.mktemp("runs") / "demo"
    return FinishedRun(output, job.run(output, "--evaluation.num_seeds=2"))
