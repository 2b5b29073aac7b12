"""`python -m tfrec.train` from the outside: what it leaves behind, and that killing it loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml

from serving.embedded import model_config
from serving.embedded.core import Core
from serving.embedded.flags import Flags
from serving.remote import calls
from serving.remote.media import read_video
from tfrec.config import DataConfig, TrainConfig
from tfrec.data.dataset import load_dataset
from tfrec.encoders.hub import module_version
from tfrec.export.versions import verify, versions
from tfrec.train import parse_arguments

ROOT = Path(__file__).parents[2]
STAGES = ("Data and features", "Retrieval", "Cold start", "Index", "Ranking", "Evaluation", "Export")


def read_metrics(output: Path) -> dict[str, Any]:
    return json.loads((output / "metrics.json").read_text())


def results(metrics: dict[str, Any]) -> Any:
    """The numbers that must not depend on how often a run was stopped: all but times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: timeless(item) for name, item in value.items() if "second" not in name}
        return value

    return timeless({name: metrics[name] for name in ("retrieval", "warm", "cold_start", "ranking", "baselines")})


def kill_during(process: subprocess.Popen[str], stage: str, seconds: float, trace: Path | None = None) -> None:
    """Reads what a run prints until a stage begins, lets it work a little, and kills it.

    Args:
        process: the run.
        stage: as it is printed.
        seconds: of work after the stage began, or after `trace` appeared.
        trace: a file that the stage writes on the way.
    """
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.strip() == stage:
            break
    while trace is not None and not trace.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "".join(printed)


def test_leaves_what_the_contract_promises(finished: Any) -> None:
    output = finished.output
    assert yaml.safe_load((output / "config.yaml").read_text())["retrieval"]["embedding_dim"] == 16
    assert (output / "report.html").stat().st_size > 10_000
    assert list((output / "logs").rglob("events.out.tfevents.*"))
    metrics = read_metrics(output)
    assert {"dataset", "retrieval", "warm", "cold_start", "ranking", "baselines", "index", "seconds"} <= set(metrics)
    assert {"recall@20", "recall@20_interval", "ndcg@20", "hit_rate@10", "mrr", "coverage@20", "users"} <= set(
        metrics["retrieval"]
    )
    assert {"click_auc", "click_logloss", "click_ece", "retrieval_click_auc"} <= set(metrics["ranking"])
    assert metrics["examples_per_second"] > 0
    assert 0 < metrics["validation"]["recall@20"] <= 1
    for name in ("recommender", "recommender_scann", "video_encoder"):
        (version,) = versions(output / "models" / name)
        verify(output / "models" / name / str(version))
    modules = json.loads((output / "models" / "manifest.json").read_text())["modules"]
    assert set(modules) == {"text.preprocessor", "text.encoder", "image.encoder"}
    assert modules["text.encoder"]["sha256"] == module_version(modules["text.encoder"]["handle"])
    assert {"models.config", "batching.config", "monitoring.config", "manifest.json"} <= {
        path.name for path in (output / "models").iterdir()
    }


def test_prints_the_comparison_and_where_things_are(finished: Any) -> None:
    for expected in (*STAGES, "this model", "popularity", "oracle", "report.html", "next: python -m serving.server"):
        assert expected in finished.printed


def test_tensorflow_alone_loads_the_recommender_and_gets_a_slate(finished: Any) -> None:
    code = """
import sys
import tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
slate = signatures["serving_default"](
    user_id=tf.constant(["u1", "nobody"]), history=tf.constant([["v1", "v2"], ["", ""]]),
    history_timestamp=tf.zeros([2, 2], tf.int64), timestamp=tf.zeros([2], tf.int64),
    exclude=tf.constant([["v3"], [""]]), k=tf.constant([5, 3]))
found = signatures["search"](query=tf.constant(["a red circle"]))["video_id"].numpy()
assert not {"tfrec", "tensorflow_text", "tensorflow_recommenders"} & set(sys.modules)
print(*((slate["video_id"].numpy() != b"").sum(axis=1)), (found != b"").any())
"""
    model = finished.output / "models" / "recommender" / "1"
    done = subprocess.run([sys.executable, "-I", "-c", code, model], capture_output=True, text=True)
    assert done.stdout.split() == ["5", "3", "True"], done.stderr


@pytest.mark.parametrize("model", ["recommender", "video_encoder"])
def test_published_models_load_where_requests_are_batched(finished: Any, model: str) -> None:
    """Warm-up goes through the batcher, as in the compose and Kubernetes files."""
    models = finished.output / "models"
    flags = Flags(
        model_name=model,
        model_base_path=str(models / model),
        enable_batching=True,
        batching_parameters_file=str(models / "batching.config"),
    )
    manager = Core(flags).manager
    manager.start(model_config.single_model(model, str(models / model)))
    assert {state.error for _, state in manager.states(model)} == {None}
    manager.stop()


