from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfrec.data.media_files import find_media
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import MediaSource

Write = Callable[[dict[str, str | bytes]], Path]
ROW_OF = {"a": 0, "b": 1, "c.1": 2}


def test_media_of_all_kinds(write: Write) -> None:
    folder = write(
        {
            "videos/b.MP4": "",
            "videos/.DS_Store": "",
            "videos/c.1.webm": "",
            "video_frames/a/2.jpg": "",
            "video_audio/a/02.wav": "",
            "video_audio/a/01.wav": "",
            "video_audio/a/notes.txt": "",
            "video_audio/b.flac": "",
        }
    )
    rejects = RejectLog()
    media = find_media(folder, ROW_OF, rejects)
    assert media == {
        0: MediaSource(
            frames=folder / "video_frames/a", audio=(folder / "video_audio/a/01.wav", folder / "video_audio/a/02.wav")
        ),
        1: MediaSource(video=folder / "videos/b.MP4", audio=(folder / "video_audio/b.flac",)),
        2: MediaSource(video=folder / "videos/c.1.webm"),
    }
    assert list(media) == [0, 1, 2]
    assert rejects.counts() == {}
    assert rejects.total(MEDIA) == 5


def test_files_without_a_place_are_refused(write: Write) -> None:
    folder = write(
        {
            "videos/a.mp4": "",
            "videos/a.webm": "",
            "videos/stranger.mp4": "",
            "videos/b.txt": "",
            "video_frames/a.jpg": "",
        }
    )
    rejects = RejectLog()
    assert find_media(folder, ROW_OF, rejects) == {0: MediaSource(video=folder / "videos/a.mp4")}
    assert rejects.counts() == {
        MEDIA: {"unknown format": 2, "second file of a video": 1, "no such video_id in videos": 1}
    }
    assert rejects.total(MEDIA) == 5


def test_no_media(write: Write) -> None:
    assert find_media(write({"videos.csv": ""}), ROW_OF, RejectLog()) == {}
