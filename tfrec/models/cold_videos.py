"""Videos that nobody has watched, in the space of the index: the head's embedding, with their content beside it.

The score of a cold video is `(1 - s) head + s c cosine`: `cosine` is that of content-kNN, `s` the *content share*, and `c` brings
cosines to the scale of the head's scores, so that the share does not change how far scores of cold videos are apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.models.cold_start import LEAST_LOG_VARIANCE, ColdStartModel
from tfrec.models.content_block import ContentBlock
from tfrec.towers.space import Layout

CONTENT_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Tried. At the last one content is all but alone: what is left of a taste still has its direction."""


@dataclass(frozen=True)
class ColdVideos:
    """Embeds cold videos.

    Args:
        head: trained.
        block: of their content; None where the head is alone.
        content_share: of the score, from 0 to below 1.
        content_scale: what a cosine of 1 is worth in the score.
        level: appeal that the share draws the head's towards.
        taste_scale: of the head's tastes.
        linear_dim: columns of the block that are a linear model's, in which a cold video holds zeros.
        exploration_weight: what a standard deviation of the latent, mean over its dimensions, adds to the appeal. That of a
            score differs from request to request, which no index can hold; this is the part that all requests share.
    """

    head: ColdStartModel
    block: ContentBlock | None = None
    content_share: float = 0.0
    content_scale: float = 1.0
    level: float = 0.0
    taste_scale: float = 1.0
    linear_dim: int = 0
    exploration_weight: float = 0.0

    @property
    def layout(self) -> Layout:
        """Of what `embed` returns."""
        return Layout(self.linear_dim + (0 if self.block is None else self.block.dim))

    def embed(
        self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor], columns: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeds videos that may be in no catalogue; arguments as `ColdStartModel.embed`.

        Returns:
            Embeddings, and the log-variance of the latents behind them, float32 `[B, block_dim + D]` each. The block is
            no draw: its variance counts as the least one that there is.
        """
        learned, log_variance = self.head.embed(values, lengths, columns)
        certain = [[0, 0], [self.layout.block_dim, 0]]
        padded = tf.pad(log_variance, certain, constant_values=LEAST_LOG_VARIANCE)
        directions = None if self.block is None else self.block.embed(values, lengths)
        return self._joined(learned, log_variance, directions), padded

    def embed_columns(self, codes: Mapping[str, tf.Tensor], numbers: tf.Tensor | None) -> tf.Tensor | None:
        """Side columns for `embed`; arguments as `ColumnEmbedding.embed`. None where the catalogue has none."""
        return self.head.embed_columns(codes, numbers)

    def embed_videos(self, videos: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 `[n, block_dim + D]` for row numbers of the catalogue."""
        directions = None if self.block is None else self.block.catalogue[videos]
        return np.asarray(self._joined(*self.head.embed_rows(videos), directions))

    def _joined(self, learned: tf.Tensor, log_variance: tf.Tensor, directions: tf.Tensor | None) -> tf.Tensor:
        share = self.content_share
        taste, appeal = learned[:, :-1] * self.taste_scale, learned[:, -1:]
        if directions is not None:
            taste, appeal = (1 - share) * taste, (1 - share) * appeal + share * self.level
        if self.exploration_weight:
            appeal += self.exploration_weight * tf.reduce_mean(tf.exp(0.5 * log_variance), axis=1, keepdims=True)
        content = [] if directions is None else [share * self.content_scale * directions]
        nothing = tf.zeros([tf.shape(taste)[0], self.linear_dim])
        return tf.concat([*content, nothing, taste, appeal], axis=1)
