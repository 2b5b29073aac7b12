"""The encoders of a run: those given by handle, or small ones built once from the catalogue and kept in its cache.

A small module is not built again while it lies in the cache, even if the catalogue has grown: other filters would mean
encoding everything anew.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tfrec.config import FeaturesConfig, ImageConfig, TextConfig
from tfrec.encoders.hub import missing_part, module_version
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.small_bert import build_small_bert
from tfrec.encoders.small_cnn import build_small_cnn
from tfrec.encoders.text import TextEncoder
from tfrec.run import locked_file, new_folder

_SEED = 0
_MAX_TEXTS = 20_000


def text_encoder(
    config: TextConfig, cache: Path, texts: Callable[[], Sequence[str]], tuned: Path | None = None
) -> TextEncoder:
    """The text encoder, or `tuned` in its place; `texts` is asked only where a small one has to be built."""
    handles = text_handles(config, cache)
    if not config.encoder:
        folder = Path(handles[0]).parent
        with _turn_to_build(cache, *handles) as absent:
            if absent:
                _build(folder, lambda scratch: build_small_bert(scratch, _spread(texts(), _MAX_TEXTS), _SEED))
    return TextEncoder(handles[0], str(tuned or handles[1]), config)


def image_encoder(
    config: ImageConfig, cache: Path, frames: Callable[[], NDArray[np.uint8]], tuned: Path | None = None
) -> ImageEncoder | None:
    """The frame encoder, or `tuned` in its place.

    `frames` is asked only where a small one has to be built, and without any there is none.
    """
    handle = image_handle(config, cache)
    if not config.encoder:
        with _turn_to_build(cache, handle) as absent:
            if absent:
                samples = frames()
                if not len(samples):
                    return None
                _build(Path(handle), lambda scratch: build_small_cnn(scratch, samples, _SEED))
    return ImageEncoder(str(tuned or handle), config)


def text_handles(config: TextConfig, cache: Path) -> tuple[str, str]:
    """Handles of preprocessor and encoder: those given, or where the small pair lies."""
    folder = cache / "modules" / "small_bert"
    return config.preprocessor or str(folder / "preprocess"), config.encoder or str(folder / "encoder")


def image_handle(config: ImageConfig, cache: Path) -> str:
    """Handle of the frame encoder: the one given, or where the small one lies."""
    return config.encoder or str(cache / "modules" / f"small_cnn_{config.image_size}")


def module_checksums(
    config: FeaturesConfig, cache: Path, encoders: Container[str], tuned: Mapping[str, Path]
) -> dict[str, dict[str, str]]:
    """What a manifest says of the modules behind content features.

    Args:
        config: that the features were made with.
        cache: folder of the feature cache.
        encoders: modalities that were encoded.
        tuned: folders of the encoders that were trained, by modality.

    Returns:
        `handle` and `sha256` (see `module_version`) of each module, by the option that names it, or `tuned.<modality>`.
    """
    handles = {f"tuned.{name}": str(folder) for name, folder in tuned.items()}
    if "text" in encoders:
        names = ("text.preprocessor", "text.encoder")
        handles |= dict(zip(names, text_handles(config.text, cache), strict=True))
    if "video" in encoders:
        handles["image.encoder"] = image_handle(config.image, cache)
    return {name: {"handle": handle, "sha256": module_version(handle)} for name, handle in handles.items()}


@contextmanager
def _turn_to_build(cache: Path, *handles: str) -> Iterator[bool]:
    """Whether a small module is absent; if so, other processes wait until the block ends, and take what it has built."""
    if not _absent(handles):
        yield False
        return
    cache.mkdir(parents=True, exist_ok=True)
    with locked_file(cache / ".modules.lock"):
        yield _absent(handles)


def _absent(handles: Sequence[str]) -> bool:
    return any(missing_part(Path(handle)) for handle in handles)


def _build(folder: Path, build: Callable[[Path], object]) -> None:
    # The matrices are small: on a busy machine a second thread costs seconds of waiting. One also makes sums repeatable.
    with new_folder(folder, replace=True) as scratch, threadpool_limits(1):
        build(scratch)


def _spread(items: Sequence[str], count: int) -> Sequence[str]:
    """At most `count` of the items, evenly spread."""
    step = max(1, -(-len(items) // count))
    return items[::step]
