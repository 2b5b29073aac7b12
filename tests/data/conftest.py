"""Small dataset folders, written as literal text."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files (name -> text or bytes; `.gz` is compressed) into a new dataset folder."""
    folder = tmp_path / "mini"

    def write_files(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return folder

    return write_files
