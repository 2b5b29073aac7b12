"""Retrieval of what may be shown, before anything else can take its place.

The index is searched for as many more videos as are forbidden, and as are hidden on average. Where too few of those found are
allowed, and in catalogues small enough to have an exact index, the whole catalogue is scored instead, and what is not allowed
left out. An allow-list is scored as it is, without the index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfrec.export.filters import Filters, Safety
from tfrec.index.base import Index
from tfrec.index.exact import MAX_SCORES, ExactIndex

MOST_HIDDEN = 0.75
"""Share of hidden videos up to which more are searched to make up for them; where more are hidden, exact search is near."""


class Candidates(NamedTuple):
    """Videos that may be shown.

    Args:
        rows: int32 `[B, C]` row numbers, best first, -1 padding.
        scores: float32 `[B, C]` inner products, -inf for padding.
    """

    rows: tf.Tensor
    scores: tf.Tensor


class AllowList(NamedTuple):
    """The only videos that requests may be shown.

    Args:
        rows: int32 `[B, A]` row numbers, each once, -1 padding; `A` is at least 1.
        given: bool `[B]`: False where a request has no such list, and everything is allowed.
    """

    rows: tf.Tensor
    given: tf.Tensor


class Retriever:
    """Finds candidates.

    Args:
        index: over `embeddings`.
        embeddings: float32 variable `[num_videos, D]`.
        safety: what is hidden.
        num_candidates: found per request, at most the catalogue.
    """

    def __init__(self, index: Index, embeddings: tf.Variable, safety: Safety, num_candidates: int) -> None:
        self._index = index
        self._embeddings = embeddings
        self._safety = safety
        self._num_videos = int(embeddings.shape[0])
        self._num_candidates = num_candidates

    def nearest(self, queries: tf.Tensor, filters: Filters, k: tf.Tensor, allow: AllowList | None = None) -> Candidates:
        """The allowed videos with the largest inner products.

        Args:
            queries: float32 `[B, D]`.
            filters: of the requests.
            k: int32 `[B]` slots: twice as many allowed videos are found for certain, if there are as many.
            allow: lists, where requests can have them.
        """
        exact = isinstance(self._index, ExactIndex)
        found = self._exact(queries, filters) if exact else self._from_index(queries, filters, k)
        if allow is None:
            return found
        return tf.cond(tf.reduce_any(allow.given), lambda: self._listed(queries, filters, allow, found), lambda: found)

    def _from_index(self, queries: tf.Tensor, filters: Filters, k: tf.Tensor) -> Candidates:
        found = self._index.search(queries, self._num_searched(filters))
        scores = self._scores(queries, found.rows) if self._index.rounds_scores else found.scores
        excluded = filters.forbid(found.rows) | self._safety.hides(found.rows, filters)
        nearest = best(found.rows, tf.where(excluded, -np.inf, scores), self._num_candidates)
        # Twice the slots, since some candidates are nearly the same as others.
        enough = tf.clip_by_value(2 * k, self._num_candidates // 2, self._num_candidates)
        enough = tf.minimum(enough, self._safety.num_allowed(filters))
        too_few = tf.reduce_sum(tf.cast(nearest.rows >= 0, tf.int32), axis=1) < enough
        return tf.cond(
            tf.reduce_any(too_few), lambda: self._replaced(nearest, too_few, queries, filters), lambda: nearest
        )

    def _num_searched(self, filters: Filters) -> tf.Tensor:
        hidden = tf.reduce_max(self._safety.num_hidden(filters)) / self._num_videos
        shown = 1 - tf.clip_by_value(hidden, 0, MOST_HIDDEN)  # the maximum over an empty batch is below 0
        wanted = tf.cast(self._num_candidates + filters.num_forbidden, tf.float64) / shown
        return tf.minimum(tf.cast(tf.math.ceil(wanted), tf.int32), self._num_videos)

    def _replaced(self, found: Candidates, too_few: tf.Tensor, queries: tf.Tensor, filters: Filters) -> Candidates:
        """`found`, and for the requests with too few the result of exact search."""
        requests = tf.cast(tf.where(too_few)[:, 0], tf.int32)
        exact = self._exact(tf.gather(queries, requests), filters.of(requests))
        return Candidates(*map(lambda old, new: tf.tensor_scatter_nd_update(old, requests[:, None], new), found, exact))

    def _exact(self, queries: tf.Tensor, filters: Filters) -> Candidates:
        """Scores the whole catalogue; large batches in blocks, so that the scores in memory stay bounded."""
        most = max(1, MAX_SCORES // self._num_videos)
        size = tf.shape(queries)[0]
        return tf.cond(
            size <= most,
            lambda: self._exact_block(queries, filters),
            lambda: self._exact_blocks(queries, filters, size, most),
        )

    def _exact_block(self, queries: tf.Tensor, filters: Filters) -> Candidates:
        scores = tf.matmul(queries, self._embeddings, transpose_b=True)
        return best(None, self._safety.allowed_only(scores, filters), self._num_candidates)

    def _exact_blocks(self, queries: tf.Tensor, filters: Filters, size: tf.Tensor, block: int) -> Candidates:
        # What fills the last block up is a copy of the first request.
        numbers = tf.range((size + block - 1) // block * block)
        blocks = tf.reshape(tf.where(numbers < size, numbers, 0), [-1, block])
        shapes = Candidates(
            tf.TensorSpec([block, self._num_candidates], tf.int32),
            tf.TensorSpec([block, self._num_candidates], tf.float32),
        )
        found = tf.map_fn(
            lambda requests: self._exact_block(tf.gather(queries, requests), filters.of(requests)),
            blocks,
            fn_output_signature=shapes,
            parallel_iterations=1,
        )
        return Candidates(*(tf.reshape(part, [-1, self._num_candidates])[:size] for part in found))

    def _listed(self, queries: tf.Tensor, filters: Filters, allow: AllowList, found: Candidates) -> Candidates:
        """The videos of the lists; what was `found` where a request has none."""
        rows = allow.rows
        excluded = filters.forbid(rows) | self._safety.hides(rows, filters)
        listed = best(rows, tf.where(excluded, -np.inf, self._scores(queries, rows)), self._num_candidates)
        return Candidates(*map(lambda new, old: tf.where(allow.given[:, None], new, old), listed, found))

    def _scores(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[B, C]`: exact inner products with int32 `[B, C]` row numbers; any number for -1."""
        vectors = tf.gather(tf.convert_to_tensor(self._embeddings), tf.maximum(rows, 0))
        return tf.squeeze(tf.matmul(vectors, queries[:, :, None]), 2)


def best(rows: tf.Tensor | None, scores: tf.Tensor, width: int) -> Candidates:
    """The `width` videos with the largest scores.

    Args:
        rows: int32 `[B, M]` row numbers; without them, all of the catalogue in order.
        scores: float32 `[B, M]`, -inf for what is no candidate.
        width: of the result; what is missing is padding.
    """
    top = tf.math.top_k(scores, tf.minimum(width, tf.shape(scores)[1]))
    chosen = top.indices if rows is None else tf.gather(rows, top.indices, batch_dims=1)
    chosen = tf.where(top.values > -np.inf, chosen, -1)
    return Candidates(widened(chosen, width, -1), widened(top.values, width, -np.inf))


def widened(values: tf.Tensor, width: int | tf.Tensor, filling: float) -> tf.Tensor:
    """`[B, width]`, filled up at the end."""
    return tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]]], constant_values=filling)
