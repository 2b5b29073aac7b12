"""Finds the raw media of a dataset folder by file name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.data.schema import MediaSource

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac")
MEDIA_FOLDERS = ("videos", "video_frames", "video_audio")


@dataclass
class _Found:
    """Media by video id, and what is refused on the way."""

    row_of: Mapping[str, int]
    rejects: RejectLog
    paths: dict[str, Path] = field(default_factory=dict)

    def add(self, video_id: str, path: Path) -> None:
        self.rejects.saw(MEDIA, 1)
        if video_id not in self.row_of:
            self.refuse(path, "no such video_id in videos")
        elif video_id in self.paths:
            self.refuse(path, "second file of a video")
        else:
            self.paths[video_id] = path

    def refuse(self, path: Path, reason: str) -> None:
        self.rejects.add(f"{path.parent.name}/{path.name}", None, reason, MEDIA)


def find_media(folder: Path, row_of: Mapping[str, int], rejects: RejectLog) -> dict[int, MediaSource]:
    """Lists the media of a dataset folder.

    Args:
        folder: dataset folder.
        row_of: row number by video id.
        rejects: learns of files that belong to no video or have an unknown format.

    Returns:
        What each video has, by row number, ascending.
    """
    videos = _scan(folder / "videos", VIDEO_SUFFIXES, row_of, rejects, folders=False, files=True)
    frames = _scan(folder / "video_frames", (), row_of, rejects, folders=True, files=False)
    audio = _scan(folder / "video_audio", AUDIO_SUFFIXES, row_of, rejects, folders=True, files=True)
    sources = {
        row_of[video_id]: MediaSource(videos.get(video_id), frames.get(video_id), _audio_files(audio.get(video_id)))
        for video_id in {*videos, *frames, *audio}
    }
    return dict(sorted(sources.items()))


def _scan(
    folder: Path,
    suffixes: tuple[str, ...],
    row_of: Mapping[str, int],
    rejects: RejectLog,
    *,
    folders: bool,
    files: bool,
) -> dict[str, Path]:
    found = _Found(row_of, rejects)
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir() and folders:
            found.add(path.name, path)
        elif not entry.is_dir() and files and path.suffix.lower() in suffixes:
            found.add(path.stem, path)
        else:
            rejects.saw(MEDIA, 1)
            found.refuse(path, "unknown format")
    return found.paths


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Visible entries in the order of their names."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)


def _audio_files(path: Path | None) -> tuple[Path, ...]:
    if path is None or not path.is_dir():
        return (path,) if path else ()
    return tuple(Path(entry.path) for entry in _entries(path) if Path(entry.name).suffix.lower() in AUDIO_SUFFIXES)
