"""Tiny SavedModels and a server on loopback ports, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from embedded_server import free_port, running

__all__ = ["free_port", "running"]


def _save_model(folder: Path, offset: float = 0.0) -> Path:
    """Writes a model: `serving_default` y = x / 2 + offset; `join` of strings; `slow` sleeps x seconds; `check` x >= 0."""
    floats, strings = tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.string, "text")
    module = tf.Module()
    module.offset = tf.Variable(offset)

    def slow(x: tf.Tensor) -> dict[str, tf.Tensor]:
        stop = tf.timestamp() + tf.cast(tf.reduce_max(x), tf.float64)
        rounds = tf.while_loop(lambda n: tf.timestamp() < stop, lambda n: [n + 1], [tf.constant(0)])
        with tf.control_dependencies(rounds):
            return {"y": tf.identity(x)}

    def check(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x >= 0), ["x must not be negative"])]):
            return {"y": tf.identity(x)}

    functions = {
        "serving_default": (lambda x: {"y": x * 0.5 + module.offset}, [floats]),
        "join": (
            lambda text: {"joined_bytes": tf.strings.join([text, "!"]), "size": tf.strings.length(text)},
            [strings],
        ),
        "slow": (slow, [floats]),
        "check": (check, [floats]),
    }
    signatures = {name: tf.function(call).get_concrete_function(*specs) for name, (call, specs) in functions.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """Writes a tiny model into a version folder."""
    return _save_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version folders to copy from: `offset_1`, `offset_2`, `broken`."""
    folder = tmp_path_factory.mktemp("models")
    for offset in (1, 2):
        _save_model(folder / f"offset_{offset}", float(offset))
    (folder / "broken").mkdir()
    (folder / "broken" / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    return folder
