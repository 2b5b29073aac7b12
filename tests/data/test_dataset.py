from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tfrec.config import DataConfig
from tfrec.data.dataset import REJECTED_FILE, load_dataset
from tfrec.data.schema import Dataset, Part
from tfrec.errors import TfrecError

Write = Callable[[dict[str, str | bytes]], Path]

USERS = "user_id,age\nu1,31.5\nu2,22\nu3,\n"
VIDEOS = "video_id,title,tags,created_at\nv1,Red fox,fox|snow,1700000000\nv2,Sea,,\n007,Agent,spy,\n"
LOG = """\
user_id,video_id,timestamp,click,like
u2,v1,50,1,0
u1,v1,30,1,1
u1,v2,10,0,
u2,007,20,1,0
u1,007,40,1,1
"""


def load(folder: Path, output: Path | None = None, **options: Any) -> Dataset:
    shares = {"validation_share": 0.25, "test_share": 0.25} | options
    return load_dataset(DataConfig(folder, **shares), output)


def test_events_are_sorted_and_split_by_time(write: Write) -> None:
    dataset = load(write({"users.csv": USERS, "videos.csv": VIDEOS, "interactions.csv": LOG}))
    log = dataset.interactions
    assert dataset.name == "mini"
    assert log.user.tolist() == [0, 0, 0, 1, 1]
    assert log.video.tolist() == [1, 0, 2, 2, 0]
    assert log.timestamp.tolist() == [10, 30, 40, 20, 50]
    assert log.labels["click"].tolist() == [0, 1, 1, 1, 1]
    assert log.labels["like"].tolist() == [-1, 1, 1, 0, 0]
    assert log.part.tolist() == [Part.TRAIN, Part.TRAIN, Part.VALIDATION, Part.TRAIN, Part.TEST]
    assert (log.num_users, log.num_videos) == (3, 3)
    dtypes = [values.dtype for values in (log.user, log.video, log.timestamp, log.part)]
    assert dtypes == [np.int32, np.int32, np.int64, np.int8]


def test_summary_is_json(write: Write) -> None:
    summary = load(write({"users.csv": USERS, "videos.csv": VIDEOS, "interactions.csv": LOG})).summary
    assert json.loads(json.dumps(summary)) == {
        "name": "mini",
        "users": 3,
        "videos": 3,
        "interactions": 5,
        "positives": 4,
        "parts": {"train": 3, "validation": 1, "test": 1},
        "positives_per_label": {"click": 4, "like": 2},
        "cold_videos": 1,
        "events_per_user_median": 2.5,
        "density": 5 / 9,
        "time_range": ["1970-01-01T00:00:10+00:00", "1970-01-01T00:00:50+00:00"],
        "videos_with_media": 0,
        "videos_with_text": 3,
        "content_features": {},
        "columns": {
            "users": {"age": "numeric (inferred)"},
            "videos": {"title": "by contract", "created_at": "by contract", "tags": "list (by contract)"},
            "interactions": dict.fromkeys(["user_id", "video_id", "timestamp", "click", "like"], "by contract"),
        },
        "ignored_columns": {},
        "rejects": {},
    }


