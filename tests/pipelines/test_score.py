"""`pipelines/score.py`: rows are the answers of the signature, whatever stops the run."""

from __future__ import annotations

import fcntl
import functools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from score_jobs import checksums, read, run_job, score

from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Dataset
from tfrec.data.tables import open_table
from tfrec.errors import TfrecError
from tfrec.export.recommender import ServingModel
from tfrec.scoring.engine import prefetched, regrouped
from tfrec.scoring.records import Records, TableSource

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines" / "score.py"
COLUMNS = ["user_id", "rank", "video_id", "score", "click", "finish", "like", "reason", "model_version"]


def ask(models: Path, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
    """The answer of the newest version to one request, as a server gives it."""
    loaded = load(models / "recommender" / "2")
    return {name: value.numpy() for name, value in loaded.signatures[signature](**inputs).items()}


@functools.cache
def load(version: Path) -> Any:
    return tf.saved_model.load(str(version))


def request(
    user: str, history: Sequence[str] = (), times: Sequence[int] = (), now: int = 0, exclude: Sequence[str] = ()
) -> dict[str, tf.Tensor]:
    return {
        "user_id": tf.constant([user]),
        "history": tf.constant([list(history)], tf.string, [1, len(history)]),
        "history_timestamp": tf.constant([list(times) or [0] * len(history)], tf.int64, [1, len(history)]),
        "timestamp": tf.constant([now], tf.int64),
        "exclude": tf.constant([list(exclude)], tf.string, [1, len(exclude)]),
        "k": tf.constant([5]),
    }


def assert_slate(rows: pd.DataFrame, answer: dict[str, np.ndarray]) -> None:
    """Rows of one user equal the answer to one request."""
    assert rows["video_id"].tolist() == [video.decode() for video in answer["video_id"][0]]
    assert rows["reason"].tolist() == [reason.decode() for reason in answer["reason"][0]]
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
    for name in ("score", "click", "finish", "like"):
        np.testing.assert_allclose(rows[name], answer[name][0], rtol=1e-5)


@pytest.fixture(scope="module")
def all_users(models: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output for every user of the dataset."""
    output = tmp_path_factory.mktemp("scored") / "all"
    run_job(models, "all", output, data=data, shard_size=12, batch_size=5)
    return output


def test_every_user_of_the_dataset_has_the_slate_that_a_server_would_answer(
    models: Path, dataset: Dataset, all_users: Path
) -> None:
    rows, log = read(all_users), dataset.interactions
    assert rows.columns.tolist() == COLUMNS
    assert rows["user_id"].drop_duplicates().tolist() == [*dataset.users.ids, "silent"]
    assert set(rows["model_version"]) == {2}
    for user in (0, 7, 29):
        watched = (log.user == user) & log.positive
        history = dataset.videos.ids[log.video[watched]].tolist()
        answer = ask(models, "recommend", **request(f"u{user}", history, log.timestamp[watched].tolist()))
        assert_slate(rows[rows["user_id"] == f"u{user}"], answer)
    assert_slate(rows[rows["user_id"] == "silent"], ask(models, "recommend", **request("silent")))


def test_shards_hold_a_fixed_range_of_users_and_the_manifest_describes_them(all_users: Path) -> None:
    manifest = json.loads((all_users / "_manifest.json").read_text())
    assert manifest["job"]["version"] == 2
    assert (manifest["records"], manifest["rows"], manifest["rejected"]) == (31, 155, {})
    assert [shard["records"] for shard in manifest["shards"]] == [12, 12, 7]
    found = checksums(all_users)
    assert {shard["file"]: shard["sha256"] for shard in manifest["shards"]}.items() <= found.items()
    assert set(found) == {"_job.json", "_manifest.json", *(f"part-0000{shard}.parquet" for shard in range(3))}


def test_the_folder_of_one_model_will_do(models: Path, data: Path, all_users: Path, tmp_path: Path) -> None:
    run_job(models / "recommender", "all", tmp_path / "out", data=data, model="any", shard_size=12, batch_size=5)
    assert checksums(tmp_path / "out") == checksums(all_users)


def test_a_file_gives_history_time_and_exclusions(models: Path, data: Path, dataset: Dataset, tmp_path: Path) -> None:
    first, second, third = dataset.videos.ids[:3]
    users = pd.DataFrame(
        {
            "user_id": ["new", "u3", "bare", "u4"],
            "history": [json.dumps([first, second]), f"{first}|{second}", "[]", None],
            "history_timestamp": ["[1700000000, 1700000100]", "1700000000|1700000100", None, None],
            "timestamp": ["1700500000", "2023-11-20T17:06:40Z", None, "1700500000"],
            "exclude": [None, third, None, json.dumps([third])],
        }
    )
    users.to_csv(tmp_path / "users.csv", index=False)
    rows = score(models, tmp_path / "users.csv", tmp_path / "out", data=data)
    history = ([first, second], [1_700_000_000, 1_700_000_100], 1_700_500_000)
    log = dataset.interactions
    watched = (log.user == 4) & log.positive
    logged = (dataset.videos.ids[log.video[watched]].tolist(), log.timestamp[watched].tolist(), 1_700_500_000)
    expected = {
        "new": request("new", *history),
        "u3": request("u3", *history, [third]),
        "bare": request("bare"),
        "u4": request("u4", *logged, [third]),
    }
    for user, inputs in expected.items():
        assert_slate(rows[rows["user_id"] == user], ask(models, "recommend", **inputs))


def test_csv_and_parquet_files_are_read_alike(models: Path, dataset: Dataset, tmp_path: Path) -> None:
    lists = [dataset.videos.ids[:3].tolist(), [], dataset.videos.ids[5:6].tolist()]
    ids = [7, 8, 9]
    pd.DataFrame(
        {"user_id": ids, "history": lists, "timestamp": pd.to_datetime([1_700_500_000] * 3, unit="s")}
    ).to_parquet(tmp_path / "users.parquet")
    texts = [json.dumps(items) for items in lists]
    pd.DataFrame({"user_id": ids, "history": texts, "timestamp": 1_700_500_000}).to_csv(
        tmp_path / "users.csv.gz", index=False
    )
    left = score(models, tmp_path / "users.parquet", tmp_path / "left")
    right = score(models, tmp_path / "users.csv.gz", tmp_path / "right")
    pd.testing.assert_frame_equal(left, right)
    assert left["user_id"].unique().tolist() == ["7", "8", "9"]


def test_bad_rows_are_listed_and_nobody_is_scored_twice(models: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text(
        'user_id,history,timestamp\na,,\nb,"[""x"",",\n,,\nc,,yesterday\na,,\nd,"[1.5]",\ne,x|y,5\nf\n'
    )
    with pytest.raises(TfrecError, match=r"users\.csv: 6 of 8 rows \(75\.0%\) cannot be used.*with --max-rejected"):
        run_job(models, tmp_path / "users.csv", tmp_path / "out", max_rejected=0.74)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_rejected.csv"]
    rows = score(models, tmp_path / "users.csv", tmp_path / "out", max_rejected=0.75)
    assert rows["user_id"].unique().tolist() == ["a", "e"]
    rejected = pd.read_csv(tmp_path / "out" / "_rejected.csv").sort_values("row")
    assert len(pd.read_parquet(tmp_path / "out"))  # readers of folders pass over what begins with _
    no_list = "history is neither a JSON list of ids nor ids separated by |"
    assert list(zip(rejected["row"], rejected["reason"], strict=True)) == [
        (3, no_list),
        (4, "user_id is missing"),
        (5, "timestamp is no time"),
        (6, "user_id came before"),
        (7, no_list),
        (9, "wrong number of columns"),
    ]
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert sum(manifest["rejected"]["users.csv"].values()) == 6


def test_lists_of_a_parquet_file_mean_what_they_do_as_json(tmp_path: Path) -> None:
    """No history is none, an id may have | in it, and an id that is missing is a reject."""
    lists = [[], ["x|y", "z"], None, ["x", None]]
    pd.DataFrame({"user_id": list("abcd"), "history": lists}).to_parquet(tmp_path / "users.parquet")
    rejects = RejectLog()
    (records,) = TableSource(open_table(tmp_path / "users.parquet", {}, ()), ["user_id"]).records(rejects)
    assert records.columns["history"].tolist() == [[], ["x|y", "z"], None]
    assert rejects.counts() == {"users.parquet": {"history is neither a JSON list of ids nor ids separated by |": 1}}


def test_repeated_users_are_found_across_blocks(models: Path, tmp_path: Path) -> None:
    users = [f"user {number}" for number in range(9000)]
    pd.DataFrame({"user_id": [*users, *users[::1000]]}).to_parquet(tmp_path / "users.parquet")
    rows = score(models, tmp_path / "users.parquet", tmp_path / "out", mode="embed", batch_size=2048)
    assert rows["user_id"].tolist() == users
    assert pd.read_csv(tmp_path / "out" / "_rejected.csv")["row"].tolist() == list(range(9001, 9010))


def test_rank_scores_pairs(models: Path, dataset: Dataset, tmp_path: Path) -> None:
    pairs = [("u1", dataset.videos.ids[0]), ("u1", dataset.videos.ids[9]), ("u2", dataset.videos.ids[0])]
    pd.DataFrame([*pairs, pairs[0]], columns=["user_id", "video_id"]).to_csv(tmp_path / "pairs.csv", index=False)
    rows = score(models, tmp_path / "pairs.csv", tmp_path / "out", mode="rank", max_rejected=0.25)
    assert list(zip(rows["user_id"], rows["video_id"], strict=True)) == pairs
    for row, (user, video) in zip(rows.to_dict("records"), pairs, strict=True):
        answer = ask(models, "rank", **request(user), candidate=tf.constant([[video]]))
        for name in ("score", "click", "finish", "like"):
            np.testing.assert_allclose(row[name], answer[name][0, 0], rtol=1e-5)


def test_similar_gives_the_neighbours_of_every_video(
    models: Path, data: Path, dataset: Dataset, tmp_path: Path
) -> None:
    rows = score(models, "all", tmp_path / "out", data=data, mode="similar", k=3, shard_size=16)
    assert rows["video_id"].tolist() == np.repeat(dataset.videos.ids, 3).tolist()
    answer = ask(models, "similar_videos", video_id=tf.constant(dataset.videos.ids.tolist()))
    assert rows["similar_video_id"].tolist() == [video.decode() for video in answer["video_id"][:, :3].ravel()]
    np.testing.assert_allclose(rows["score"], answer["score"][:, :3].ravel(), rtol=1e-5)


def test_embed_gives_the_query_embedding(models: Path, data: Path, tmp_path: Path) -> None:
    rows = score(models, "all", tmp_path / "out", data=data, mode="embed")
    silent = rows["embedding"][rows["user_id"] == "silent"].item()
    np.testing.assert_allclose(silent, ask(models, "embed_user", **request("silent"))["embedding"][0], rtol=1e-5)


def test_embed_gives_what_the_index_holds_of_videos_and_no_row_for_unknown_ones(
    models: Path, model: ServingModel, dataset: Dataset, tmp_path: Path
) -> None:
    ids = dataset.videos.ids
    pd.DataFrame({"video_id": [ids[3], "nobody's", ids[0]]}).to_csv(tmp_path / "videos.csv", index=False)
    rows = score(models, tmp_path / "videos.csv", tmp_path / "out", mode="embed", embed="videos")
    assert rows["video_id"].tolist() == [ids[3], ids[0]]
    np.testing.assert_array_equal(np.stack(rows["embedding"]), model.video_embeddings.numpy()[[3, 0]])


def test_columns_may_have_other_names(models: Path, dataset: Dataset, tmp_path: Path) -> None:
    watched = "|".join(dataset.videos.ids[:3])
    (tmp_path / "named.csv").write_text(f"user_id,history\na,{watched}\n")
    (tmp_path / "other.csv").write_text(f"uid,seen,user_id\na,{watched},ignored\n")
    columns = {"user_id": "uid", "history": "seen"}
    named = score(models, tmp_path / "named.csv", tmp_path / "left")
    pd.testing.assert_frame_equal(score(models, tmp_path / "other.csv", tmp_path / "right", columns=columns), named)


def test_the_measured_batch_size_is_kept_by_a_resumed_run(models: Path, data: Path, tmp_path: Path) -> None:
    run_job(models, "all", tmp_path / "out", data=data, batch_size=None, shard_size=10)
    before = checksums(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").unlink()
    (tmp_path / "out" / "_manifest.json").unlink()
    assert run_job(models, "all", tmp_path / "out", data=data, batch_size=None, shard_size=10, resume=True).scored == 10
    assert checksums(tmp_path / "out") == before


@pytest.mark.parametrize("num_kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_to_the_same_bytes(
    models: Path, tmp_path: Path, dataset: Dataset, num_kills: int
) -> None:
    draw, users = np.random.default_rng(num_kills), [f"user {number}" for number in range(1500)]
    histories = ["|".join(dataset.videos.ids[draw.integers(60, size=draw.integers(1, 9))]) for _ in users]
    pd.DataFrame({"user_id": [*users, "user 7"], "history": [*histories, ""]}).to_csv(
        tmp_path / "users.csv", index=False
    )
    job = {"models": models, "users": tmp_path / "users.csv", "batch_size": 4, "shard_size": 12}
    seconds = run_job(output=tmp_path / "undisturbed", **job).seconds
    job |= {"output": tmp_path / "killed", "resume": True}
    for _ in range(num_kills):
        kill_at(draw.uniform(0, 0.5 * seconds / num_kills), whatever_it_does=draw.random() < 0.2, job=job)
    (tmp_path / "killed" / ".part-00050.parquet.12345").write_bytes(b"half")  # what a kill while writing leaves
    assert 0 < run_job(**job).scored < 1500
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "undisturbed")


def kill_at(seconds: float, whatever_it_does: bool, job: dict[str, Any]) -> None:
    """Starts a job in a process of its own and kills it so long after its start, or after its first shard."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tfrec.scoring.job"])  # imports TensorFlow once
    process, before = context.Process(target=run_job, kwargs=job), count_shards(job["output"])
    process.start()
    while not whatever_it_does and count_shards(job["output"]) == before and process.is_alive():
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"


