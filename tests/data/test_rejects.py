from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.errors import TfrecError


def test_filter_notes_each_row_for_its_first_fault() -> None:
    log = RejectLog()
    faults = [
        ("bad timestamp", np.array([True, False, False, True])),
        ("bad click", np.array([True, True, False, False])),
    ]
    keep = log.filter("interactions.csv", np.array([2, 3, 4, 5]), faults)
    assert keep.tolist() == [False, False, True, False]
    assert log.counts() == {"interactions.csv": {"bad timestamp": 2, "bad click": 1}}


def test_file_lists_file_row_and_reason(tmp_path: Path) -> None:
    log = RejectLog()
    log.add("users.csv", np.array([3, 5]), "empty user_id")
    log.add("videos/a,b.mp4", None, "no picture", MEDIA)
    log.write(tmp_path / "out" / "rejected.csv")
    text = (tmp_path / "out" / "rejected.csv").read_text()
    assert text.replace('"users.csv"', "users.csv").replace('"empty user_id"', "empty user_id").splitlines() == [
        "file,row,reason",
        "users.csv,3,empty user_id",
        "users.csv,5,empty user_id",
        '"videos/a,b.mp4",,"no picture"',
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.csv"]


def test_without_rejects_an_older_file_disappears(tmp_path: Path) -> None:
    path = tmp_path / "rejected.csv"
    path.write_text("of an earlier run")
    RejectLog().write(path)
    assert not path.exists()


def test_check_allows_the_share_and_no_more() -> None:
    log = RejectLog()
    log.saw("interactions.csv", 100)
    log.add("interactions.csv", np.array([7]), "bad click")
    log.check("interactions.csv", 0.01)
    log.add("interactions.csv", np.array([9, 8, 12, 11]), "bad timestamp")
    with pytest.raises(TfrecError) as error:
        log.check("interactions.csv", 0.01)
    message = str(error.value)
    assert "5 of 100 rows (5.0%)" in message
    assert "4 x bad timestamp (row 8, 9, 11, ...); 1 x bad click (row 7)" in message
    assert "--data.max_rejected" in message


def test_a_row_with_two_bad_values_counts_once() -> None:
    log = RejectLog()
    log.saw("videos.csv", 50)
    log.add("videos.csv", np.array([2]), "bad duration")
    log.add("videos.csv", np.array([2]), "bad created_at")
    log.check("videos.csv", 0.02)


def test_media_share_one_limit() -> None:
    log = RejectLog()
    log.saw(MEDIA, 10)
    log.add("videos/a.mp4", None, "no picture", MEDIA)
    log.check(MEDIA, 0.1)
    log.add("video_audio/a.wav", None, "no sound", MEDIA)
    with pytest.raises(TfrecError, match=r"2 of 10 files.*videos/a.mp4"):
        log.check(MEDIA, 0.1)
