"""Small encoders that a run builds for itself."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfrec.config import ImageConfig
from tfrec.features.modules import image_encoder


def test_runs_that_share_a_cache_share_its_small_encoder(tmp_path):
    """Both begin while there is none, each with frames of its own: one encoder is built, and both use it."""
    asked = []

    def encoder(seed: int):
        def frames() -> np.ndarray:
            asked.append(seed)
            return np.random.default_rng(seed).integers(0, 255, (30, 32, 32, 3), np.uint8)

        return image_encoder(ImageConfig(image_size=32), tmp_path, frames).version

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(encoder, (1, 2))
    assert first == second
    assert len(asked) == 1
