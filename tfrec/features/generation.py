"""How an AI video was made, as one vector: known before the video is rendered.

The vector is: one-hot `generate_method` (the first place for a missing or unknown one), the standardised `gen_params`, one
place for whether they are present, and where the catalogue has prompts, the prompt's text embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrec.data.schema import Catalog
from tfrec.features.content import Modality


@dataclass(frozen=True)
class GenerationEncoder:
    """What turns generation metadata into a vector.

    Args:
        methods: known values of `generate_method`.
        mean: float32 `[num_params]` of `gen_params`.
        deviation: float32 `[num_params]`, 1 for a constant one.
        prompt_dim: width of a prompt's embedding, 0 for a catalogue without prompts.
    """

    methods: tuple[str, ...]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    prompt_dim: int

    @classmethod
    def fit(cls, videos: Catalog, prompt_dim: int) -> GenerationEncoder:
        """Learns means and deviations from the videos that have parameters."""
        params = videos.gen_params[_has_params(videos)].astype(np.float64)
        if not len(params):
            params = np.zeros((1, videos.gen_params.shape[1]))
        deviation = params.std(axis=0)
        return cls(
            methods=videos.generate_method.vocabulary if videos.generate_method else (),
            mean=params.mean(axis=0).astype(np.float32),
            deviation=np.where(deviation > 0, deviation, 1).astype(np.float32),
            prompt_dim=prompt_dim,
        )

    def encode(self, videos: Catalog, prompts: NDArray[np.floating[Any]] | None = None) -> Modality:
        """One vector per video.

        Args:
            videos: the catalogue.
            prompts: `[num_videos, prompt_dim]` embeddings of the prompts, 0 where missing.

        Returns:
            float32 `[num_videos, dim]`; missing for a video with neither method, parameters nor prompt.
        """
        count = len(videos)
        codes = videos.generate_method.codes if videos.generate_method else np.zeros(count, np.int32)
        has_params = _has_params(videos)
        params = np.where(has_params[:, None], (videos.gen_params - self.mean) / self.deviation, 0)
        parts = [np.eye(len(self.methods) + 1, dtype=np.float32)[codes], params, has_params[:, None]]
        known = (codes > 0) | has_params
        if prompts is not None:
            parts.append(prompts)
            known |= videos.prompts != ""
        values = np.concatenate(parts, axis=1, dtype=np.float32)
        return Modality(np.where(known[:, None], values, np.float32(0)), known.astype(np.int32))


def _has_params(videos: Catalog) -> NDArray[np.bool_]:
    if not videos.gen_params.shape[1]:
        return np.zeros(len(videos), bool)
    return np.isfinite(videos.gen_params).all(axis=1)
