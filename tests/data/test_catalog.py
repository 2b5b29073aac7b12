from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tfrec.config import DataConfig
from tfrec.data.catalog import ColumnNotes, finite_rows, read_catalog, read_users
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import Catalog
from tfrec.data.tables import find_table
from tfrec.errors import TfrecError

Write = Callable[[dict[str, str | bytes]], Path]


def catalog(folder: Path, rejects: RejectLog | None = None, max_rejected: float = 0.5) -> tuple[Catalog, ColumnNotes]:
    table = find_table(folder, "videos", {}, [])
    assert table is not None
    log = RejectLog() if rejects is None else rejects
    return read_catalog(table, folder, DataConfig(max_rejected=max_rejected), log)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


FULL = """\
video_id,title,tags,duration,created_at,generate_method,prompt,gen_params,mood
v1,Red fox.,fox|snow,1.5,1704103200,diffusion,a fox in snow,"[0.5, -1]",calm
v2,海上日出,,2.5,2024-01-01T10:00:00Z,gan,,"[1, 2]",wild
v3,,"[""sea""]",,,,,,
"""


def test_the_columns_of_the_contract(write: Write) -> None:
    videos, notes = catalog(write({"videos.csv": FULL}))
    assert videos.ids.tolist() == ["v1", "v2", "v3"]
    assert videos.titles.tolist() == ["Red fox.", "海上日出", ""]
    assert videos.prompts.tolist() == ["a fox in snow", "", ""]
    assert videos.texts.tolist() == ["Red fox. fox, snow. a fox in snow", "海上日出", "sea"]
    assert videos.created_at.tolist() == [1704103200, 1704103200, 0]
    assert videos.generate_method is not None
    assert videos.generate_method.vocabulary == ("diffusion", "gan")
    assert videos.generate_method.codes.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(videos.gen_params, np.array([[0.5, -1], [1, 2], [np.nan, np.nan]], np.float32))
    assert videos.columns.names == ("mood", "tags", "duration")
    assert videos.columns.numeric["duration"].values.tolist() == [-1, 1, 0]
    assert videos.columns.lists["tags"].vocabulary == ("fox", "sea", "snow")
    assert notes.kinds["title"] == "by contract"
    assert notes.kinds["mood"] == "categorical (inferred)"


def test_what_may_be_shown_is_read_apart_and_fails_closed(write: Write) -> None:
    """A safety that is missing is the lowest; what cannot be read is as good as blocked. None of it is a side column."""
    rows = ["1,0,0.5", "2,1,0.9", "3,,1", "4,false,", "5,true,1", "6,0,2", "7,0,high", "8,maybe,0.7"]
    rejects = RejectLog()
    videos, notes = catalog(write({"videos.csv": "\n".join(["video_id,blocked,safety", *rows])}), rejects)
    assert videos.safety is not None
    np.testing.assert_array_equal(videos.safety, np.array([0.5, -1, 1, 0, -1, -1, -1, -1], np.float32))
    assert videos.columns.names == ()
    assert notes.kinds == {"blocked": "by contract", "safety": "by contract"}
    assert rejects.counts() == {"videos.csv": {"bad safety": 2, "bad blocked": 1}}


@pytest.mark.parametrize(("table", "expected"), [("video_id,blocked\na,1\nb,", [-1, 1]), ("video_id\na\nb", None)])
def test_without_a_safety_column_all_is_safe(write: Write, table: str, expected: list[float] | None) -> None:
    safety = catalog(write({"videos.csv": table}))[0].safety
    assert (safety is None) if expected is None else (safety.tolist() == expected)


def test_ids_alone_make_a_catalogue(write: Write) -> None:
    videos, notes = catalog(write({"videos.csv": "video_id\n7\n07\n"}))
    assert videos.ids.tolist() == ["7", "07"]
    assert not videos.has_text
    assert videos.gen_params.shape == (2, 0)
    assert videos.generate_method is None
    assert (notes.kinds, notes.ignored) == ({}, {})


def test_text_columns_join_the_text(write: Write) -> None:
    plot = "A cowboy doll is jealous of a new spaceman figure."
    videos, _ = catalog(write({"videos.csv": f"video_id,title,plot\n1,Toy Story,{plot}\n2,Other,\n"}))
    assert videos.texts.tolist() == ["Toy Story. " + plot.rstrip("."), "Other"]
    assert videos.columns.names == ()


def test_repeated_ids_are_refused(write: Write) -> None:
    rows = "".join(f"v{number % 7}\n" for number in range(15))
    with pytest.raises(
        TfrecError, match=r"7 values of `video_id`.*v0 \(3 times\), v1 \(2 times\).*v4 \(2 times\), \.\.\."
    ):
        catalog(write({"videos.csv": "video_id\n" + rows}))