def test_further_seeds_are_told_beside_the_first(finished: Any) -> None:
    metrics = read_metrics(finished.output)
    first, second = metrics["seeds"]["retrieval"]["recall@20"]["values"]
    assert first == metrics["retrieval"]["recall@20"] != second
    assert {"cold_start", "ranking"} < set(metrics["seeds"])
    assert "over 2 seeds, retrieval: recall@10" in finished.printed
    assert "Over several seeds" in (finished.output / "report.html").read_text()


@pytest.mark.slow
def test_a_further_seed_is_the_run_that_it_would_be_alone(job: Any, finished: Any, tmp_path: Path) -> None:
    job.run(tmp_path, "--seed=2", f"--features.cache={finished.output / 'features'}")
    alone, beside = read_metrics(tmp_path), read_metrics(finished.output)["seeds"]
    for block, metric in (("retrieval", "recall@20"), ("cold_start", "recall@20"), ("ranking", "click_auc")):
        assert beside[block][metric]["values"][1] == pytest.approx(alone[block][metric], abs=1e-6)


def test_the_video_encoder_gives_what_the_index_holds_of_cold_videos(job: Any, finished: Any) -> None:
    """From what the client makes of a file and from the cells of videos.csv."""
    (folder,) = (path.parent for path in job.cache.rglob("videos.csv"))
    dataset = load_dataset(DataConfig(folder))
    table = pd.read_csv(folder / "videos.csv", dtype=str, keep_default_na=False).set_index("video_id")
    models = finished.output / "models"
    encoder = tf.saved_model.load(str(models / "video_encoder" / "1")).signatures
    encode, asked = encoder["embed_video_row"], calls.media_format()
    answer = encoder["media_format"](**{name: tf.constant(value) for name, value in asked.inputs.items()})
    media_format = asked.read({name: values.numpy() for name, values in answer.items()})
    held = tf.saved_model.load(str(models / "recommender" / "1")).signatures["embed_candidate"]
    cold = dataset.videos.ids[dataset.interactions.train_counts == 0]
    assert len(cold) > 1
    for video_id in cold:
        row = table.loc[video_id]
        media = calls.embed_video(
            row.title,
            *read_video(folder / "videos" / f"{video_id}.mp4", media_format),
            row.generate_method,
            json.loads(row.gen_params or "[]"),
        )
        call = calls.embed_video_row(media, row.prompt, int(row.created_at), row[["tags", "duration"]].to_dict())
        served = encode(**{name: tf.constant(value) for name, value in call.inputs.items()})["embedding"].numpy()[0]
        expected = held(video_id=tf.constant([video_id]))["embedding"].numpy()[0]
        assert served @ expected / np.linalg.norm(served) / np.linalg.norm(expected) > 0.999, video_id


def test_a_second_run_encodes_nothing_and_publishes_the_next_version(job: Any, finished: Any) -> None:
    before = results(read_metrics(finished.output))
    printed = job.run(finished.output)
    assert "video features" in printed
    assert all(", 0 encoded now" in line for line in printed.splitlines() if "encoded now" in line)
    assert versions(finished.output / "models" / "recommender") == [1, 2]
    assert results(read_metrics(finished.output)) == before  # same seed, same result


@pytest.mark.parametrize("changed", [("--retrieval.learning_rate=0.01",)])
def test_resume_refuses_another_configuration(job: Any, finished: Any, changed: tuple[str]) -> None:
    process = job.start(finished.output, "--resume=true", *changed)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "`--resume` needs the configuration and data" in printed.splitlines()[-1]


def test_a_run_killed_in_every_stage_ends_as_if_it_had_not_been(job: Any, finished: Any, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    histories = {
        stage: output / "checkpoints" / stage / "history.json" for stage in ("retrieval", "cold_start", "ranking")
    }
    moments = {
        "Data and features": (1.0, None),
        "Retrieval": (0.1, histories["retrieval"]),
        "Cold start": (0.1, histories["cold_start"]),
        "Index": (0.1, None),
        "Ranking": (0.1, histories["ranking"]),
        "Evaluation": (0.2, None),
        "Export": (0.1, output / "models" / "recommender" / "1"),
    }
    for stage, (seconds, trace) in moments.items():
        kill_during(job.start(output, "--resume"), stage, seconds, trace)
        published = output / "models" / "recommender"
        for version in versions(published) if published.exists() else []:
            verify(published / str(version))
    printed = job.run(output, "--resume")
    assert "trained before: retrieval, cold start, ranking" in printed
    assert results(read_metrics(output)) == results(read_metrics(finished.output))
    for name in ("recommender", "recommender_scann", "video_encoder"):
        assert versions(output / "models" / name) == [1]
        verify(output / "models" / name / "1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--retrieval.epochs=0"], "`epochs` must be positive. Received: 0."),
        (["--retrieval.epoch=3"], "retrieval.epoch"),
        (["--data=no/such/folder"], "The dataset folder no/such/folder does not exist. Give one with --data DIR."),
        (["--index.kind=faiss"], "faiss"),
        (["--data=setup.py"], "The dataset folder setup.py is not a folder."),
        (["--output=setup.py/run"], "The output folder setup.py/run cannot be made"),
    ],
)
def test_bad_options_give_one_clear_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfrec.train", f"--output={tmp_path}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert expected in done.stderr.strip().splitlines()[-1]


