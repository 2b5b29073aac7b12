"""The encoders of a run: those given by handle, or small ones built once from the catalogue and kept in its cache.

A small module is not built again while it lies in the cache, even if the catalogue has grown: other filters would mean
encoding everything anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tfrec.config import ImageConfig, TextConfig
from tfrec.encoders.hub import missing_part
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.small_bert import build_small_bert
from tfrec.encoders.small_cnn import build_small_cnn
from tfrec.encoders.text import TextEncoder

_SEED = 0
_MAX_TEXTS = 20_000


def text_encoder(config: TextConfig, cache: Path, texts: Callable[[], Sequence[str]]) -> TextEncoder:
    """The text encoder; `texts` is asked only where a small one has to be built."""
    if config.preprocessor and config.encoder:
        return TextEncoder(config.preprocessor, config.encoder, config)
    folder = cache / "modules" / "small_bert"
    parts = [folder / "preprocess", folder / "encoder"]
    if any(missing_part(part) for part in parts):
        _build(folder, lambda scratch: build_small_bert(scratch, _spread(texts(), _MAX_TEXTS), _SEED))
    return TextEncoder(str(parts[0]), str(parts[1]), config)


def image_encoder(config: ImageConfig, cache: Path, frames: Callable[[], NDArray[np.uint8]]) -> ImageEncoder | None:
    """The frame encoder; `frames` is asked only where a small one has to be built, and without any there is none."""
    if config.encoder:
        return ImageEncoder(config.encoder, config)
    folder = cache / "modules" / f"small_cnn_{config.image_size}"
    if missing_part(folder):
        samples = frames()
        if not len(samples):
            return None
        _build(folder, lambda scratch: build_small_cnn(scratch, samples, _SEED))
    return ImageEncoder(str(folder), config)


def _build(folder: Path, build: Callable[[Path], object]) -> None:
    """Builds beside `folder` and renames, so that a module is there whole or not at all."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    # The matrices are small: on a busy machine a second thread costs seconds of waiting. One also makes sums repeatable.
    with threadpool_limits(1):
        build(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _spread(items: Sequence[str], count: int) -> Sequence[str]:
    """At most `count` of the items, evenly spread."""
    step = max(1, -(-len(items) // count))
    return items[::step]
