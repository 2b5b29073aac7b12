"""The small platform as a user has it: a published model and a dataset folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from embedded_server import free_port, running
from small_platform import dataset, model, recommender, retrieval

from tfrec.data.schema import Dataset
from tfrec.export.publish import publish
from tfrec.export.recommender import Recommender, save_recommender

__all__ = ["dataset", "free_port", "model", "recommender", "retrieval", "running"]


@pytest.fixture(scope="session")
def models(recommender: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model as two versions."""
    folder = tmp_path_factory.mktemp("models")
    publish(lambda version: save_recommender(recommender, version), folder, "recommender", 1)
    shutil.copytree(folder / "recommender" / "1", folder / "recommender" / "2")
    return folder


@pytest.fixture(scope="session")
def data(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset in files; a user without events comes last."""
    folder = tmp_path_factory.mktemp("data")
    log = dataset.interactions
    ids = {"user_id": dataset.users.ids[log.user], "video_id": dataset.videos.ids[log.video]}
    pd.DataFrame({**ids, "timestamp": log.timestamp, **log.labels}).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"user_id": [*dataset.users.ids, "silent"]}).to_csv(folder / "users.csv", index=False)
    pd.DataFrame({"video_id": dataset.videos.ids}).to_csv(folder / "videos.csv", index=False)
    return folder
