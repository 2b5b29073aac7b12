"""A folder of media as they should not be, and what has to become of each.

    python tests/media_faults.py DIR [GIF_FRAMES]

`make_faults` writes the files; each has a *fate*: the reason it must be refused for, or the grey levels of four frames and
whether there is sound. The whole films show grey level 4 x n in picture n of 50, ten a second, so frames sampled uniformly are
pictures 6, 18, 31 and 43; their sound is a tone of 440 Hz.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

LEVELS = (24, 72, 124, 172)
FULL_GIF_FRAMES = 100_000
_SIZE = (48, 64)
_TONE_RATE_HZ = 48_000


@dataclass(frozen=True)
class Fate:
    """What has to become of a file.

    Args:
        reason: a pattern of the reason it is refused for; empty if it is to be read.
        levels: grey levels of its frames.
        sound: whether there is sound.
    """

    reason: str = ""
    levels: tuple[float, ...] = LEVELS
    sound: bool = False


def make_faults(folder: Path, write_media: Callable[..., Path], gif_frames: int = FULL_GIF_FRAMES) -> dict[str, Fate]:
    """Writes the files into `folder`; returns the fate of each by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        **_whole(folder, write_media),
        **_truncated(folder),
        **_mislabelled(folder, write_media),
        **_odd_streams(folder, write_media),
        **_bombs(folder, gif_frames),
        **_unreadable(folder),
    }


def _pictures(count: int = 50, size: tuple[int, int] = _SIZE) -> list[np.ndarray]:
    return [np.full((*size, 3), 4 * number, np.uint8) for number in range(count)]


def _tone(seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * _TONE_RATE_HZ)) / _TONE_RATE_HZ)


def _whole(folder: Path, write: Callable[..., Path]) -> dict[str, Fate]:
    """Films with nothing wrong but their names."""
    first = write(folder / "whole.mp4", _pictures(), tone=_tone(2), tone_rate_hz=_TONE_RATE_HZ).read_bytes()
    names = ["name with spaces.mp4", "视频 é ½.mp4", "line\nbreak.mp4", "a:b?c*d.mp4", "-dash.mp4", "%s%n.mp4"]
    for name in names:
        (folder / name).write_bytes(first)
    write(folder / "whole.webm", _pictures(), "libvpx")
    write(folder / "whole.mkv", _pictures())
    write(folder / "whole.avi", _pictures(), "mpeg4")
    fates = dict.fromkeys(["whole.mp4", *names], Fate(sound=True))
    return fates | dict.fromkeys(["whole.webm", "whole.mkv", "whole.avi"], Fate())


