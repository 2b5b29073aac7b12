"""What `pipelines/train_ray.py` refuses before a worker starts; that it trains is in `tests/integration/test_clusters.py`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tfrec.config import DistributionConfig, TrainConfig
from tfrec.errors import TfrecError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("option", "expected"), [("--retrieval.epochs=0", "epochs"), ("--no-such=1", "no-such")])
def test_options_of_training_are_checked_first(option: str, expected: str) -> None:
    train = runpy.run_path(str(ROOT / "pipelines" / "train_ray.py"))["train"]
    with pytest.raises(TfrecError, match=expected):
        train(["--num-workers=2", option])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TrainConfig(), "needs `--output`"),
        (
            TrainConfig(output=Path("run"), distribution=DistributionConfig(strategy="mirrored")),
            r"train in step: .* Received: 'mirrored'",
        ),
    ],
)
def test_what_cannot_run_on_ray_is_refused(config: TrainConfig, expected: str) -> None:
    from tfrec.ray_training import RayWorkers, train_on_ray

    with pytest.raises(TfrecError, match=expected):
        train_on_ray(config, RayWorkers())