def count_shards(output: Path) -> int:
    return len(list(output.glob("part-*")))


FULL_AND_READ_ONLY = """
import subprocess, sys
from pathlib import Path
from score_jobs import run_job, shards
from tfrec.errors import TfrecError

models, users, expected, disk = map(Path, sys.argv[1:])
job = {"models": models, "users": users, "shard_size": 10}

def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=True)

def failure(output):
    try:
        run_job(output=output, resume=True, **job)
    except TfrecError as error:
        return str(error)

mount("size=32k")
assert "No space left on device" in failure(disk / "out"), "full"
assert shards(disk / "out").items() < shards(expected).items(), "only whole shards"
assert not list((disk / "out").glob(".*")), "nothing half-written"
mount("remount,size=1m")
run_job(output=disk / "out", resume=True, **job)
assert shards(disk / "out") == shards(expected), "resumed"
mount("remount,ro")
assert "Read-only file system" in failure(disk / "out"), "read-only"
assert "Read-only file system" in failure(disk / "other"), "read-only, new folder"
print("done")
"""


def test_a_disk_that_is_full_or_read_only_is_told_and_a_resumed_run_is_whole(models: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs `unshare` and user namespaces to mount a small disk")
    pd.DataFrame({"user_id": [f"user {number}" for number in range(120)]}).to_csv(tmp_path / "users.csv", index=False)
    run_job(models, tmp_path / "users.csv", tmp_path / "whole", shard_size=10)
    (tmp_path / "disk").mkdir()
    paths = [str(path) for path in (models, tmp_path / "users.csv", tmp_path / "whole", tmp_path / "disk")]
    command = ["unshare", "-rm", sys.executable, "-c", FULL_AND_READ_ONLY, *paths]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_a_full_disk_gives_one_line_and_leaves_complete_files(models: Path, data: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run_job(models, "all", tmp_path / "whole", data=data, shard_size=10)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "whole").glob("part-*"))]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, limits[1]))
    try:
        with pytest.raises(TfrecError, match="cannot be written: File too large"):
            run_job(models, "all", tmp_path / "out", data=data, shard_size=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = checksums(tmp_path / "out")
    assert not [name for name in left if name.startswith(".")]
    assert left.items() <= checksums(tmp_path / "whole").items()
    run_job(models, "all", tmp_path / "out", data=data, shard_size=10, resume=True)
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")


def test_a_job_cannot_be_mixed_with_another(models: Path, data: Path, all_users: Path) -> None:
    before = checksums(all_users)
    with pytest.raises(TfrecError, match=r"holds a scoring job.*--resume"):
        run_job(models, "all", all_users, data=data, shard_size=12, batch_size=5)
    with pytest.raises(TfrecError, match="begun with another k, batch_size"):
        run_job(models, "all", all_users, data=data, shard_size=12, batch_size=6, k=4, resume=True)
    assert checksums(all_users) == before


def test_two_processes_do_not_write_to_one_folder(models: Path, data: Path, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(TfrecError, match="Another process is writing"):
            run_job(models, "all", tmp_path, data=data)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ranker"}, "holds no published model. There are: recommender"),
        ({"version": 9}, "has no version 9. It has: 1, 2"),
        ({"users": "missing.csv"}, "missing.csv does not exist"),
        ({"users": "all"}, "needs the dataset.*--data"),
        ({"users": "all", "data": Path("nowhere"), "mode": "rank"}, "scores pairs"),
        ({"users": "all", "data": Path("nowhere")}, "dataset folder nowhere does not exist"),
        ({"users": str(SCRIPT)}, r"is no table. Expected a file whose name ends with \.csv"),
        ({"mode": "similar"}, "users.csv has no column `video_id`. It has: user_id"),
        ({"k": 11}, "k=11, slots=10"),
        ({"batch_size": 0}, "`--batch-size` must be at least 1"),
        ({"deadline": 0.0}, "`--deadline` must be above 0 seconds. Received: 0"),
        ({"models": None}, "either the folder of published models with --models DIR or --server"),
        ({"server": "127.0.0.1:1"}, "either the folder of published models with --models DIR or --server"),
        ({"models": None, "server": "http://h:1"}, "gRPC: give HOST:PORT or grpc://HOST:PORT. Received: http://h:1"),
        ({"columns": {"user_id": "uid"}}, "users.csv has no column `uid` to take for `user_id`. It has: user_id"),
        ({"columns": {"click": "user_id"}}, "no use for `click`. It takes: user_id, history"),
        ({"output": SCRIPT}, "cannot be written"),
    ],
)
def test_errors_are_one_clear_line(models: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "users.csv").write_text("user_id\nu1\n")
    with pytest.raises(TfrecError, match=message) as raised:
        run_job(**{"models": models, "users": tmp_path / "users.csv", "output": tmp_path / "out", **options})
    assert "\n" not in str(raised.value)


