"""Pictures of a video: a few frames of it.

A *frame* is uint8 `[image_size, image_size, 3]`, RGB: the central square of the picture as a viewer sees it (rotation and
pixel aspect applied, transparency over black). A *sample* is the frame on screen at a presentation time, whatever the frame rate
does in between; `tfrec.media.sampling` says at which times. Long videos are sought through, so that time and memory depend on
the frames asked for.
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from tfrec.media.container import MAX_PIXELS, Deadline, MediaError, check_readable, decode, open_container, rewind
from tfrec.media.sampling import Sampling, even_choice
from tfrec.media.scenes import find_cuts

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # read once, when OpenCV is imported
import cv2

Frames = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_UNINDEXED_GAP_SECONDS = 10.0
_SLACK_SECONDS = 0.5
_REORDER_PACKETS = 8  # packets come in decoding order, a few places off the order on screen


def read_frames(source: Path, sampling: Sampling | int, image_size: int, timeout_seconds: float = 60.0) -> Frames:
    """Samples frames of a video file, or of a folder of pictures in the order of their names.

    Args:
        source: file or folder.
        sampling: which frames are wanted; a number stands for that many, uniform.
        image_size: height and width of a frame in pixels.
        timeout_seconds: time limit.

    Returns:
        uint8 `[F, image_size, image_size, 3]`, 1 <= F <= `num_frames`: no frame comes twice.

    Raises:
        MediaError: If there is no picture to be had, or the file is truncated.
    """
    deadline = Deadline(source, timeout_seconds)
    sampling = Sampling(sampling) if isinstance(sampling, int) else sampling
    if source.is_dir():
        return _read_folder(source, sampling.num_frames, image_size, deadline)
    with open_container(source) as container:
        return sample_frames(container, sampling, image_size, deadline)


def sample_frames(container: Any, sampling: Sampling, image_size: int, deadline: Deadline) -> Frames:
    """`read_frames` on an open container."""
    stream = _picture_stream(container, deadline.path)
    stream.codec_context.thread_type = "NONE"  # the workers are the parallelism
    times = _sample_times(container, stream, sampling, deadline)
    playhead = _Playhead(container, stream, deadline)
    picked: list[Frames] = []
    last = None
    for seconds in times:
        frame = playhead.frame_at(seconds)
        if frame is not last:
            picked.append(_as_seen(frame, stream, image_size))
            last = frame
    return np.stack(picked)


def to_square(picture: Frames, image_size: int, pixel_aspect: float = 1.0) -> Frames:
    """The central square of a picture, resized.

    Args:
        picture: uint8 `[height, width, 3]`.
        image_size: height and width of the result.
        pixel_aspect: width of a pixel over its height.
    """
    height, width = picture.shape[:2]
    side = min(height, width * pixel_aspect)
    crop_height, crop_width = max(round(side), 1), max(round(side / pixel_aspect), 1)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    crop = picture[top : top + crop_height, left : left + crop_width]
    shrinks = side > image_size
    size = (image_size, image_size)
    return cv2.resize(crop, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names, in which numbers count as such: 2 before 10."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=_place)


def _place(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", path.name)  # text and digits by turns
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path.name


class _Playhead:
    """The decoder's place in a stream, which moves forward to the frame on screen at a time."""

    def __init__(self, container: Any, stream: Any, deadline: Deadline) -> None:
        self._container, self._stream, self._deadline = container, stream, deadline
        self._indexed = any(name in container.format.name for name in ("mov", "avi"))
        self._can_seek = True
        self._wanted_ticks = 0
        self._frames = self._decode()
        self._current: Any = None
        self._next: Any = None
        self._advance()

    def frame_at(self, seconds: float) -> Any:
        """The frame on screen at `seconds`; times asked for must ascend.

        Raises:
            MediaError: If the stream ends long before.
        """
        self._wanted_ticks = math.floor(seconds / self._stream.time_base)
        if self._worth_seeking(seconds):
            self._seek(seconds)
        while self._next is not None and _time(self._next) <= seconds:
            self._advance()
        if self._current is None:
            if self._next is None:
                raise MediaError(self._deadline.path, self._nothing_reason())
            return self._next
        if self._next is None:
            self._check_end(seconds)
        return self._current

    def _advance(self) -> None:
        self._current, self._next = self._next, next(self._frames, None)

    def _position(self) -> float:
        frame = self._next or self._current
        return 0.0 if frame is None else _time(frame)

    def _worth_seeking(self, seconds: float) -> bool:
        """Whether a key frame lies between here and there."""
        if not self._can_seek or seconds <= self._position():
            return False
        entries = self._stream.index_entries
        place = entries.search_timestamp(round(seconds / self._stream.time_base)) if len(entries) else -1
        if place >= 0 and float(entries[place].timestamp * self._stream.time_base) > self._position():
            return True
        return not self._indexed and seconds - self._position() > _UNINDEXED_GAP_SECONDS

    def _seek(self, seconds: float) -> None:
        before = self._position()
        self._jump(round(seconds / self._stream.time_base))
        self._can_seek = self._next is not None and before < _time(self._next) <= seconds
        if self._next is None or _time(self._next) > seconds:
            self._jump(None)

    def _jump(self, timestamp: int | None) -> None:
        if timestamp is None:
            rewind(self._container)
        else:
            self._container.seek(timestamp, stream=self._stream)
        self._frames = self._decode()
        self._current, self._next = None, next(self._frames, None)

    def _decode(self) -> Iterator[Any]:
        return decode(self._sparing(self._container.demux(self._stream)), self._deadline)

    def _sparing(self, packets: Iterable[Any]) -> Iterator[Any]:
        """Passes packets on; has the decoder drop those that nobody will miss, if no other frame refers to them."""
        codec = self._stream.codec_context
        drops, codec.skip_frame = False, "DEFAULT"
        ahead: deque[tuple[Any, int | None]] = deque()
        passed: deque[int | None] = deque(maxlen=_REORDER_PACKETS)
        for packet in chain(packets, repeat(None, _REORDER_PACKETS)):
            ahead.append((packet, packet and packet.pts))
            if len(ahead) <= _REORDER_PACKETS or (current := ahead.popleft())[0] is None:
                continue
            packet, timestamp = current
            will_drop = self._will_not_miss(timestamp, chain((other for _, other in ahead), passed))
            if will_drop != drops:
                drops, codec.skip_frame = will_drop, "NONREF" if will_drop else "DEFAULT"
            passed.append(timestamp)
            yield packet

    def _will_not_miss(self, timestamp: int | None, near: Iterable[int | None]) -> bool:
        """Whether another frame follows this one on screen by the time wanted."""
        wanted = self._wanted_ticks
        if timestamp is None or timestamp >= wanted:
            return False
        return any(other is not None and timestamp < other <= wanted for other in near)

    def _check_end(self, seconds: float) -> None:
        frame = self._current
        end = _time(frame) + float((frame.duration or 0) * frame.time_base) + _SLACK_SECONDS
        if seconds > end and _stream_seconds(self._stream) is not None:
            raise MediaError(self._deadline.path, f"truncated or damaged: no picture after {_time(frame):.2f} seconds")

    def _nothing_reason(self) -> str:
        return f"no picture can be decoded from its {self._stream.codec_context.name} stream"


