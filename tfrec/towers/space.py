"""The space in which queries and candidates meet: which dimensions of an embedding mean what.

    [ block | taste | appeal ]

*Taste* is what the towers learn, *appeal* one number that is a video's own (see `CandidateTower`). The *block* comes from no
gradient: in it a request is the mean of what the videos of its history hold. So one inner product is the learned score and what
the block adds:

- from content, for cold videos: their own direction as candidates, where warm ones hold zeros; the score is a cosine;
- from a linear model over videos, for warm ones: factors of its weights (`models/linear_factors.py`).

Where neither pays there is no block.
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
        block_dim: width of the block, 0 without one.
    """

    block_dim: int = 0

    def block(self, embeddings: Array) -> Array:
        """What no tower gave."""
        return embeddings[..., : self.block_dim]

    def learned(self, embeddings: Array) -> Array:
        """What the towers give and take: taste and appeal."""
        return embeddings[..., self.block_dim :]

    def taste(self, embeddings: Array) -> Array:
        """What a video is like, by who watches it."""
        return embeddings[..., self.block_dim : -1]

    def scores(self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 `[B, C]` inner products, to the last bit the learned ones where the block holds zeros."""
        learned: NDArray[np.float32] = self.learned(queries) @ self.learned(embeddings).T
        return learned + self.block(queries) @ self.block(embeddings).T if self.block_dim else learned


NO_BLOCK = Layout()

MAX_MEASURED = 2000
"""Videos by which the spread of scores is measured."""


@dataclass(frozen=True)
class Tables:
    """Embeddings of the catalogue.

    Args:
        videos: float32 `[num_videos, D]`, as candidates.
        history: float32 `[num_videos, D]`, as watched; mostly the same array where there is no block.
        layout: of both.
    """

    videos: NDArray[np.float32]
    history: NDArray[np.float32]
    layout: Layout = NO_BLOCK

    def with_videos(self, videos: NDArray[np.float32]) -> Tables:
        """With other candidates; they are the history too where it was the same array."""
        return replace(self, videos=videos, history=videos if self.history is self.videos else self.history)

    def with_block(self, offered: NDArray[np.float32], watched: NDArray[np.float32]) -> Tables:
        """With columns put before all others; both float32 `[num_videos, d]`, of candidates and of histories."""
        videos, history = (np.hstack(pair) for pair in ((offered, self.videos), (watched, self.history)))
        return Tables(videos, history, Layout(offered.shape[1] + self.layout.block_dim))


def block_scale(queries: NDArray[np.float32], learned: NDArray[np.float32], block: NDArray[np.float32]) -> float:
    """How much more learned scores vary from video to video than those of a block: mean deviation over mean deviation.

    Args:
        queries: float32 `[B, b + ... + D]`.
        learned: float32 `[C, D]`.
        block: float32 `[C, b]`.
    """
    sample = slice(None, None, max(1, len(learned) // MAX_MEASURED))
    spread = (queries[:, -learned.shape[1] :] @ learned[sample].T).std(axis=1).mean()
    of_block = (queries[:, : block.shape[1]] @ block[sample].T).std(axis=1).mean()
    return float(spread / of_block) if of_block > 0 else 1.0


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
        query_tower: knows of no block.
        query: the requests.
        events: float32 `[B, T, D]` of their histories, from `Tables.history`.
        layout: of the events.

    Returns:
        float32 `[B, D]`.
    """
    learned = query_tower(query, layout.learned(events))
    if not layout.block_dim:
        return learned
    watched = layout.block(events)
    has_block = (query.history >= 0) & tf.reduce_any(watched != 0, axis=2)
    return tf.concat([masked_mean(watched, has_block), learned], axis=1)