def test_a_damaged_file_of_users_is_named(models: Path, tmp_path: Path) -> None:
    (tmp_path / "users.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(TfrecError, match=r"users\.parquet cannot be read"):
        run_job(models, tmp_path / "users.parquet", tmp_path / "out")


def test_a_file_without_users_leaves_an_empty_job(models: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n")
    assert run_job(models, tmp_path / "users.csv", tmp_path / "out").manifest["shards"] == []


def test_the_command_prints_a_summary_and_one_line_of_error(models: Path, data: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--models",
        str(models),
        "--users",
        "all",
        "--output",
        str(tmp_path / "out"),
    ]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "error: `--users all` needs the dataset: give its folder with --data DIR.\n"
    command += ["--data", str(data), "--k", "2", "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "31 users, 62 rows in 1 shard by version 2 of recommender, in batches of 256" in done.stdout
    assert "scored 31 users in" in done.stdout
    assert "resumed" not in done.stdout
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet").names == COLUMNS
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resumed: 31 users had been scored before" in again.stdout


def test_help_needs_no_tensorflow() -> None:
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print('tensorflow' in sys.modules)); "
        "sys.argv.append('--help'); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT)], capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("usage:")
    assert printed.endswith("False\n")


def test_records_are_regrouped_whatever_size_they_come_in() -> None:
    numbers = np.arange(23)
    parts = [Records({"n": numbers[a:b]}) for a, b in ((0, 1), (1, 1), (1, 9), (9, 22), (22, 23))]
    assert [part.columns["n"].tolist() for part in regrouped(parts, 5)] == [
        numbers[start : start + 5].tolist() for start in range(0, 23, 5)
    ]


def test_what_fails_ahead_is_raised_to_the_reader() -> None:
    def items() -> Any:
        yield 1
        raise TfrecError("broken")

    ahead = prefetched(items())
    assert next(ahead) == 1
    with pytest.raises(TfrecError, match="broken"):
        next(ahead)