def _picture_stream(container: Any, path: Path) -> Any:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(path, "no video stream")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise MediaError(path, "its video codec is unknown")
    stream = max(known, key=lambda stream: stream.width * stream.height)
    pixels = stream.width * stream.height
    if pixels > MAX_PIXELS:
        raise MediaError(path, f"too large: {stream.width} x {stream.height} pixels, at most {MAX_PIXELS} are read")
    _check_whole(container, stream, path)
    return stream


def _check_whole(container: Any, stream: Any, path: Path) -> None:
    """Formats that say where they end are taken at their word."""
    if container.format.name == "gif" and _last_byte(path) != b";":
        raise MediaError(path, "truncated: the GIF has no end")
    entries = stream.index_entries
    size = path.stat().st_size
    if len(entries) and (end := entries[len(entries) - 1].pos + entries[len(entries) - 1].size) > size:
        raise MediaError(path, f"truncated: its index reaches to byte {end}, the file has {size}")


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def _sample_times(container: Any, stream: Any, sampling: Sampling, deadline: Deadline) -> list[float]:
    """Presentation times in seconds, ascending; leaves the container at its start."""
    start = _start(stream)
    length = _stream_seconds(stream) or _container_seconds(container, stream)
    if length is None:
        length = _scanned_seconds(container, stream, deadline) - start
    return sampling.times(start, length, lambda: _cuts(container, stream, length, deadline))


