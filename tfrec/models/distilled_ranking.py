"""A small ranker that learns from the large one, for where a request may cost little."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import Dataset
from tfrec.layers.experts import Network
from tfrec.models.base import mean_over_replicas
from tfrec.models.ranker import Ranker
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.towers.space import rows_of

NUM_UNLABELLED = 16
"""Videos per request, drawn from the catalogue, of which the teacher alone has an opinion."""

LABEL_SHARE = 0.25
"""Of the loss: the labels of the log; the teacher has the rest."""


class DistilledRanker(Ranker):
    """Retrieval score, match of the embeddings dimension by dimension, popularity and age, under a small network.

    It compares no candidate with the history and has no ids, columns and crosses. The teacher, who has, tells it a probability
    for every label of every pair, those whose label the log does not know included.

    References:
        Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015; Tang and Wang, Ranking distillation,
        KDD 2018.

    Args:
        config: of the model.
        dataset: as the teacher's.
        teacher: trained; it stays as it is, and its embeddings are shared.
        retrieval: as the teacher's.
    """

    def __init__(
        self, config: RankingConfig, dataset: Dataset, teacher: RankingModel, retrieval: RetrievalModel
    ) -> None:
        super().__init__(dataset, retrieval, teacher.video_embeddings, teacher.history_embeddings, config.calibration)
        # Behind a function, so that its variables are not this model's.
        self._teacher: Callable[[], RankingModel] = lambda: teacher
        self.age, self.log_count = teacher.age, teacher.log_count
        self.num_videos = len(dataset.videos)
        self.normalise = tf.keras.layers.BatchNormalization()
        self.network = Network(config.distilled_units, config.dropout / 2)
        self.heads = tf.keras.layers.Dense(len(self.labels), kernel_initializer="zeros")
        self.from_score = tf.keras.layers.Dense(len(self.labels), kernel_initializer="ones", use_bias=False)
        self.generator = tf.random.Generator.from_seed(random.randrange(1 << 31))

    def logits(
        self,
        query: Query,
        query_embeddings: tf.Tensor,
        events: tf.Tensor,
        candidates: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """See `Ranker.logits`."""
        del events
        shape, rows = tf.shape(candidates), tf.maximum(candidates, 0)
        products = query_embeddings[:, None, :] * rows_of(self.video_embeddings, rows)
        matches = self.layout.learned(products)
        flat = tf.reshape(rows, [-1])
        parts = [
            tf.reshape(tf.reduce_sum(products, axis=2), [-1, 1]),
            tf.gather(self.log_count, flat)[:, None],
            self.age(tf.repeat(query.timestamp, shape[1]), flat),
            tf.reshape(matches, [-1, matches.shape[2]]),
        ]
        inputs = self.normalise(tf.concat(parts, axis=1), training=training)
        hidden = self.network(inputs, training=training)
        logits = self.heads(tf.concat([hidden, inputs], axis=1)) + self.from_score(inputs[:, :1])
        return tf.reshape(logits, [shape[0], shape[1], len(self.labels)])

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Cross-entropy with the labels and, on these and drawn pairs, with the teacher's probabilities; summed over labels."""
        query, candidates = inputs["query"], inputs["candidates"]
        events = rows_of(self.video_embeddings, tf.maximum(query.history, 0))
        asked = self._retrieval().embed_queries(query, self.history_embeddings)
        drawn = self.generator.uniform(
            [tf.shape(candidates)[0], NUM_UNLABELLED], maxval=self.num_videos, dtype=tf.int32
        )
        pairs = tf.concat([candidates, drawn], axis=1)
        taught = tf.stop_gradient(tf.sigmoid(self._teacher().logits(query, asked, events, pairs)))
        logits = self.logits(query, asked, events, pairs, training=training)
        imitation = tf.nn.sigmoid_cross_entropy_with_logits(taught, logits)
        loss = mean_over_replicas(imitation) * len(self.labels)
        shown = logits[:, : tf.shape(candidates)[1]] + tf.stop_gradient(self._teacher().position_bias(inputs))
        return LABEL_SHARE * self._label_loss(shown, inputs) + (1 - LABEL_SHARE) * loss
