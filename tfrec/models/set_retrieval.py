"""Two-tower retrieval that learns from all of a user's videos at once, for logs without times."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec.data.input_pipeline import Query
from tfrec.layers.sampled_softmax import inclusion_log_probability, positives_mask
from tfrec.models.base import mean_over_replicas
from tfrec.models.retrieval import RetrievalModel


class SetRetrievalModel(RetrievalModel):
    """`RetrievalModel` over batches of `SetBatches`: a multinomial likelihood of the targets given the history.

    References:
        Liang et al., Variational autoencoders for collaborative filtering, WWW 2018, whose likelihood it is, and which hides a
        part of the input likewise.
    """

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Mean negative log-likelihood of the targets of one batch of `SetBatches`, with weight penalty and alignment.

        The candidates are the negatives and the targets of the batch, as a set. A user's history is no candidate to them;
        their other targets are, since the likelihood shares itself out among all of them.
        """
        query: Query = inputs["query"]
        aimed_at = tf.boolean_mask(inputs["video"], inputs["video"] >= 0)
        candidates = tf.unique(tf.concat([inputs["negatives"], aimed_at], axis=0))[0]
        embeddings, events = self._embed_batch(candidates, query.history, training)
        queries = self.query_tower(query, events, training=training)
        log_inclusion = None
        if self.frequency is not None:
            num_targets = tf.cast(tf.size(aimed_at), tf.float32)
            log_inclusion = inclusion_log_probability(
                tf.gather(self.frequency, candidates), num_targets, self.config.num_uniform_negatives, self.num_warm
            )
        places = self._places(candidates, inputs["targets"])
        known = tf.cast(places >= 0, tf.float32)
        watched = tf.ragged.boolean_mask(query.history, query.history >= 0)
        mask = positives_mask(candidates, watched, None, self.num_videos)
        appeal = self.appeal(query.timestamp, candidates)
        losses = []
        for member in self.member_logits(queries, embeddings, appeal, log_inclusion, mask):
            aimed = tf.gather(member, tf.maximum(places, 0), batch_dims=1)
            losses.append(mean_over_replicas(tf.reduce_logsumexp(member, axis=1, keepdims=True) - aimed, known))
        return tf.add_n(losses) / len(losses) + self._weight_penalty() + self._alignment(aimed_at, training)

    def _places(self, candidates: tf.Tensor, videos: tf.Tensor) -> tf.Tensor:
        """int32 `[B, T]`: where int32 `[B, T]` videos are in the candidates, -1 for padding."""
        count = tf.range(tf.size(candidates))
        place = tf.tensor_scatter_nd_update(tf.fill([self.num_videos], -1), candidates[:, None], count)
        return tf.where(videos >= 0, tf.gather(place, tf.maximum(videos, 0)), -1)
