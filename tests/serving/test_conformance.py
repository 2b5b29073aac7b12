"""The recorded behaviour of TensorFlow Serving 2.16.1, replayed against the embedded server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _replay(shared: Path, output: Path, *profiles: str) -> dict[str, int]:
    """Passed and total number of cases of the profiles given, of all without any."""
    folder = shared / "conformance"
    command = [sys.executable, "run.py", "--server", f"{sys.executable} -m serving.server", "--json", str(output)]
    chosen = [argument for profile in profiles for argument in ("--profile", profile)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command + chosen, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(run.stdout[-4000:])  # the differences, where the test fails
    return json.loads(output.read_text())


def test_batching_cases(shared: Path, tmp_path: Path) -> None:
    outcome = _replay(shared, tmp_path / "out.json", "batch")
    assert outcome["passed"] == outcome["total"] > 0


@pytest.mark.slow
def test_all_cases(shared: Path, tmp_path: Path) -> None:
    outcome = _replay(shared, tmp_path / "out.json")
    assert outcome["passed"] >= 0.98 * outcome["total"] > 0
