"""Runs scoring jobs in this process and reads what they leave."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from tfrec.scoring.job import ScoreJob, Summary, run


def score(models: Path | None, users: Path | str, output: Path, **options: Any) -> pd.DataFrame:
    """Runs a job and reads all its rows."""
    run_job(models, users, output, **options)
    return read(output)


def run_job(models: Path | None, users: Path | str, output: Path, **options: Any) -> Summary:
    """Runs a job, for 5 rows per user unless `options` say otherwise."""
    progress = options.pop("progress", lambda done, total: None)
    return run(ScoreJob(models, str(users), output, **{"k": 5, **options}), progress)


def read(output: Path) -> pd.DataFrame:
    """All rows."""
    parts = sorted(output.glob("part-*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in parts], ignore_index=True)


def checksums(output: Path) -> dict[str, str]:
    """Of all files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.iterdir())}


def shards(output: Path) -> dict[str, str]:
    """Checksums of the shards alone."""
    return {name: checksum for name, checksum in checksums(output).items() if name.startswith("part-")}
