"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

import tfrec  # noqa: F401  (first: it chooses Keras 2 for TensorFlow)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and pretrained modules beside the project; a user's clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data sets and modules in ../shared")
    return folder
