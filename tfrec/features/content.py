"""Content features in memory: what is known of each video besides who watched it.

A *modality* is one view of a video: `text`, `video` (frames), `audio`, `generation` (how an AI video was made), or an
embedding table that the user brought, under its own name. Row i belongs to row i of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Modality:
    """One view of every video.

    Args:
        values: float16 or float32, `[num_videos, dim]`, or `[num_videos, num_steps, dim]` for a sequence; zeros where
            missing. May be memory-mapped.
        lengths: int32 `[num_videos]`: steps present (1 for a vector), 0 where the video lacks the modality.
        is_tuned: whether the values change, because their encoder is being trained.
    """

    values: NDArray[np.floating[Any]]
    lengths: NDArray[np.int32]
    is_tuned: bool = False

    @property
    def is_sequence(self) -> bool:
        """Whether a video has one vector per time step."""
        return self.values.ndim == 3

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.values.shape[-1])

    def pooled(self) -> NDArray[np.float32]:
        """float32 `[num_videos, dim]`: mean over the steps present, zeros where missing."""
        if not self.is_sequence:
            return np.asarray(self.values, np.float32)
        present = np.arange(self.values.shape[1]) < self.lengths[:, None]
        total = np.einsum("ntd,nt->nd", self.values, present, dtype=np.float32, casting="unsafe")
        return total / np.maximum(self.lengths, 1)[:, None].astype(np.float32)

    def directions(self) -> NDArray[np.float32]:
        """float32 `[num_videos, dim]`: unit vectors from the mean of the catalogue, zeros where missing."""
        pooled, present = self.pooled(), self.lengths > 0
        if not present.any():
            return pooled
        centred = (pooled - pooled[present].mean(axis=0)) * present[:, None]
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


@dataclass(frozen=True)
class ContentFeatures:
    """All modalities of the catalogue.

    Args:
        modalities: by name; empty for a dataset of ids alone.
        encoders: version of the encoder behind each modality, for the manifest.
        encoded: how many texts or videos were encoded in this run, by modality; what was cached does not count.
    """

    modalities: Mapping[str, Modality]
    encoders: Mapping[str, str]
    encoded: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.modalities)