def _cuts(container: Any, stream: Any, length: float, deadline: Deadline) -> list[float]:
    cuts = find_cuts(container, stream, length, deadline)
    rewind(container)
    return cuts


def _stream_seconds(stream: Any) -> float | None:
    """Length that the file states for the stream itself; Matroska keeps its end in a tag."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    return _from_start(stream, int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])) if tag else None


def _container_seconds(container: Any, stream: Any) -> float | None:
    if not container.duration or container.duration < 0:
        return None
    seconds = container.duration / 1e6
    return _from_start(stream, seconds) if "matroska" in container.format.name else seconds


def _from_start(stream: Any, end: float) -> float:
    """Seconds from the first picture to `end`, which some writers count from there already."""
    start = _start(stream)
    return end - start if end > start else end


def _start(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _scanned_seconds(container: Any, stream: Any, deadline: Deadline) -> float:
    """Length of a stream that does not state it: its packets are read through, undecoded."""
    end = 0
    for packet in container.demux(stream):
        deadline.check()
        end = max(end, (packet.pts or 0) + (packet.duration or 0))
    rewind(container)
    return float(end * stream.time_base)


def _time(frame: Any) -> float:
    return 0.0 if frame.time is None else float(frame.time)


def _pixel_aspect(stream: Any) -> float:
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect else 1.0


def _as_seen(frame: Any, stream: Any, image_size: int) -> Frames:
    quarters = round(frame.rotation / 90) % 4
    aspect = _pixel_aspect(stream)
    return to_square(np.rot90(_to_rgb(frame), quarters), image_size, 1 / aspect if quarters % 2 else aspect)


def _to_rgb(frame: Any) -> Frames:
    transparent = any(component.is_alpha for component in frame.format.components)
    # One thread: to start more, as FFmpeg would for each frame, takes longer than to convert it.
    converted = frame.reformat(format="rgba" if transparent else "rgb24", threads=1).to_ndarray()
    return _over_black(converted) if transparent else converted


def _over_black(picture: Frames) -> Frames:
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _read_folder(folder: Path, num_frames: int, image_size: int, deadline: Deadline) -> Frames:
    pictures = list_pictures(folder)
    if not pictures:
        raise MediaError(folder, f"no pictures ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    chosen = (pictures[place] for place in even_choice(len(pictures), num_frames))
    return np.stack([_read_picture(path, image_size, deadline) for path in chosen])


def _read_picture(path: Path, image_size: int, deadline: Deadline) -> Frames:
    deadline.check()
    check_readable(path)
    data = np.fromfile(path, np.uint8)  # cv2.imread fails on some Unicode names
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        layers = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if path.suffix.lower() in (".png", ".webp") else None
    except cv2.error as error:
        raise MediaError(path, f"too large or damaged ({error.err})") from error
    if picture is None:
        raise MediaError(path, "not a picture, or a damaged one")
    if layers is not None and layers.ndim == 3 and layers.shape[2] == 4 and layers.dtype == np.uint8:
        picture = _over_black(cv2.cvtColor(layers, cv2.COLOR_BGRA2RGBA))
    return to_square(picture, image_size)