def _truncated(folder: Path) -> dict[str, Fate]:
    """A film cut off at ten places, from its first byte on."""
    whole = (folder / "whole.mp4").read_bytes()
    fates = {"cut0.mp4": Fate("the file is empty")}
    for tenth in range(10):
        (folder / f"cut{tenth}.mp4").write_bytes(whole[: len(whole) * tenth // 10])
        fates.setdefault(f"cut{tenth}.mp4", Fate("truncated"))
    matroska = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(matroska[: len(matroska) * 6 // 10])
    return fates | {"cut.mkv": Fate("truncated|no picture can be decoded")}


def _mislabelled(folder: Path, write: Callable[..., Path]) -> dict[str, Fate]:
    """Bytes that are not what the name says."""
    (folder / "zeros.mp4").write_bytes(bytes(100_000))
    (folder / "text.mp4").write_text("just some words\n" * 1000)
    (folder / "random.mp4").write_bytes(b"\x8b" + np.random.default_rng(0).bytes(100_000))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nwhole.mp4\n")
    (folder / "webm.mp4").write_bytes((folder / "whole.webm").read_bytes())
    (folder / "mp4.gif").write_bytes((folder / "whole.mp4").read_bytes())
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "01" * 16}
    write(folder / "encrypted.mp4", _pictures(), options=key)
    return {
        "zeros.mp4": Fate("not a media file: it starts with zero bytes"),
        "text.mp4": Fate("not a media file: it starts with b'just some words"),
        "random.mp4": Fate("not a media file: it starts with b'.x8b"),
        "playlist.mp4": Fate("not a media file: it starts with b'#EXTM3U"),
        "webm.mp4": Fate(),
        "mp4.gif": Fate(sound=True),
        "encrypted.mp4": Fate("encrypted"),
    }


def _odd_streams(folder: Path, write: Callable[..., Path]) -> dict[str, Fate]:
    """Streams that are missing, or that few expect."""
    tone = {"tone": _tone(2), "tone_rate_hz": _TONE_RATE_HZ}
    write(folder / "sound alone.mp4", [], **tone)
    write(folder / "eight channels.mov", _pictures(), **tone, layout="7.1", audio_codec="pcm_s16le")
    write(folder / "one pixel.mkv", _pictures(size=(1, 1)), "ffv1", "bgr0")
    write(folder / "one picture.mp4", _pictures()[25:26])
    return {
        "sound alone.mp4": Fate("no video stream"),
        "eight channels.mov": Fate(sound=True),
        "one pixel.mkv": Fate(),
        "one picture.mp4": Fate(levels=(100,)),
    }


def _bombs(folder: Path, gif_frames: int) -> dict[str, Fate]:
    """Small files that claim, or are, too much."""
    avi = bytearray((folder / "whole.avi").read_bytes())
    struct.pack_into("<ii", avi, avi.find(b"strf") + 12, 60_000, 60_000)
    (folder / "huge.avi").write_bytes(avi)
    _write_gif(folder / "huge.gif", 3, (65_535, 65_535))
    _write_gif(folder / "many.gif", gif_frames)
    (folder / "bomb").mkdir()
    (folder / "bomb" / "1.png").write_bytes(_picture_bomb(10_000))
    (folder / "vast").mkdir()
    cv2.imwrite(str(folder / "vast" / "1.png"), np.full((4000, 4000), 90, np.uint8))
    return {
        "huge.avi": Fate(),  # the pictures themselves know better
        "huge.gif": Fate("impossible size"),
        "many.gif": Fate(levels=tuple(int((part + 0.5) / 4 * gif_frames) * 250 / gif_frames for part in range(4))),
        "bomb": Fate("too large or damaged"),
        "vast": Fate(levels=(90,)),
    }


def _unreadable(folder: Path) -> dict[str, Fate]:
    """Names behind which there is nothing to read. The superuser reads whatever the permissions are."""
    (folder / "loop1.mp4").symlink_to(folder / "loop2.mp4")
    (folder / "loop2.mp4").symlink_to(folder / "loop1.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nothing")
    (folder / "folder.mp4").mkdir()
    (folder / "forbidden.mp4").write_bytes((folder / "whole.mp4").read_bytes())
    (folder / "forbidden.mp4").chmod(0)
    may_read = os.access(folder / "forbidden.mp4", os.R_OK)
    return {
        "loop1.mp4": Fate("symbolic links"),
        "loop2.mp4": Fate("symbolic links"),
        "dangling.mp4": Fate("No such file"),
        "folder.mp4": Fate("directory|not a file"),
        "forbidden.mp4": Fate(sound=True) if may_read else Fate("Permission denied"),
    }


def _write_gif(path: Path, frames: int, size: tuple[int, int] = (2, 2)) -> None:
    """A GIF (89a) of 2 x 2 pictures whose grey level rises from 0 to 250, one hundredth of a second each."""
    palette = bytes(level for level in range(256) for _ in range(3))
    with path.open("wb") as file:
        file.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0xF7, 0, 0) + palette)
        for number in range(frames):
            level = number * 250 // frames
            # codes of nine bits, lowest first: clear, four pixels, end
            codes = sum(code << 9 * place for place, code in enumerate([256, level, level, level, level, 257]))
            data = codes.to_bytes(7, "little")
            control = b"!\xf9\x04" + struct.pack("<BHBB", 0, 1, 0, 0)
            picture = b"," + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x08" + bytes([len(data)]) + data + b"\0"
            file.write(control + picture)
        file.write(b";")


def _picture_bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels, a small part of its size in memory."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


if __name__ == "__main__":
    from conftest import _write_media

    counts = [int(argument) for argument in sys.argv[2:]]
    for name, fate in make_faults(Path(sys.argv[1]), _write_media, *counts).items():
        print(repr(name), "is refused: " + fate.reason if fate.reason else "is read")
