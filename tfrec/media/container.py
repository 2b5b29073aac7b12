"""Opening media files that nobody vouches for.

A file is judged by its bytes, never by its name. Only formats that carry their own data are opened: a play list dressed up
as a video could otherwise make FFmpeg read other files. Every loop over packets has a `Deadline`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from tfrec.errors import TfrecError

MAX_PIXELS = 2**26
"""Pixels of a picture above which a file is refused: twice an 8K frame."""

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,flv,live_flv,mpeg,mpegts,asf,ogg,wav,w64,flac,mp3,aac,aiff,caf,amr,"
    "mpegvideo,h264,hevc,ivf,apng"
)
_MAGIC = {
    "an MP4 or MOV": (4, b"ftyp"),
    "a Matroska or WebM": (0, b"\x1aE\xdf\xa3"),
    "an AVI or WAV": (0, b"RIFF"),
    "a GIF": (0, b"GIF8"),
    "an Ogg": (0, b"OggS"),
    "a FLAC": (0, b"fLaC"),
}


class MediaError(TfrecError):
    """A media file that cannot be used.

    Args:
        path: the file.
        reason: why, in words that fit behind a colon.
        lasting: whether the same bytes will be refused again; not so where time, memory or permissions ran out.
    """

    def __init__(self, path: Path, reason: str, lasting: bool = True) -> None:
        super().__init__(path, reason, lasting)
        self.path, self.reason, self.lasting = path, reason, lasting

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Deadline:
    """The time limit of one file.

    Args:
        path: the file, for the error.
        seconds: from now.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `MediaError` once the time is up."""
        if time.monotonic() > self._end:
            raise MediaError(self.path, timeout_reason(self.seconds), lasting=False)


def timeout_reason(seconds: float) -> str:
    """Why a file was given up after `seconds`."""
    return f"not decoded within {seconds:g} seconds (`file_timeout_seconds`)"


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Opens a media file with PyAV; whatever FFmpeg raises inside the block becomes a `MediaError`.

    Raises:
        MediaError: If the file is missing, unreadable, empty, no media file, or damaged.
    """
    check_readable(path)
    try:
        # The prefix keeps names with a colon from being read as a protocol.
        with av.open(f"file:{path}", metadata_errors="replace", options={"format_whitelist": _FORMATS}) as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        about_bytes = isinstance(error, (ValueError, EOFError, LookupError))
        raise MediaError(path, f"{_what_it_is(path)} ({_short(error)})", lasting=about_bytes) from error


def check_readable(path: Path) -> None:
    """Raises `MediaError` unless `path` is a file with at least one byte that may be read."""
    try:
        if not path.is_file():
            path.stat()
            raise MediaError(path, "not a file", lasting=False)
        with open(path, "rb") as file:
            if not file.read(1):
                raise MediaError(path, "the file is empty")
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(path, f"cannot be read ({_short(error)})", lasting=False) from error


def rewind(container: Any) -> None:
    """Goes back to the first packets.

    MPEG-TS finds them only from an earlier time than theirs, FLV and the like only from the very time of the first picture.
    """
    try:
        container.seek(min(0, container.start_time or 0))
    except av.error.PermissionError:  # what FFmpeg says of a time without an entry in the index
        stream = container.streams.best("video")
        if stream is not None:
            container.seek(stream.start_time or 0, stream=stream)


def decode(packets: Iterable[Any], deadline: Deadline) -> Iterator[Any]:
    """Yields the frames of a stream's packets; packets that cannot be decoded are passed over.

    Raises:
        MediaError: If the time is up, or the stream is encrypted.
    """
    for packet in packets:
        deadline.check()
        if packet.has_sidedata("encryption_info"):
            raise MediaError(deadline.path, f"encrypted: its {packet.stream.type} stream cannot be read without a key")
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from frames


def _what_it_is(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(16)
    for name, (offset, magic) in _MAGIC.items():
        if head[offset : offset + len(magic)] == magic:
            return f"starts like {name} file but is truncated, damaged or of an impossible size"
    if not any(head):
        return "not a media file: it starts with zero bytes"
    return f"not a media file: it starts with {head!r}"


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
