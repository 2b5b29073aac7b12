"""The embedded demo dataset: an AI-video platform in miniature, made from a seed.

A few hundred short videos with sound, their words and generation metadata, users with drifting tastes, and a log of
what they were shown and did. Everything comes from the latent style factors of `world`; each medium shows only a part
of them, so it pays to fuse media, and a part of taste is shown by none. Since the truth is known, the folder also
holds the best reachable ranking of the test window (`oracle_scores.npy`, `oracle.json`).
"""

from tfrec.data.demo.build import GENERATOR_VERSION, ensure_demo, truth

__all__ = ["GENERATOR_VERSION", "ensure_demo", "truth"]
