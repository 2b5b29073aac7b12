"""Tiny SavedModels and a server on loopback ports, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from embedded_server import Server, free_port, running

from tfrec.export.request import QUERY_SPECS
from tfrec.export.video_encoder import FORMAT_SPECS, ROW_SPECS, VIDEO_SPECS

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


_CONFIG = """model_config_list {{
  config {{ name: "recommender" base_path: "{0}/recommender" model_platform: "tensorflow"
           model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} }}
  config {{ name: "video_encoder" base_path: "{0}/video_encoder" model_platform: "tensorflow" }}
}}"""


def _save_recommender(folder: Path) -> None:
    """Answers what it was asked: a slot for each video of the history, and for those alike to a video its id twice."""

    def recommend(user_id: Any, history: Any, history_timestamp: Any, timestamp: Any, exclude: Any, k: Any) -> Any:
        def slots(values: Any) -> tf.Tensor:
            return tf.zeros(tf.shape(history)) + tf.cast(values, tf.float32)[:, None]

        return {
            "video_id": history,
            "score": tf.cast(history_timestamp, tf.float32),
            "click": slots(timestamp),
            "finish": slots(k),
            "like": slots(tf.math.count_nonzero(exclude != "", axis=1)),
            "reason": tf.broadcast_to(user_id[:, None], tf.shape(history)),
            "is_cold": history_timestamp > 1,
        }

    def similar(video_id: Any) -> dict[str, tf.Tensor]:
        known = tf.strings.regex_replace(video_id, "nowhere", "")
        return {"video_id": tf.stack([known, known, [""]], axis=1), "score": tf.constant([[0.5, 0.25, 0.0]])}

    signatures = {
        "recommend": tf.function(recommend, QUERY_SPECS),
        "similar_videos": tf.function(similar, [tf.TensorSpec([1], tf.string, "video_id")]),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures)


def _save_encoder(folder: Path) -> None:
    """Answers what it was sent: frames, their width, mean brightness, seconds of sound, letters of the title, sum of numbers."""

    def embed(title: Any, frames: Any, audio: Any, generate_method: Any, gen_params: Any) -> dict[str, tf.Tensor]:
        sent = tf.boolean_mask(frames[0], frames[0] != "")
        pictures = tf.map_fn(tf.io.decode_png, sent, fn_output_signature=tf.uint8)
        sound, rate_hz = tf.audio.decode_wav(audio[0])
        brightness = tf.reduce_mean(tf.cast(pictures, tf.float32))
        seconds = tf.cast(tf.shape(sound)[0], tf.float32) / tf.cast(rate_hz, tf.float32)
        letters = tf.cast(tf.strings.length(title + generate_method)[0], tf.float32)
        count, _, width, _ = tf.unstack(tf.cast(tf.shape(pictures), tf.float32))
        sizes = [count, width, brightness, seconds, letters, tf.reduce_sum(gen_params)]
        return {"embedding": tf.stack(sizes)[None], "log_variance": tf.zeros([1, 6])}

    def embed_row(*inputs: Any) -> dict[str, tf.Tensor]:
        prompt, created_at, column, value = inputs[len(VIDEO_SPECS) :]
        letters = tf.strings.length(tf.stack([prompt[0], tf.strings.reduce_join(value)]))
        numbers = [letters[0], tf.cast(created_at[0], tf.int32), tf.size(column), letters[1]]
        return {"embedding": tf.cast(tf.stack(numbers), tf.float32)[None], "log_variance": tf.zeros([1, 4])}

    def media_format(title: Any) -> dict[str, tf.Tensor]:
        wanted = {"image_size": 48, "num_frames": 7, "sampling": "uniform", "frames_per_second": 1.0}
        wanted |= {"sample_rate_hz": 8_000, "max_seconds": 0.75}
        return {name: tf.fill(tf.shape(title), tf.constant(value)) for name, value in wanted.items()}

    signatures = {
        "embed_video": tf.function(embed, VIDEO_SPECS),
        "embed_video_row": tf.function(embed_row, ROW_SPECS),
        "media_format": tf.function(media_format, FORMAT_SPECS),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures)


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory, running: Callable[..., Any]) -> Iterator[Server]:
    """Serves a `recommender` (versions 1 and 2, label `stable`) and a `video_encoder` that answer what they were asked."""
    folder = tmp_path_factory.mktemp("echo")
    for version in (1, 2):
        _save_recommender(folder / "recommender" / str(version))
    _save_encoder(folder / "video_encoder" / "1")
    config = folder / "models.config"
    config.write_text(_CONFIG.format(folder))
    flags = {"allow_version_labels_for_unavailable_models": True, "rest_api_num_threads": 4}
    with running(model_config_file=str(config), **flags) as server:
        yield server