SCORE = ["pipelines/score.py", "--models=no/models", "--users=all"]


@pytest.mark.parametrize(
    ("command", "log", "expected"),
    [
        (["tfrec/train.py"], None, "has no interactions.csv"),
        (["tfrec/train.py"], "", "interactions.csv is empty"),
        (["tfrec/train.py"], "user_id,video_id,timestamp\n", "interactions.csv holds no rows"),
        (["tfrec/train.py"], "user_id,item,timestamp\nu,v,1\n", "interactions.csv has no column `video_id`"),
        (["tfrec/train.py"], "user_id,video_id,timestamp\nu,v,1\nu,w,soon\n", "1 of 2 rows (50.0%) cannot be used"),
        (["pipelines/extract_features.py"], "user_id,video_id\n", "has neither `timestamp` nor `split`"),
        (SCORE, "user_id,video_id\n", "no/models/recommender holds no published model"),
    ],
)
def test_what_cannot_be_used_is_refused_before_tensorflow_is_loaded(
    command: list[str], log: str | None, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    if log is not None:
        (tmp_path / "data" / "interactions.csv").write_text(log)
    arguments = [*command, f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'run'}"]
    code = f"""
import runpy, sys
sys.argv = {arguments}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print(end.code, file=sys.stderr)
    assert end.code
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stderr


def test_options_that_stand_for_others() -> None:
    assert parse_arguments([]) == TrainConfig()
    for arguments in (["--resume"], ["--resume", "--seed=1"], ["--seed", "1", "--resume"], ["--resume", "true"]):
        assert parse_arguments(arguments) == TrainConfig(resume=True)
    assert not parse_arguments(["--resume", "false"]).resume
    for arguments in (["--data", "tests"], ["--data=tests"], ["--data.folder=tests"]):
        assert parse_arguments(arguments).data.folder == Path("tests")
    for arguments in (["--strategy", "mirrored"], ["--strategy=mirrored"], ["--distribution.strategy=mirrored"]):
        assert parse_arguments(arguments).distribution.strategy == "mirrored"


def test_help_answers_in_under_a_second() -> None:
    command = [sys.executable, "-m", "tfrec.train", "--help"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1.0
    assert "--retrieval.learning_rate" in done.stdout


@pytest.mark.parametrize("split", ["train", "train,validation"])
def test_a_log_that_holds_nothing_new_out_is_refused_before_training(split: str, tmp_path: Path) -> None:
    """All rows train; or what is held out, the user has watched in training."""
    parts = split.split(",")
    rows = [f"u{user},v{user % 3},{part}" for user in range(20) for part in parts]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,video_id,split", *rows]) + "\n")
    command = [sys.executable, "-m", "tfrec.train", f"--data={tmp_path}", f"--output={tmp_path / 'run'}"]
    done = subprocess.run([*command, "--data.max_rejected=0.9"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nothing can be measured" in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_encoders_are_fine_tuned_and_exported(job: Any, tmp_path: Path) -> None:
    """Both encoders; towers that have hardly learned, so that fine-tuning gains."""
    options = ("--features.text.training=top_layers", "--features.image.training=full", "--retrieval.epochs=1")
    tuning = ("--fine_tuning.epochs=2", "--fine_tuning.batch_size=32", "--fine_tuning.num_uniform_negatives=16",
              "--fine_tuning.encoder_learning_rate=0.001", "--fine_tuning.learning_rate=0.003")  # fmt: skip
    output = tmp_path / "run"
    kill_during(
        job.start(output, *options, *tuning), "Fine-tuning", 0.1, output / "checkpoints/fine_tuning/history.json"
    )
    printed = job.run(output, *options, *tuning, "--resume")
    assert "the frozen encoders stay" not in printed
    modules = json.loads((output / "models" / "manifest.json").read_text())["modules"]
    assert {"tuned.text", "tuned.video", "text.encoder", "image.encoder"} <= set(modules)
    for name in ("text", "video"):
        tuned, folder = modules[f"tuned.{name}"], output / "features" / "encoders" / name
        assert tuned["sha256"] == module_version(str(folder))
        frozen = modules["text.encoder" if name == "text" else "image.encoder"]
        assert tuned["sha256"] != frozen["sha256"]
    assert versions(output / "models" / "video_encoder") == [1]
