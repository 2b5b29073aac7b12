"""The space in which queries and candidates meet: which dimensions of an embedding mean what.

    [ content block | taste | appeal ]

*Taste* is what the towers learn, *appeal* one number that is a video's own (see `CandidateTower`). The *content block* comes from
no training: in it a video of a history holds the direction of its content, a request the mean of these, a cold candidate its own
direction, and a warm candidate zeros. So one inner product is the learned score, and for cold videos the cosine of contents
besides. Without a head for cold videos, or where the block does not pay, there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import Query
from tfrec.layers.pooling import masked_mean

Array = TypeVar("Array", NDArray[np.float32], tf.Tensor)


@dataclass(frozen=True)
class Layout:
    """Where the parts of an embedding are; every method takes `[..., D]`.

    Args:
        content_dim: width of the content block, 0 without one.
    """

    content_dim: int = 0

    def content(self, embeddings: Array) -> Array:
        """The content block."""
        return embeddings[..., : self.content_dim]

    def learned(self, embeddings: Array) -> Array:
        """What the towers give and take: taste and appeal."""
        return embeddings[..., self.content_dim :]

    def taste(self, embeddings: Array) -> Array:
        """What a video is like, by who watches it."""
        return embeddings[..., self.content_dim : -1]

    def scores(self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 `[B, C]` inner products, those of warm videos to the last bit what they are without a block."""
        learned: NDArray[np.float32] = self.learned(queries) @ self.learned(embeddings).T
        return learned + self.content(queries) @ self.content(embeddings).T if self.content_dim else learned


NO_BLOCK = Layout()


@dataclass(frozen=True)
class Tables:
    """Embeddings of the catalogue.

    Args:
        videos: float32 `[num_videos, D]`, as candidates.
        history: float32 `[num_videos, D]`, as watched; mostly the same array where there is no content block.
        layout: of both.
    """

    videos: NDArray[np.float32]
    history: NDArray[np.float32]
    layout: Layout = NO_BLOCK

    def with_videos(self, videos: NDArray[np.float32]) -> Tables:
        """With other candidates; they are the history too where it was the same array."""
        return replace(self, videos=videos, history=videos if self.history is self.videos else self.history)


def rows_of(table: tf.Tensor | tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """float32 `[..., D]`: rows of a table; of one that is cut over parameter servers, these alone are sent."""
    if isinstance(table, tf.Tensor | tf.Variable):
        return tf.gather(tf.convert_to_tensor(table), rows)
    return tf.nn.embedding_lookup(table, rows)


def embed_query(
    query_tower: Callable[[Query, tf.Tensor], tf.Tensor], query: Query, events: tf.Tensor, layout: Layout
) -> tf.Tensor:
    """Embeds `B` requests.

    Args:
        query_tower: knows of no content block.
        query: the requests.
        events: float32 `[B, T, D]` of their histories, from `Tables.history`.
        layout: of the events.

    Returns:
        float32 `[B, D]`.
    """
    learned = query_tower(query, layout.learned(events))
    if not layout.content_dim:
        return learned
    watched = layout.content(events)
    has_content = (query.history >= 0) & tf.reduce_any(watched != 0, axis=2)
    return tf.concat([masked_mean(watched, has_content), learned], axis=1)
