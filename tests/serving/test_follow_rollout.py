"""A running server follows rollbacks, labels and new versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import tensorflow as tf

from tfrec.export.publish import publish, write_serving_config
from tfrec.export.rollout import roll_back, set_labels
from tfrec.export.versions import next_version


def save_factor(folder: Path, factor: float) -> None:
    module = tf.Module()
    module.factor = tf.Variable(float(factor))
    multiply = tf.function(lambda x: {"y": x * module.factor}, [tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), {"serving_default": multiply})


def publish_next(models: Path) -> None:
    """Publishes the version that multiplies by its own number."""
    (models / "m").mkdir(exist_ok=True)
    number = next_version(models / "m")
    publish(lambda folder: save_factor(folder, number), models, "m", 9)
    write_serving_config(models, ["m"], {}, base_path=str(models))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish_next(tmp_path)
    publish_next(tmp_path)
    return tmp_path


@pytest.fixture
def ask(models: Path, running: Callable[..., Any]) -> Iterator[Callable[[str], float | None]]:
    """Asks a running server: what version `label` (empty: none) is served by, None where it refuses."""
    flags = {"model_config_file_poll_wait_seconds": 1, "allow_version_labels_for_unavailable_models": True}
    with running(model_config_file=str(models / "models.config"), **flags) as server:

        def version(label: str) -> float | None:
            place = f"/labels/{label}" if label else ""
            answer = requests.post(f"{server.url}/v1/models/m{place}:predict", json={"instances": [1.0]}, timeout=30)
            return answer.json()["predictions"][0] if answer.ok else None

        yield version


def wait(ask: Callable[[str], float | None], label: str, wanted: float | None, never: float | None = -1.0) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        answer = ask(label)
        if answer == wanted:
            return
        assert answer != never
        time.sleep(0.02)
    raise AssertionError(f"{label} is not served by {wanted}, but by {answer}")


def test_a_server_follows_without_a_refused_request(models: Path, ask: Callable[[str], float | None]) -> None:
    assert ask("") == 2
    roll_back(models, "m")
    wait(ask, "", 1, never=None)
    publish_next(models)
    wait(ask, "", 3, never=None)
    set_labels(models, "m", {"stable": 1})
    wait(ask, "stable", 1)
    publish_next(models)
    wait(ask, "", 4, never=None)
    set_labels(models, "m", {"stable": 4})
    wait(ask, "stable", 4, never=None)
    assert roll_back(models, "m") == 3
    wait(ask, "stable", 3, never=None)
    wait(ask, "", 3, never=None)