def test_values_that_cannot_be_read_are_missing_and_noted(write: Write) -> None:
    rejects = RejectLog()
    content = (
        "video_id,created_at,duration,gen_params\n"
        'a,2024-13-01,1.5,"[1, 2]"\n'
        'b,,soon,"[3, 4]"\n'
        'c,,2.5,"[1, 2, 3]"\n'
        "d,,,half\n"
        'e,,,"[1, NaN]"\n'
        ",,,\n"
        "f,,,\n"
        "g,,,[]\n"
        "h,,,null\n"
    )
    videos, _ = catalog(write({"videos.csv": content}), rejects, max_rejected=0.9)
    assert videos.ids.tolist() == list("abcdefgh")
    assert videos.created_at.tolist() == [0] * 8
    assert videos.columns.numeric["duration"].present.tolist() == [True, False, True] + [False] * 5
    assert np.isfinite(videos.gen_params).all(axis=1).tolist() == [True, True] + [False] * 6
    assert rejects.counts()["videos.csv"] == {
        "empty video_id": 1,
        "bad duration": 1,
        "bad created_at": 1,
        "bad gen_params": 2,
        "gen_params has not 2 numbers as most have": 1,
    }


def test_embeddings_are_mapped(write: Write) -> None:
    values = np.arange(6, dtype=np.float16).reshape(3, 2)
    videos, _ = catalog(write({"videos.csv": "video_id\na\nb\nc\n", "content_features/visual.npy": npy(values)}))
    assert list(videos.content) == ["visual"]
    assert isinstance(videos.content["visual"], np.memmap)
    np.testing.assert_array_equal(videos.content["visual"], values)


def test_embeddings_follow_their_videos_when_a_row_is_refused(write: Write) -> None:
    values = np.array([[1.0], [2.0], [3.0]])
    videos, _ = catalog(
        write({"videos.csv": "video_id,title\na,x\nb\nc,y\n", "content_features/visual.npy": npy(values)})
    )
    assert videos.ids.tolist() == ["a", "c"]
    assert videos.content["visual"].tolist() == [[1.0], [3.0]]


def test_embeddings_with_nan_are_noted(write: Write) -> None:
    rejects = RejectLog()
    values = np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, np.inf], [0.0, 0.0]])
    files = {"videos.csv": "video_id\na\nb\nc\nd\n", "content_features/visual.npy": npy(values)}
    videos, _ = catalog(write(files), rejects)
    assert rejects.counts() == {"content_features/visual.npy": {"NaN or infinity": 2}}
    assert finite_rows(videos.content["visual"]).tolist() == [True, False, False, True]
    with pytest.raises(TfrecError, match=r"visual.npy: 2 of 4 rows.*row 2, 3"):
        catalog(write({}), max_rejected=0.4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (npy(np.zeros((3, 2))), r"visual.npy has 3 rows, videos.csv has 2"),
        (npy(np.zeros(2)), r"two-dimensional.*\(2,\), float64"),
        (npy(np.zeros((2, 2), int)), r"floats.*int64"),
        (b"no array", r"visual.npy cannot be read.*numpy.save"),
    ],
)
def test_embeddings_that_do_not_fit(write: Write, values: bytes, message: str) -> None:
    with pytest.raises(TfrecError, match=message):
        catalog(write({"videos.csv": "video_id\na\nb\n", "content_features/visual.npy": values}))


def test_media_above_the_limit_stop_the_run(write: Write) -> None:
    folder = write({"videos.csv": "video_id\na\n", "videos/a.mp4": "", "videos/b.mp4": ""})
    rejects = RejectLog()
    videos, _ = catalog(folder, rejects)
    assert list(videos.media) == [0]
    assert rejects.counts() == {MEDIA: {"no such video_id in videos": 1}}
    with pytest.raises(TfrecError, match=r"1 of 2 files.*videos/b.mp4"):
        catalog(folder, max_rejected=0.4)


def test_users_have_columns_but_no_texts(write: Write) -> None:
    folder = write({"users.csv": "user_id,age,about\nu1,31.5,I like old films and the sound of the sea\nu2,20,\n"})
    table = find_table(folder, "users", {}, [])
    assert table is not None
    users, notes = read_users(table, DataConfig(), RejectLog())
    assert users.ids.tolist() == ["u1", "u2"]
    assert users.columns.names == ("age",)
    assert notes == ColumnNotes({"age": "numeric (inferred)"}, {"about": "text of a user"})
