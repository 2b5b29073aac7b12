"""Raw media to features: the pipeline against its parts and a plain loop, in one run, and memory as videos grow in number.

    python benchmarks/feature_extraction.py [--data ../shared/data/clips] [--hub ../shared/hub] [--rounds 3] [--copies 10]

Four ways take turns, `--rounds` times over the same videos with the same pretrained modules, which are loaded before:

- decoding alone: the project's worker processes, one per core, results thrown away
- encoders alone: texts, frames and sound that lie decoded in memory, TensorFlow on all cores
- pipeline: `extract_features` into an empty cache, from hashing the files to the last write, with the modules loaded already
- plain loop: what one would write first, with nothing of the project in it: one video at a time, read with OpenCV from its first
  frame to its last, eight frames kept; its sound read with PyAV in a second pass; each TF Hub module called as its page says, for
  that video alone; librosa's MFCC

Other load on the machine meets the ways alike, but changes ratios where it changes between turns; so processor seconds of the
whole process tree stand beside the time. Pipeline and parts share the cores: even with perfect overlap the pipeline takes the sum
of the processor seconds over the number of cores. Last, a process of its own extracts the videos once, and `--copies` times over
(bytes appended to each copy, so that no two are equal), and the peak of its tree's resident memory is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import av
import cv2
import librosa
import numpy as np
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip
import tensorflow_hub as hub  # isort: skip
from tfrec.config import DataConfig, FeaturesConfig, ImageConfig, TextConfig
from tfrec.console import console
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import Catalog, MediaSource
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.text import TextEncoder
from tfrec.features.audio import AudioEncoder
from tfrec.features.extract import extract_features
from tfrec.media.pool import DecodePool
from tfrec.media.read import Decoded, DecodeSettings, main_path

_VIDEOS_PER_BATCH = 32


def configuration(hub: Path) -> FeaturesConfig:
    text = TextConfig(str(hub / "minilm_en_uncased_preprocess_core_ops"), str(hub / "minilm_en_uncased_L-6_H-384_A-12"))
    image = ImageConfig(str(hub / "mobilenet_v2_100_224_feature_vector"), image_size=224)
    return FeaturesConfig(text=text, image=image)


class Encoders:
    """The encoders of a configuration, loaded and traced."""

    def __init__(self, config: FeaturesConfig) -> None:
        assert config.text.preprocessor is not None
        assert config.text.encoder is not None
        assert config.image.encoder is not None
        self.text = TextEncoder(config.text.preprocessor, config.text.encoder, config.text)
        self.image = ImageEncoder(config.image.encoder, config.image)
        self.audio = AudioEncoder(config.audio)

    def encode(self, texts: list[str], media: list[Decoded]) -> None:
        """Vectors of texts, frames and sound, thrown away."""
        self.text.encode(texts)
        for start in range(0, len(media), _VIDEOS_PER_BATCH):
            batch = media[start : start + _VIDEOS_PER_BATCH]
            self.image.encode(np.concatenate([frames for frames, _ in batch]))
            self.audio.encode([sound for _, sound in batch])


def decode(sources: list[MediaSource], config: FeaturesConfig) -> Iterator[Decoded]:
    settings = DecodeSettings.of(config.image, config.audio, config.file_timeout_seconds)
    with DecodePool(settings) as pool:
        for _, media in pool.decode(enumerate(sources)):
            if not isinstance(media, Exception):
                yield media


class PlainLoop:
    """The features of a catalogue without this project."""

    def __init__(self, config: FeaturesConfig) -> None:
        self._config = config
        handles = (config.text.preprocessor, config.text.encoder, config.image.encoder)
        self._preprocess, self._bert, self._cnn = (hub.load(handle) for handle in handles)

    def __call__(self, texts: list[str], sources: list[MediaSource]) -> None:
        """Texts, frames and sound to vectors, thrown away."""
        rate_hz = self._config.audio.sample_rate_hz
        for text, source in zip(texts, sources, strict=True):
            path = main_path(source)
            self._bert(self._preprocess(tf.constant([text])))["pooled_output"].numpy()
            self._cnn(tf.constant(self._frames(path))).numpy()
            sound = plain_sound(path, rate_hz)
            if len(sound):
                librosa.feature.mfcc(y=sound, sr=rate_hz, n_mfcc=self._config.audio.num_coefficients)

    def _frames(self, path: Path) -> np.ndarray:
        size, number = self._config.image.image_size, self._config.image.num_frames
        capture = cv2.VideoCapture(str(path))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = {int((place + 0.5) / number * count) for place in range(number)}
        kept = []
        for place in range(count):
            there, frame = capture.read()
            if there and place in wanted:
                height, width = frame.shape[:2]
                side = min(height, width)
                top, left = (height - side) // 2, (width - side) // 2
                square = cv2.resize(
                    frame[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA
                )
                kept.append(cv2.cvtColor(square, cv2.COLOR_BGR2RGB) / np.float32(255))
        return np.stack(kept)


def plain_sound(path: Path, rate_hz: int) -> np.ndarray:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        resampler = av.AudioResampler("flt", "mono", rate_hz)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def tree(process: int) -> list[int]:
    """A process and its descendants."""
    listed = Path(f"/proc/{process}/task").glob("*/children")
    try:
        children = [int(child) for file in listed for child in file.read_text().split()]
    except OSError:
        return []
    return [process, *(below for child in children for below in tree(child))]


def resident_mib(process: int) -> float:
    """Resident memory of a process and its descendants; what they share counts for each."""
    total = 0
    for each in tree(process):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total * 4096 / 2**20


@contextmanager
def watched_memory(process: int, peaks: list[float]) -> Iterator[None]:
    """Appends the most resident memory seen in the block."""
    over, seen = threading.Event(), [resident_mib(process)]

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(resident_mib(process))

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()
    peaks.append(max(seen))


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """Time taken, and processor time of this process and of those it has ended meanwhile."""
    before, start = os.times(), time.monotonic()
    work()
    seconds, after = time.monotonic() - start, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def compare(videos: Catalog, config: FeaturesConfig, rounds: int, scratch: Path) -> None:
    encoders = Encoders(config)
    sources, texts = list(videos.media.values()), [videos.texts[row] for row in videos.media]
    decoded = list(decode(sources, config))
    encoders.encode(texts[:64], decoded[:_VIDEOS_PER_BATCH])
    plain = PlainLoop(config)
    plain(texts[:2], sources[:2])
    ways: dict[str, Callable[[], object]] = {
        "decoding alone": lambda: sum(1 for _ in decode(sources, config)),
        "encoders alone": lambda: encoders.encode(texts, decoded),
        "pipeline": lambda: extract(videos, encoders, config, scratch),
        "plain loop": lambda: plain(texts, sources),
    }
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            figures[name].append(seconds_of(way))
            console.print(f"  {name}: {figures[name][-1][0]:.1f} s, {figures[name][-1][1]:.1f} processor s")
    show(figures, len(sources))


def show(figures: dict[str, list[tuple[float, float]]], num_videos: int) -> None:
    table = Table("", "s", "processor s", "videos/s")
    for name, taken in figures.items():
        seconds, processor = (statistics.median(column) for column in zip(*taken, strict=True))
        table.add_row(name, f"{seconds:.1f}", f"{processor:.1f}", f"{num_videos / seconds:.1f}")
    console.print(table)
    for kind, number in (("time", 0), ("processor time", 1)):
        decoding, encoding, pipeline, loop = (np.array([one[number] for one in taken]) for taken in figures.values())
        over = statistics.median(pipeline / np.maximum(decoding, encoding))
        console.print(
            f"{kind}: pipeline / larger part {over:.2f}, pipeline / sum of parts "
            f"{statistics.median(pipeline / (decoding + encoding)):.2f}, loop / pipeline {statistics.median(loop / pipeline):.2f}"
        )


def extract(videos: Catalog, encoders: Encoders, config: FeaturesConfig, scratch: Path) -> None:
    cache = Path(tempfile.mkdtemp(dir=scratch))
    with (
        patch("tfrec.features.extract.text_encoder", lambda *_: encoders.text),
        patch("tfrec.features.media.image_encoder", lambda *_: encoders.image),
    ):
        extract_features(videos, config, cache)
    shutil.rmtree(cache)


def copied_dataset(clips: list[Path], folder: Path, copies: int) -> Path:
    """A dataset folder with every clip `copies` times, no two with the same bytes."""
    (folder / "videos").mkdir(parents=True)
    lines = ["video_id,title"]
    for copy in range(copies):
        for path in clips:
            # An atom called "free" may end an MP4.
            tail = (12).to_bytes(4, "big") + b"free" + copy.to_bytes(4, "big")
            (folder / "videos" / f"{copy}-{path.name}").write_bytes(path.read_bytes() + tail)
            lines.append(f"{copy}-{path.stem},{path.stem} {copy}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    events = (f"u{number},{line.split(',')[0]},{number},1" for number, line in enumerate(lines[1:]))
    (folder / "interactions.csv").write_text("\n".join(["user_id,video_id,timestamp,click", *events]) + "\n")
    return folder


def show_memory(clips: list[Path], config: FeaturesConfig, copies: int, scratch: Path) -> None:
    script = Path(__file__).parents[1] / "pipelines" / "extract_features.py"
    for count in (1, copies):
        folder = copied_dataset(clips, scratch / f"copies-{count}", count)
        options = [
            f"--features.text.preprocessor={config.text.preprocessor}",
            f"--features.text.encoder={config.text.encoder}",
            f"--features.image.encoder={config.image.encoder}",
            f"--features.image.image_size={config.image.image_size}",
        ]
        peaks: list[float] = []
        start = time.monotonic()
        command = [sys.executable, str(script), f"--data={folder}", f"--output={folder / 'out'}", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with watched_memory(process.pid, peaks):
            assert process.wait() == 0
        number = len(list((folder / "videos").iterdir()))
        console.print(
            f"{number:,} videos: peak {peaks[0]:,.0f} MiB, {number / (time.monotonic() - start):.1f} videos/s"
        )
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/clips"))
    parser.add_argument("--hub", type=Path, default=Path("../shared/hub"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--videos", type=int, default=0, help="only about so many of the videos")
    options = parser.parse_args()
    config = configuration(options.hub)
    videos = load_dataset(DataConfig(folder=options.data)).videos
    if options.videos:
        rows = sorted(videos.media)[:: max(1, len(videos.media) // options.videos)]
        texts = np.where(np.isin(np.arange(len(videos)), rows), videos.texts, "")
        videos = dataclasses.replace(videos, media={row: videos.media[row] for row in rows}, texts=texts)
    with tempfile.TemporaryDirectory() as scratch:
        if options.rounds:
            compare(videos, config, options.rounds, Path(scratch))
        if options.copies:
            show_memory([main_path(source) for source in videos.media.values()], config, options.copies, Path(scratch))


if __name__ == "__main__":
    main()
