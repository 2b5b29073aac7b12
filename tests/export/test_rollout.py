"""Rollback, labels and retention, on folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfrec.errors import TfrecError
from tfrec.export.publish import publish, write_serving_config
from tfrec.export.rollout import Rollout, find_version, retain, roll_back, set_labels
from tfrec.export.versions import MANIFEST, checksums, versions, withdrawn_versions
from tfrec.publish import main


def save_factor(folder: Path, factor: float) -> None:
    module = tf.Module()
    module.factor = tf.Variable(float(factor))
    multiply = tf.function(lambda x: {"y": x * module.factor}, [tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), {"serving_default": multiply})


def publish_next(models: Path, keep: int = 9) -> int:
    """Publishes the version that multiplies by its own number."""
    (models / "m").mkdir(exist_ok=True)
    number = max([*versions(models / "m"), *withdrawn_versions(models / "m")], default=0) + 1
    version = publish(lambda folder: save_factor(folder, number), models, "m", keep)
    write_serving_config(models, ["m"], {})
    return version


def fake_versions(models: Path, *numbers: int) -> Path:
    """Version folders with manifests, but no model in them."""
    for number in numbers:
        folder = models / "m" / str(number)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_text(str(number))
        manifest = {"name": "m", "stock": True, "created": "now", "files": checksums(folder)}
        (folder / MANIFEST).write_text(json.dumps(manifest))
    Rollout.read(models).write(models)
    return models


def entry(models: Path) -> model_server_config_pb2.ModelConfig:
    text = (models / "models.config").read_text()
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config[0]


def loaded(models: Path) -> list[int]:
    return list(entry(models).model_version_policy.specific.versions)


def test_a_rollback_hides_the_newest_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2, 3)
    assert roll_back(models, "m") == 2
    assert (versions(models / "m"), withdrawn_versions(models / "m")) == ([1, 2], [3])
    assert publish_next(models) == 4
    assert withdrawn_versions(models / "m") == [3]
    assert publish_next(models, keep=1) == 5
    assert (versions(models / "m"), withdrawn_versions(models / "m")) == ([5], [])


def test_there_must_be_a_whole_version_to_go_back_to(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2)
    (models / "m" / "1" / "saved_model.pb").write_text("changed")
    with pytest.raises(TfrecError, match=r"differs from its manifest: saved_model\.pb"):
        roll_back(models, "m")
    assert versions(models / "m") == [1, 2]
    with pytest.raises(TfrecError, match="no version before 7 to go back to"):
        roll_back(fake_versions(tmp_path / "other", 7), "m")


def test_labels_list_what_is_to_be_loaded(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2, 3, 4)
    assert not entry(models).HasField("model_version_policy")
    set_labels(models, "m", {"stable": 1, "canary": 4})
    assert dict(entry(models).version_labels) == {"stable": 1, "canary": 4}
    assert list(entry(models).model_version_policy.specific.versions) == [1, 3, 4]
    set_labels(models, "m", {"canary": None})
    assert dict(entry(models).version_labels) == {"stable": 1}
    set_labels(models, "m", {"stable": None})
    assert not entry(models).HasField("model_version_policy")
    assert not entry(models).version_labels


def test_a_rollback_with_labels_moves_them_in_one_step(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2, 3)
    set_labels(models, "m", {"stable": 1, "canary": 3})
    assert roll_back(models, "m") == 2
    assert dict(entry(models).version_labels) == {"stable": 1, "canary": 2}
    assert list(entry(models).model_version_policy.specific.versions) == [1, 2]
    assert versions(models / "m") == [1, 2, 3]  # requests under way may still be on it
    set_labels(models, "m", {"stable": None, "canary": None})
    assert (versions(models / "m"), withdrawn_versions(models / "m")) == ([1, 2], [3])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"stable": 9}, r"no version 9 to be called 'stable'\. Versions: 1, 2, 3, 4"),
        ({"canary": 1}, "moves a label in use to a loaded version only, and 1 is not"),
        ({'a"b': 3}, "A label is made of letters"),
    ],
)
def test_labels_that_no_server_could_give(tmp_path: Path, labels: dict[str, int | None], message: str) -> None:
    models = fake_versions(tmp_path, 1, 2, 3, 4)
    set_labels(models, "m", {"canary": 4})
    before = (models / "models.config").read_text()
    with pytest.raises(TfrecError, match=message):
        set_labels(models, "m", labels)
    assert (models / "models.config").read_text() == before


def test_versions_with_a_label_are_never_removed(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2, 3, 4)
    set_labels(models, "m", {"stable": 2})
    retain(models, "m", 1)
    assert versions(models / "m") == [2, 3, 4]  # servers hold the newest two besides
    assert publish_next(models, keep=1) == 5
    assert versions(models / "m") == [2, 4, 5]
    assert dict(entry(models).version_labels) == {"stable": 2}


@pytest.mark.parametrize("publishes", [False, True])
def test_what_serves_is_kept_and_what_was_rolled_back_is_not_counted(tmp_path: Path, publishes: bool) -> None:
    """By hand, or as a training run does that publishes."""
    models = fake_versions(tmp_path, 1, 2, 3)
    set_labels(models, "m", {"stable": 1})
    roll_back(models, "m")
    retain(models, "m", 1)
    assert versions(models / "m") == [1, 2, 3]  # the number of 3 is not used again
    assert loaded(models) == [1, 2]
    if publishes:
        assert publish(lambda folder: save_factor(folder, 4), models, "m", 1) == 4
    else:
        retain(fake_versions(models, 4), "m", 1)
    assert versions(models / "m") == loaded(models) == [1, 2, 4]
    set_labels(models, "m", {"stable": None})
    assert (versions(models / "m"), withdrawn_versions(models / "m")) == ([1, 2, 4], [])


def test_as_many_are_kept_as_may_serve(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2, 3, 4, 5)
    set_labels(models, "m", {"stable": 5})
    roll_back(models, "m")
    retain(models, "m", 3)
    assert versions(models / "m") == [2, 3, 4, 5]  # 5 is withdrawn


def test_a_version_is_found_as_servers_find_it(tmp_path: Path) -> None:
    models = fake_versions(tmp_path, 1, 2)
    assert find_version(models, "m", None).name == "2"
    set_labels(models, "m", {"stable": 1})
    roll_back(models, "m")
    assert find_version(models, "m", None).name == "1"
    with pytest.raises(TfrecError, match=r"Version 2 of .* was rolled back\. It has: 1\."):
        find_version(models, "m", 2)


def test_the_command_line_lists_all_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is served, one that has a label, and one that `models.config` does not list."""
    for name, number in (("recommender", 1), ("recommender", 2), ("native", 1)):
        folder = tmp_path / name / str(number)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(json.dumps({"stock": name != "native", "created": "now", "files": {}}))
    Rollout.read(fake_versions(tmp_path, 7)).write(tmp_path)
    assert main(["--models", str(tmp_path), "--model", "m", "--label", "stable=7"]) == 0
    assert "recommender" not in capsys.readouterr().out
    assert main(["--models", str(tmp_path)]) == 0
    rows = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["m", "7", "now", "served", "stable"],
        ["native", "1", "now", "not in models.config", ""],
        ["recommender", "2", "now", "served", ""],
        ["recommender", "1", "now", "kept", ""],
    ]
    assert main(["--models", str(tmp_path / "empty")]) == 2
    assert "holds no published models" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = fake_versions(tmp_path, 1, 2, 3)
    at = ["--models", str(models), "--model", "m"]
    assert main([*at, "--label", "stable=2", "--label", "canary=3", "--base-path", "/elsewhere"]) == 0
    shown = capsys.readouterr().out
    assert "canary" in shown
    assert "kept" in shown
    assert entry(models).base_path == "/elsewhere/m"
    assert main([*at, "--rollback"]) == 0
    shown = capsys.readouterr().out
    assert "m: version 2 serves again" in shown
    assert "withdrawn" in shown
    write_serving_config(models, ["m"], {})
    assert entry(models).base_path == "/elsewhere/m"
    assert main([*at, "--retain", "0"]) == 2
    assert capsys.readouterr().err == "error: At least 1 version must be kept. Received: 0.\n"
    assert main(["--models", str(models), "--model", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
