from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tfrec.data import tables
from tfrec.data.interactions import Events, IdIndex, read_events, repeated_events
from tfrec.data.rejects import RejectLog
from tfrec.data.tables import find_table
from tfrec.errors import TfrecError

Write = Callable[[dict[str, str | bytes]], Path]


def ids(*names: str) -> IdIndex:
    return IdIndex(np.array(names, object))


def events_of(
    folder: Path, rejects: RejectLog | None = None, users: IdIndex | None = None, videos: IdIndex | None = None
) -> Events:
    table = find_table(folder, "interactions", {}, [])
    assert table is not None
    log = RejectLog() if rejects is None else rejects
    return read_events(table, users or IdIndex(None), videos or IdIndex(None), log)


def as_lists(events: Events) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in events.items()}


def test_known_ids_have_their_row_number() -> None:
    assert ids("a", "b").encode(pa.array(["b", "x", "a", "b"])).tolist() == [1, -1, 0, 1]


def test_new_ids_are_numbered_as_they_appear() -> None:
    index = IdIndex(None)
    assert index.encode(pa.array(["b", "a", "b"])).tolist() == [0, 1, 0]
    assert index.encode(pa.array(["c", "a"])).tolist() == [2, 1]
    assert index.ids.tolist() == ["b", "a", "c"]


@pytest.mark.parametrize("block_bytes", [1 << 20, 64])
def test_a_log_as_arrays(write: Write, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(tables, "_CSV_BLOCK_BYTES", block_bytes)
    content = (
        "user_id,video_id,timestamp,click,like,split,rating\n"
        "u2,v1,30,1,,train,5\n"
        "u1,v1,2024-01-01,false,1,val,4\n"
        "u2,v2,20,TRUE,0,Test,3\n"
    )
    events = events_of(write({"interactions.csv": content}))
    assert as_lists(events) == {
        "row": [2, 3, 4],
        "user": [0, 1, 0],
        "video": [0, 0, 1],
        "timestamp": [30, 1704067200, 20],
        "click": [1, 0, 1],
        "like": [-1, 1, 0],
        "part": [0, 1, 2],
    }
    kinds = {name: values.dtype.name for name, values in events.items()}
    assert kinds == {
        "row": "int64", "user": "int32", "video": "int32", "timestamp": "int64", "click": "int8", "like": "int8",
        "part": "int8",
    }  # fmt: skip


def test_every_fault_has_its_reason(write: Write) -> None:
    content = (
        "user_id,video_id,timestamp,click,split\n"
        "u1,v1,10,1,train\n"
        ",v1,11,1,train\n"
        "u1,,12,1,train\n"
        "u1,v1,,1,train\n"
        "u1,v1,soon,1,train\n"
        "u1,v1,NaN,1,train\n"
        "u1,v1,16,2,train\n"
        "u1,v1,17,1,holdout\n"
        "u9,v1,18,1,train\n"
        "u1,v9,19,1,train\n"
        "u1,v1\n"
        "u1,v1,10,1,train\n"
        "u2,v1,21,,test\n"
    )
    rejects = RejectLog()
    events = events_of(write({"interactions.csv": content}), rejects, ids("u1", "u2"), ids("v1"))
    assert as_lists(events) == {
        "row": [2, 14], "user": [0, 1], "video": [0, 0], "timestamp": [10, 21], "click": [1, -1], "part": [0, 2],
    }  # fmt: skip
    assert rejects.counts()["interactions.csv"] == {
        "bad timestamp": 2,
        "empty user_id": 1,
        "empty video_id": 1,
        "empty timestamp": 1,
        "bad click": 1,
        "bad split": 1,
        "unknown user_id": 1,
        "unknown video_id": 1,
        "wrong number of columns": 1,
        "duplicate row": 1,
    }
    assert rejects.total("interactions.csv") == 13


def test_positions_count_from_one(write: Write) -> None:
    content = "user_id,video_id,split,position\nu,a,train,2\nu,b,train,\nu,c,train,0\nu,d,train,first\nu,e,train,1\n"
    rejects = RejectLog()
    events = events_of(write({"interactions.csv": content}), rejects)
    assert events["position"].tolist() == [2, 0, 1]
    assert rejects.counts()["interactions.csv"] == {"bad position": 2}


def test_ids_of_refused_rows_name_nobody(write: Write) -> None:
    users = IdIndex(None)
    events_of(write({"interactions.csv": "user_id,video_id,timestamp\nghost,v1,soon\nu1,v1,1\n"}), users=users)
    assert users.ids.tolist() == ["u1"]


def test_repeated_events_differ_in_nothing_but_the_row() -> None:
    events = {
        "row": np.arange(7),
        "user": np.array([1, 0, 1, 1, 1, 0, 1], np.int32),
        "video": np.array([2, 2, 2, 2, 2, 1, 2], np.int32),
        "timestamp": np.array([5, 5, 6, 5, 5, 5, 5]),
        "click": np.array([1, 1, 1, 1, 0, 1, 1], np.int8),
    }
    assert repeated_events(events).tolist() == [False, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,video_id\nu1,v1\n", r"neither `timestamp` nor `split`.*--data.columns.timestamp"),
        ("user,video_id,timestamp\nu1,v1,1\n", r"no column `user_id`. It has: user, video_id, timestamp"),
        ("user_id,video_id,timestamp\n", "holds no rows"),
    ],
)
def test_a_log_that_cannot_be_used(write: Write, content: str, message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        events_of(write({"interactions.csv": content}))