def test_the_log_alone_is_enough(write: Write) -> None:
    content = "user_id,video_id,split\nb,y,train\na,x,train\nb,x,test\n"
    dataset = load(write({"interactions.csv": content}))
    log = dataset.interactions
    assert dataset.users.ids.tolist() == ["b", "a"]
    assert dataset.videos.ids.tolist() == ["y", "x"]
    assert (log.user.tolist(), log.video.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert log.part.tolist() == [Part.TRAIN, Part.TEST, Part.TRAIN]
    assert log.labels == {}
    assert not log.has_time
    assert not dataset.videos.has_text


def same(left: Dataset, right: Dataset) -> None:
    """Asserts that two datasets hold the same values, whatever the format they came in."""
    for name in ("user", "video", "timestamp", "part"):
        np.testing.assert_array_equal(getattr(left.interactions, name), getattr(right.interactions, name))
    for label, values in left.interactions.labels.items():
        np.testing.assert_array_equal(values, right.interactions.labels[label])
    for name in ("ids", "titles", "texts", "created_at"):
        np.testing.assert_array_equal(getattr(left.videos, name), getattr(right.videos, name))
    np.testing.assert_array_equal(left.videos.columns.lists["tags"].codes, right.videos.columns.lists["tags"].codes)
    np.testing.assert_array_equal(left.users.ids, right.users.ids)
    np.testing.assert_array_equal(left.users.columns.numeric["age"].values, right.users.columns.numeric["age"].values)
    assert left.summary == right.summary


def test_all_formats_give_the_same_dataset(write: Write, tmp_path: Path) -> None:
    files = {"users": USERS, "videos": VIDEOS, "interactions": LOG}
    plain = load(write({f"{name}.csv": content for name, content in files.items()}))
    for name in files:
        (plain.folder / f"{name}.csv").unlink()
    zipped = load(write({f"{name}.csv.gz": content for name, content in files.items()}))
    folder = tmp_path / "parquet" / "mini"
    folder.mkdir(parents=True)
    for name in files:
        table = pd.read_csv(zipped.folder / f"{name}.csv.gz", dtype={"video_id": str})
        table.to_parquet(folder / f"{name}.parquet")
    same(plain, zipped)
    same(plain, load(folder))


def test_columns_of_another_log(write: Write) -> None:
    content = (
        "viewer,item,when,split\na,x,1704103200123,1\na,y,1704103201000,2\nb,x,1704103202000,3\nb,y,1704103203999,4\n"
    )
    columns = {"user_id": "viewer", "video_id": "item", "timestamp": "when"}
    dataset = load(write({"interactions.csv": content}), columns=columns, ignore=["split"])
    assert dataset.interactions.timestamp.tolist() == [1704103200, 1704103201, 1704103202, 1704103203]
    assert dataset.interactions.part.tolist() == [0, 0, 1, 2]
    assert dataset.summary["columns"] == {
        "interactions": {
            "user_id": "by contract",
            "video_id": "by contract",
            "timestamp": "by contract, converted from milliseconds",
        }
    }


def test_unused_columns_are_said(write: Write) -> None:
    content = "user_id,video_id,split,rating,watch_time,note\na,x,train,5,3.5,good\n"
    ignored = load(write({"interactions.csv": content})).summary["ignored_columns"]
    assert ignored == {"interactions": dict.fromkeys(["rating", "watch_time", "note"], "not used by any model")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"timestamp": "ts"}}, r"`data.columns`.*'ts'.*interactions.csv has user_id, video_id, timestamp"),
        ({"kinds": {"genre": "list"}}, r"`data.kinds`.*'genre'"),
        ({"ignore": ["genre"]}, r"`data.ignore`.*'genre'"),
    ],
)
def test_options_that_name_no_column(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        load(write({"interactions.csv": LOG}), **options)


def test_rejects_are_written_and_the_run_goes_on(write: Write, tmp_path: Path) -> None:
    folder = write({"videos.csv": VIDEOS, "interactions.csv": LOG + "u1,v9,60,1,0\nu1,v1,noon,1,0\n"})
    dataset = load(folder, tmp_path / "run", max_rejected=0.3)
    assert len(dataset.interactions) == 5
    counts = {"interactions.csv": {"bad timestamp": 1, "unknown video_id": 1}}
    assert dataset.summary["rejects"] == dataset.rejects.counts() == counts
    assert pd.read_csv(tmp_path / "run" / REJECTED_FILE).to_dict("records") == [
        {"file": "interactions.csv", "row": 8, "reason": "bad timestamp"},
        {"file": "interactions.csv", "row": 7, "reason": "unknown video_id"},
    ]


def test_too_many_rejects_stop_the_run_and_are_written(write: Write, tmp_path: Path) -> None:
    folder = write({"videos.csv": VIDEOS, "interactions.csv": LOG + "u1,v9,60,1,0\nu1,v1,noon,1,0\n"})
    with pytest.raises(
        TfrecError, match=r"interactions.csv: 2 of 7 rows \(28.6%\).*1.0% allowed.*unknown video_id \(row 7\)"
    ):
        load(folder, tmp_path / "run")
    assert len((tmp_path / "run" / REJECTED_FILE).read_text().splitlines()) == 3


def test_too_many_rejects_among_the_users(write: Write) -> None:
    folder = write({"users.csv": USERS + ",5\n", "interactions.csv": LOG})
    with pytest.raises(TfrecError, match=r"users.csv: 1 of 4 rows .*empty user_id \(row 5\)"):
        load(folder)


def test_a_table_without_users_knows_none(write: Write) -> None:
    with pytest.raises(TfrecError, match=r"5 of 5 rows .*unknown user_id"):
        load(write({"users.csv": "user_id\n", "interactions.csv": LOG}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"videos.csv": VIDEOS}, "has no interactions.csv"),
        ({"interactions.csv": LOG, "videos/v1.mp4": ""}, "has videos but no videos.csv"),
        ({"interactions.csv": LOG, "content_features/x.npy": ""}, "has content_features but no videos.csv"),
        ({"interactions.csv": LOG.replace(",1,", ",0,")}, "no event is a click"),
        ({"interactions.csv": "user_id,video_id,split\na,x,test\n"}, "no positive event into `train`"),
        (
            {"interactions.csv": "user_id,video_id,timestamp\na,x,5\na,y,5\nb,x,5\nb,y,5\n"},
            "4 positive events at 1 different",
        ),
    ],
)
def test_folders_that_contradict_themselves(write: Write, files: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        load(write(files))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TfrecError, match=r"nowhere does not exist.*--data DIR"):
        load(tmp_path / "nowhere")


