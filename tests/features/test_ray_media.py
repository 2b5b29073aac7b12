"""Media on a Ray cluster: the same vectors and the same refusals as on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tfrec.config import AudioConfig, FeaturesConfig, ImageConfig
from tfrec.data.rejects import RejectLog
from tfrec.features.extract import extract_features
from tfrec.features.ray_media import RayMedia

CONFIG = FeaturesConfig(image=ImageConfig(image_size=32, num_frames=4), audio=AudioConfig(num_steps=8), workers=1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    ray.init(address="local", _node_ip_address="127.0.0.1", log_to_driver=False, **options)
    yield
    ray.shutdown()


def test_a_cluster_stores_what_this_machine_stores(cluster: None, catalog: Any, media: Any, tmp_path: Path) -> None:
    here, there = RejectLog(), RejectLog()
    expected = extract_features(catalog(media=media), CONFIG, tmp_path / "here", here)
    shutil.copytree(tmp_path / "here" / "modules", tmp_path / "there" / "modules")
    content = extract_features(catalog(media=media), CONFIG, tmp_path / "there", there, engine=RayMedia())
    assert content.encoders == expected.encoders
    assert content.encoded == expected.encoded
    assert there.counts() == here.counts() != {}
    for name, modality in expected.modalities.items():
        np.testing.assert_array_equal(content.modalities[name].values, modality.values)
        np.testing.assert_array_equal(content.modalities[name].lengths, modality.lengths)
