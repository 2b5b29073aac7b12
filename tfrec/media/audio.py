"""Sound tracks as mono waveforms.

A *waveform* is float32 `[samples]` in about -1 .. 1 at the wanted rate; an empty one means that there is no sound track.
FFmpeg's resampler converts rate and sample format; mono is the mean of the channels (FFmpeg's own downmix of float samples is
louder than its parts). Memory is bounded by the seconds asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tfrec.config import AudioDecoder
from tfrec.media.container import Deadline, MediaError, decode, open_container
from tfrec.media.plain_audio import SUFFIXES, read_plain_audio

Waveform = NDArray[np.float32]

_SAMPLES_AT_ONCE = 1 << 14
"""That leave the resampler: a codec's own frames are so short that handling them costs as much as resampling."""


def read_audio(
    paths: Sequence[Path],
    sample_rate_hz: int,
    max_seconds: float,
    timeout_seconds: float = 60.0,
    decoder: AudioDecoder = "av",
) -> Waveform:
    """Reads sound files that follow each other, or the sound track of a video.

    Args:
        paths: the files.
        sample_rate_hz: rate of the result.
        max_seconds: what comes later is left out.
        timeout_seconds: time limit for all of them.
        decoder: `tensorflow_io` tries that first where a file is plain sound.

    Returns:
        float32 `[samples]`, empty where there is no sound track.

    Raises:
        MediaError: If a file cannot be read.
    """
    parts: list[Waveform] = []
    for path in paths:
        left = max_seconds - sum(map(len, parts)) / sample_rate_hz
        if left <= 0:
            break
        plain = decoder == "tensorflow_io" and path.suffix.lower() in SUFFIXES
        part = read_plain_audio(path, sample_rate_hz, left) if plain else None
        parts.append(_read_file(path, sample_rate_hz, left, timeout_seconds) if part is None else part)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _read_file(path: Path, sample_rate_hz: int, max_seconds: float, timeout_seconds: float) -> Waveform:
    with open_container(path) as container:
        return read_sound_track(container, sample_rate_hz, max_seconds, Deadline(path, timeout_seconds))


def read_sound_track(container: Any, sample_rate_hz: int, max_seconds: float, deadline: Deadline) -> Waveform:
    """The sound track of an open container, from where it stands; empty for a track that the file declares and leaves empty.

    Raises:
        MediaError: If there is a sound track but none of it can be decoded.
    """
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        return np.zeros(0, np.float32)
    packets = container.demux(stream)
    first = next((packet for packet in packets if packet.size), None)
    if first is None:
        return np.zeros(0, np.float32)
    limit = int(max_seconds * sample_rate_hz)
    resampler = _Resampler(sample_rate_hz)
    chunks: list[Waveform] = []
    for frame in decode(chain([first], packets), deadline):
        chunks += resampler(frame)
        if sum(map(len, chunks)) >= limit:
            break
    chunks += resampler(None)
    if not chunks:
        raise MediaError(deadline.path, f"no sound can be decoded from its {stream.codec_context.name} track")
    return np.nan_to_num(np.concatenate(chunks)[:limit])


class _Resampler:
    """To mono float; starts anew where the format changes inside a track."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate = sample_rate_hz
        self._format: tuple[str, str, int] | None = None
        self._resampler = self._new()

    def __call__(self, frame: Any) -> list[Waveform]:
        if frame is None:
            return self._run(None) if self._format else []
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        rest: list[Waveform] = []
        if form != self._format:
            rest = self._run(None) if self._format else []
            self._format, self._resampler = form, self._new()
        return rest + self._run(frame)

    def _new(self) -> Any:
        return av.AudioResampler(format="flt", rate=self._rate, frame_size=_SAMPLES_AT_ONCE)

    def _run(self, frame: Any) -> list[Waveform]:
        packed = self._resampler.resample(frame)
        return [part.to_ndarray().reshape(-1, part.layout.nb_channels).mean(axis=1) for part in packed]