def test_tiktok(shared: Path) -> None:
    dataset = load_dataset(DataConfig(shared / "data/tiktok"))
    assert (len(dataset.users), len(dataset.videos)) == (9_308, 6_710)
    assert dataset.summary["parts"] == {"train": 59_541, "validation": 3_051, "test": 0}
    assert dataset.summary["cold_videos"] == 465
    assert {name: values.shape for name, values in dataset.videos.content.items()} == {
        "acoustic": (6_710, 128),
        "visual": (6_710, 128),
    }
    assert not dataset.interactions.has_time


def test_movielens_100k(shared: Path) -> None:
    dataset = load_dataset(DataConfig(shared / "data/ml-100k", kinds={"year": "numeric"}))
    log = dataset.interactions
    assert (len(dataset.users), len(dataset.videos), len(log)) == (943, 1_682, 100_000)
    assert dataset.summary["rejects"] == {"videos.csv": {"bad year": 2}}
    assert dataset.videos.texts[0].startswith("Toy Story. Animation, Children's, Comedy. A cowboy doll")
    assert dataset.users.columns.names == ("gender", "occupation", "age")
    times = [log.timestamp[log.part == part] for part in Part]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert [len(part) for part in times] == pytest.approx([80_000, 10_000, 10_000], rel=0.01)


def test_movielens_1m(shared: Path) -> None:
    dataset = load_dataset(DataConfig(shared / "data/ml-1m"))
    log = dataset.interactions
    assert (log.num_users, log.num_videos, len(log)) == (6_040, 3_416, 993_571)
    assert dataset.summary["parts"] == {"train": 987_531, "validation": 6_040, "test": 0}
    # The one validation event of each user is their last.
    assert (log.part[np.append(np.flatnonzero(np.diff(log.user)), len(log) - 1)] == Part.VALIDATION).all()


def test_clips(shared: Path) -> None:
    dataset = load_dataset(DataConfig(shared / "data/clips"))
    assert (len(dataset.users), len(dataset.videos), len(dataset.interactions)) == (500, 150, 9_181)
    assert len(dataset.videos.media) == 150
    assert all(source.video is not None and source.video.is_file() for source in dataset.videos.media.values())
    assert dataset.videos.generate_method is not None
    assert "filmed" in dataset.videos.generate_method.vocabulary
    assert dataset.summary["rejects"] == {}
