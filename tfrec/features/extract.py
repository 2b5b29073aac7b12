"""Everything that is known of the videos besides who watched them: `extract_features`."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.console import ProgressCallback
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import Catalog, FloatArray
from tfrec.encoders.text import TextEncoder
from tfrec.features.content import ContentFeatures, Modality
from tfrec.features.generation import GenerationEncoder
from tfrec.features.media import LocalMedia, MediaEngine, media_features
from tfrec.features.modules import text_encoder
from tfrec.features.store import FeatureStore, content_key

_TEXTS_PER_WRITE = 1024
_CHUNK_ROWS = 65_536


def extract_features(
    videos: Catalog,
    config: FeaturesConfig,
    cache: Path,
    rejects: RejectLog | None = None,
    progress: ProgressCallback | None = None,
    engine: MediaEngine | None = None,
) -> ContentFeatures:
    """Encodes texts, frames and sound of the catalogue, and joins what is given.

    Modalities, each where any video has it: `text`, `video` (a sequence of frames), `audio` (a sequence of MFCC),
    `generation`, and every table of `videos.content` under its own name. Whatever lies in the cache is not encoded again.

    Args:
        videos: the catalogue.
        config: which encoders.
        cache: folder of the feature cache.
        rejects: learns of the media files that cannot be used; their videos lack the modality.
        progress: told how many texts or videos are encoded, and how many there are to encode.
        engine: where media are decoded and encoded; by default on this machine.

    Returns:
        The modalities, aligned with the catalogue.

    Raises:
        TfrecError: If a module cannot be loaded or does not fit.
    """
    rejects = rejects if rejects is not None else RejectLog()
    progress = progress or (lambda done, total: None)
    modalities: dict[str, Modality] = {}
    encoders: dict[str, str] = {}
    encoded: dict[str, int] = {}
    has_prompts = bool(np.any(videos.prompts != ""))
    text = _Texts(videos, config, cache, progress) if videos.has_text or has_prompts else None
    if text is not None:
        modalities["text"], encoders["text"] = text.modality(videos.texts), text.version
        encoded["text"] = text.encoded
    if videos.media:
        media = media_features(videos.media, len(videos), config, cache, rejects, progress, engine or LocalMedia())
        modalities |= media.modalities
        encoders |= {name: media.encoders[name] for name in media.modalities}
        encoded |= dict.fromkeys(media.modalities, media.encoded)
    if videos.generate_method is not None or videos.gen_params.shape[1] or has_prompts:
        prompts = text.modality(videos.prompts).values if text is not None and has_prompts else None
        encoder = GenerationEncoder.fit(videos, 0 if prompts is None else prompts.shape[1])
        modalities["generation"] = encoder.encode(videos, prompts)
        encoders["generation"] = "metadata" if prompts is None or text is None else f"metadata-{text.version}"
    for name, table in videos.content.items():
        modalities[name], encoders[name] = given_modality(table)
    return ContentFeatures(
        {name: modality for name, modality in modalities.items() if modality.lengths.any()}, encoders, encoded
    )


def given_modality(table: FloatArray) -> tuple[Modality, str]:
    """A table of embeddings the user brought.

    Args:
        table: float `[num_videos, dim]`, may be memory-mapped.

    Returns:
        The modality, in which a row that is all zeros or not finite is missing, and a digest of the table as its version.
    """
    digest = sha256()
    finite, present = np.ones(len(table), bool), np.zeros(len(table), bool)
    for start in range(0, len(table), _CHUNK_ROWS):
        chunk = np.asarray(table[start : start + _CHUNK_ROWS])
        digest.update(chunk.tobytes())
        rows = slice(start, start + len(chunk))
        finite[rows] = np.isfinite(chunk).all(axis=1)
        present[rows] = finite[rows] & chunk.any(axis=1)
    values = table if table.dtype in (np.float16, np.float32) else table.astype(np.float32)
    if not finite.all():
        values = np.where(finite[:, None], values, values.dtype.type(0))
    return Modality(values, present.astype(np.int32)), f"given-{digest.hexdigest()[:12]}"


class _Texts:
    """The catalogue's texts and prompts, encoded where they are not cached.

    Args:
        videos: the catalogue.
        config: which encoder.
        cache: folder of the feature cache.
        progress: told texts encoded and to encode.
    """

    def __init__(self, videos: Catalog, config: FeaturesConfig, cache: Path, progress: ProgressCallback) -> None:
        texts = sorted({*videos.texts, *videos.prompts} - {""})
        encoder = text_encoder(config.text, cache, lambda: texts)
        self.version = encoder.version
        self._store = FeatureStore(cache / encoder.version, (encoder.dim,))
        self.encoded = self._encode_absent(encoder, texts, progress)

    def modality(self, texts: NDArray[np.object_]) -> Modality:
        """The vector of each text; "" is missing."""
        rows = np.where(texts == "", -1, self._store.rows(_keys(texts)))
        return Modality(self._store.read(rows), (rows >= 0).astype(np.int32))

    def _encode_absent(self, encoder: TextEncoder, texts: Sequence[str], progress: ProgressCallback) -> int:
        absent = self._store.rows(_keys(texts)) < 0
        todo = [text for text, new in zip(texts, absent, strict=True) if new]
        for start in range(0, len(todo), _TEXTS_PER_WRITE):
            part = todo[start : start + _TEXTS_PER_WRITE]
            self._store.append(_keys(part), encoder.encode(part), np.ones(len(part), np.int32))
            progress(start + len(part), len(todo))
        return len(todo)


def _keys(texts: Sequence[str] | NDArray[np.object_]) -> list[bytes]:
    return [content_key(text.encode("utf-8", "surrogatepass")) for text in texts]
