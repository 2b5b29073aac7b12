"""Versions appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfrec.errors import TfrecError
from tfrec.export.log_requests import SignatureCall
from tfrec.export.publish import Answer, publish, write_serving_config
from tfrec.export.recommender import Recommender, save_recommender
from tfrec.export.versions import release_version, verify, versions, withdraw
from tfrec.export.warmup import write_warmup

ROOT = Path(__file__).parents[2]
DOUBLE = SignatureCall("serving_default", {"x": np.array([1.0, 2.0], np.float32)})


def save_factor(folder: Path, factor: float = 2.0) -> None:
    """A model that multiplies."""
    module = tf.Module()
    module.factor = tf.Variable(float(factor))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def multiply(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * module.factor}

    tf.saved_model.save(module, str(folder), {"serving_default": multiply})


def answered(version_folder: Path) -> list[float]:
    loaded = tf.saved_model.load(str(version_folder))
    return loaded.signatures["serving_default"](x=tf.constant([1.0]))["y"].numpy().tolist()


def test_versions_count_up_and_the_oldest_go(tmp_path: Path) -> None:
    assert [publish(save_factor, tmp_path, "double", 2) for _ in range(4)] == [1, 2, 3, 4]
    assert versions(tmp_path / "double") == [3, 4]
    assert sorted(path.name for path in (tmp_path / "double").iterdir()) == [".lock", "3", "4"]


def test_versions_that_were_there_are_counted_as_servers_do(tmp_path: Path) -> None:
    for name in ("9", "10", "12.tmp", "notes"):
        (tmp_path / "double" / name).mkdir(parents=True)
    assert publish(save_factor, tmp_path, "double", 5) == 11
    assert versions(tmp_path / "double") == [9, 10, 11]


def test_a_release_is_published_once_and_has_one_number(tmp_path: Path) -> None:
    """It is cut short after its first model, and later published again, withdrawn and published again."""
    built = []

    def build(folder: Path) -> None:
        save_factor(folder)
        built.append(folder.parent.name)

    def publish_release(release: str, *names: str) -> list[int]:
        at_least = release_version(tmp_path, ("a", "b"), release)
        return [publish(build, tmp_path, name, 2, release=release, at_least=at_least) for name in names]

    assert publish_release("first", "a") == [1]
    assert publish_release("second", "a") == [2]
    assert publish_release("second", "a", "b") == [2, 2]
    withdraw(tmp_path / "b", 2)
    assert publish_release("second", "a", "b") == [2, 2]
    assert built == ["a", "a", "b"]
    assert (versions(tmp_path / "a"), versions(tmp_path / "b")) == ([1, 2], [])
    assert publish_release("third", "b") == [3]


def test_checksums_hold_until_a_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "double" / str(publish(save_factor, tmp_path, "double", 3))
    verify(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {
        "saved_model.pb", "fingerprint.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"
    }  # fmt: skip
    with (folder / "variables" / "variables.data-00000-of-00001").open("ab") as file:
        file.write(b"!")
    with pytest.raises(TfrecError, match=r"variables\.data"):
        verify(folder)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([2.0, 4.1], "`y` of `serving_default`"),
        ([2.0, 4.0, 6.0], "`y` of `serving_default`"),
    ],
)
def test_a_model_that_answers_otherwise_is_not_published(tmp_path: Path, answer: list[float], message: str) -> None:
    publish(save_factor, tmp_path, "double", 3, expected=[Answer(DOUBLE, {"y": np.array([2.0, 4.0], np.float32)})])
    with pytest.raises(TfrecError, match=message):
        publish(save_factor, tmp_path, "double", 3, expected=[Answer(DOUBLE, {"y": np.array(answer, np.float32)})])
    assert sorted(path.name for path in (tmp_path / "double").iterdir()) == [".lock", "1"]


def test_rounding_may_change_the_order_of_equals_and_nothing_else(tmp_path: Path) -> None:
    """The model shows a, b, c, d with scores 3, 2, 2, 1."""

    def save_slate(folder: Path) -> None:
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def slate(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"video_id": tf.constant([["a", "b", "c", "d"]]), "score": tf.constant([[3.0, 2.0, 2.0, 1.0]])}

        tf.saved_model.save(tf.Module(), str(folder), {"serving_default": slate})

    def publish_expecting(ids: str, scores: list[float]) -> int:
        outputs = {"video_id": np.array([[i.encode() for i in ids]], object), "score": np.array([scores], np.float32)}
        return publish(save_slate, tmp_path, "slate", 9, expected=[Answer(DOUBLE, outputs)])

    assert publish_expecting("abcd", [3, 2, 2, 1]) == 1
    assert publish_expecting("acbd", [3, 2, 2, 1]) == 2
    assert publish_expecting("abce", [3, 2, 2, 1]) == 3  # the last slot may be shared with one past it
    for ids, scores in (("bacd", [3, 2, 2, 1]), ("abcd", [3, 2, 1.9, 1]), ("abc", [3, 2, 2])):
        with pytest.raises(TfrecError, match="answers otherwise"):
            publish_expecting(ids, scores)


def test_a_model_with_a_bad_warm_up_or_foreign_ops_is_not_published(tmp_path: Path) -> None:
    def bad_warmup(folder: Path) -> None:
        save_factor(folder)
        write_warmup(folder, "double", [SignatureCall("serving_default", {"z": np.zeros(1, np.float32)})])

    def with_python(folder: Path) -> None:
        module = tf.Module()
        module.call = tf.function(lambda x: tf.py_function(lambda y: y, [x], tf.float32), [tf.TensorSpec([])])
        tf.saved_model.save(module, str(folder))

    for build, message in ((bad_warmup, "Warm-up request 0"), (with_python, "EagerPyFunc")):
        with pytest.raises(TfrecError, match=message):
            publish(build, tmp_path, "double", 3)
    assert versions(tmp_path / "double") == []
    assert publish(with_python, tmp_path, "double", 3, stock=False) == 1
    assert json.loads((tmp_path / "double" / "1" / "manifest.json").read_text())["stock"] is False


def test_the_recommender_is_published_with_its_answers(recommender: Recommender, tmp_path: Path) -> None:
    inputs = {"video_id": np.array(["视频 5"], object)}
    call = SignatureCall("similar_videos", inputs)

    def build(folder: Path) -> None:
        save_recommender(recommender, folder)
        write_warmup(folder, "recommender", [call])

    assert publish(build, tmp_path, "recommender", 3, expected=[Answer(call, recommender.call(*call))]) == 1
    verify(tmp_path / "recommender" / "1")


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
import tfrec
from test_publish import save_factor
from tfrec.export.publish import publish

print("ready", flush=True)
for factor in range(int(sys.argv[2]), 1000):
    publish(lambda folder: save_factor(folder, factor), Path(sys.argv[1]), "factor", keep=2)
    print(factor, flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_versions(tmp_path: Path) -> None:
    """Each round publishes as fast as it can and is killed; what servers see is complete, and the next round goes on."""
    draw = np.random.default_rng(0)
    paths = [str(ROOT), str(Path(__file__).parent)]
    highest, folder = 0, tmp_path / "factor"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(highest + 1), *paths],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = versions(folder)
        assert found[-1] > highest
        assert len(found) <= 3  # those kept, and one whose removal was cut short
        highest = found[-1]
        for version in found:
            verify(folder / str(version))
            assert answered(folder / str(version)) == [float(version)]
    publish(save_factor, tmp_path, "factor", 2)
    assert sorted(path.name for path in folder.iterdir()) == sorted([".lock", str(highest), str(highest + 1)])


def test_serving_config(tmp_path: Path) -> None:
    for name in ("double", "native"):
        publish(save_factor, tmp_path, name, 3)
    write_serving_config(tmp_path, ["double"], {"fingerprint": "abc", "encoders": {"text": "bert-1"}})
    config = text_format.Parse((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert [(model.name, model.base_path, model.model_platform) for model in config.model_config_list.config] == [
        ("double", "/models/double", "tensorflow")
    ]
    assert 'path: "/monitoring/prometheus/metrics"' in (tmp_path / "monitoring.config").read_text()
    settings = [line for line in (tmp_path / "batching.config").read_text().splitlines() if not line.startswith("#")]
    assert {line.split()[0] for line in settings} == {
        "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"
    }  # fmt: skip
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["fingerprint"] == "abc"
    assert manifest["encoders"] == {"text": "bert-1"}
    assert set(manifest["models"]) == {"double", "native"}
    assert manifest["models"]["double"]["latest"] == 1
    files = manifest["models"]["double"]["versions"]["1"]["files"]
    assert set(files) > {"saved_model.pb"}


def test_the_base_path_can_be_another(tmp_path: Path) -> None:
    publish(save_factor, tmp_path, "double", 3)
    write_serving_config(tmp_path, ["double"], {}, base_path=f"{tmp_path}/")
    config = text_format.Parse((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].base_path == str(tmp_path / "double")
