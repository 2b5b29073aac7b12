"""Two-tower retrieval that learns from every step of a sequence at once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec.data.input_pipeline import Query
from tfrec.layers.pooling import MASKED
from tfrec.layers.sampled_softmax import inclusion_log_probability
from tfrec.models.base import mean_over_replicas
from tfrec.models.retrieval import RetrievalModel


class SequenceRetrievalModel(RetrievalModel):
    """`RetrievalModel` over batches of `SequenceBatches`; the query tower is a `SequenceTower`.

    Each target has the same negatives: those that the batch was given, and itself. What other steps of the batch aim at is no
    negative, since these are far more than a softmax can take.
    """

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Mean loss of the targets of one batch of `SequenceBatches`, with weight penalty and alignment."""
        query: Query = inputs["query"]
        steps = tf.where(tf.reshape(inputs["targets"], [-1]) >= 0)[:, 0]
        targets, timestamps = (tf.gather(tf.reshape(inputs[name], [-1]), steps) for name in ("targets", "timestamps"))
        negatives = tf.unique(inputs["negatives"])[0]
        # Each video is embedded once; the negatives come first, so places below their number are theirs.
        videos, places = tf.unique(tf.concat([negatives, targets, tf.reshape(query.history, [-1])], axis=0))
        embeddings = self.candidate_tower(tf.maximum(videos, 0), training=training)
        _, target_places, history_places = tf.split(places, [tf.size(negatives), tf.size(targets), -1])
        events = tf.gather(embeddings, tf.reshape(history_places, tf.shape(query.history)))
        queries = self.query_tower.every_step(query, events, training=training)
        queries = tf.gather(tf.reshape(queries, [-1, self.config.embedding_dim]), steps)
        logits = tf.matmul(queries, embeddings[: tf.size(negatives)], transpose_b=True)
        logits = (logits + self.appeal(timestamps, negatives)) / self.config.temperature
        if self.samples_negatives:
            scores = tf.reduce_sum(queries * tf.gather(embeddings, target_places), axis=1)
            scores = (scores + self.appeal.of_targets(timestamps, targets)) / self.config.temperature
            logits = tf.concat([scores[:, None], self._without(logits, target_places)], axis=1)
            target_places = tf.zeros_like(targets)
        loss = mean_over_replicas(self.target_losses(logits, target_places, tf.size(negatives) + 1))
        aligned = targets[: tf.size(query.user)]  # as many as windows, however long these are
        return loss + self._weight_penalty() + self._alignment(aligned, training)

    def _without(self, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Corrected logits of sampled negatives, masked where a negative is the target of the row.

        Args:
            logits: float32 `[P, C]`.
            targets: int32 `[P]` places, from `C` on where the target is no negative.
        """
        if self.config.loss == "softmax" and self.config.log_q_correction:
            # The target is always there; what stands for all other videos is the sample.
            logits -= inclusion_log_probability(0.0, 0.0, self.config.num_uniform_negatives, self.num_warm)
        found = tf.cast(tf.where(targets < tf.shape(logits)[1]), tf.int32)
        cells = tf.concat([found, tf.gather_nd(targets, found)[:, None]], axis=1)
        return tf.tensor_scatter_nd_update(logits, cells, tf.fill([tf.shape(cells)[0]], MASKED))
