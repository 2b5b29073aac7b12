"""Multi-task ranking of retrieved videos: will the user click, finish, like?

The model stands on the frozen retrieval: query and candidate embeddings, and their inner product, are inputs. So a cold
video, whose embedding comes from its content, is ranked like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from numpy.typing import NDArray

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import SECONDS_PER_DAY, Query
from tfrec.data.schema import Dataset
from tfrec.layers.acceleration import compiled
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import RandomMask
from tfrec.layers.experts import GatedExperts, Network
from tfrec.layers.position_bias import PositionBias
from tfrec.models.linear_factors import Factors, LinearFactors
from tfrec.models.ranker import Ranker
from tfrec.models.retrieval import RetrievalModel
from tfrec.towers.space import NO_BLOCK, rows_of

ID_UNITS = 16
"""Width of the id embeddings of the collaborative part."""


class RankingModel(Ranker):
    """Neural collaborative filtering and feature crosses under one head per label.

    References:
        He et al., Neural collaborative filtering, WWW 2017; Wang et al., DCN V2, WWW 2021; Ma et al., Modeling task
        relationships in multi-task learning with multi-gate mixture-of-experts, KDD 2018; Zhao et al., Recommending what
        video to watch next, RecSys 2019, on position.

    Args:
        config: of the model.
        dataset: sizes, labels and side columns are taken from it.
        retrieval: trained; it stays as it is.
        video_embeddings: float32 `[num_videos, D]` of the catalogue, cold videos included.
        history_embeddings: float32 `[num_videos, D]`, as `RetrievalModel.embed_queries` takes them; by default what
            `retrieval` gives.
    """

    def __init__(
        self,
        config: RankingConfig,
        dataset: Dataset,
        retrieval: RetrievalModel,
        video_embeddings: NDArray[np.float32],
        history_embeddings: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(dataset, retrieval, video_embeddings, history_embeddings, config.calibration)
        self.config = config
        interactions = dataset.interactions
        self.created_at = tf.constant(dataset.videos.created_at, tf.int64)
        self.warm = tf.constant(interactions.train_counts > 0)
        self.log_count = tf.constant(_standardised(np.log1p(interactions.train_counts)))
        self.user_ids = tf.keras.layers.Embedding(len(dataset.users) + 1, ID_UNITS)
        self.video_ids = tf.keras.layers.Embedding(len(dataset.videos) + 1, ID_UNITS)
        self.show_ids = RandomMask(0.3)
        self.linear = LinearFactors(Factors.fitted(interactions, config.linear_dim)) if config.linear_dim else None
        self.user_columns = ColumnEmbedding(dataset.users.columns) if dataset.users.columns.names else None
        self.video_columns = ColumnEmbedding(dataset.videos.columns) if dataset.videos.columns.names else None
        is_shared_out = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.normalise = tf.keras.layers.BatchNormalization(synchronized=is_shared_out)
        self.crosses = [
            tfrs.layers.dcn.Cross(projection_dim=config.hidden_units[-1]) for _ in range(config.num_cross_layers)
        ]
        self.network: tf.keras.layers.Layer
        if config.num_experts:
            self.network = GatedExperts(len(self.labels), config.num_experts, config.hidden_units, config.dropout)
        else:
            self.network = Network(config.hidden_units, config.dropout)
        self.position = PositionBias(len(self.labels)) if config.position_bias else None
        # Training starts at the order of the retrieval score, or of its sum with the linear model's, and learns what to change.
        self.num_scores = 1 if self.linear is None else 2
        self.heads = tf.keras.layers.Dense(len(self.labels), kernel_initializer="zeros")
        self.from_score = tf.keras.layers.Dense(len(self.labels), kernel_initializer="ones", use_bias=False)

    def logits(
        self,
        query: Query,
        query_embeddings: tf.Tensor,
        events: tf.Tensor,
        candidates: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """See `Ranker.logits`."""
        shape = tf.shape(candidates)
        users, rows = tf.repeat(query.user, shape[1]), tf.maximum(tf.reshape(candidates, [-1]), 0)
        videos = rows_of(self.video_embeddings, tf.maximum(candidates, 0))
        parts = self._matches(query, query_embeddings, events, videos)
        if self.config.network:
            parts += self._identities(users, rows, training)
            parts += [tf.gather(self.log_count, rows)[:, None], self.age(tf.repeat(query.timestamp, shape[1]), rows)]
            parts += [
                columns(ids) for columns, ids in ((self.user_columns, users), (self.video_columns, rows)) if columns
            ]
        else:
            parts = [parts[0][:, :1]]
        if self.linear is not None:
            parts.insert(0, tf.reshape(self.linear(query.history, candidates), [-1, 1]))
        inputs = self.normalise(tf.concat(parts, axis=1), training=training)
        logits = compiled(self._pair_logits)(inputs, training)
        return tf.reshape(logits, [shape[0], shape[1], len(self.labels)])

    def _pair_logits(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """float32 `[n, num_labels]` from the features of pairs, float32 `[n, D]`, the scores first."""
        if not self.config.network:
            return self.from_score(inputs) + self.heads(inputs)
        crossed = inputs
        for cross in self.crosses:
            crossed = cross(inputs, crossed)
        return self.from_score(inputs[:, : self.num_scores]) + self._heads(
            self.network(crossed, training=training), inputs
        )

    def _heads(self, hidden: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """float32 `[n, num_labels]` from what is shared, float32 `[n, H]`, or each label's own, float32 `[n, num_labels, H]`."""
        if hidden.shape.rank == 2:
            return self.heads(tf.concat([hidden, inputs], axis=1))
        inputs = tf.tile(inputs[:, None, :], [1, len(self.labels), 1])
        return tf.linalg.diag_part(self.heads(tf.concat([hidden, inputs], axis=2)))

    def position_bias(self, inputs: dict[str, Any]) -> tf.Tensor | float:
        """See `Ranker.position_bias`."""
        return 0.0 if self.position is None else self.position(inputs["positions"])

    def _matches(
        self, query: Query, query_embeddings: tf.Tensor, events: tf.Tensor, videos: tf.Tensor
    ) -> list[tf.Tensor]:
        """What retrieval knows of each pair, its score first, and how near the candidate is to the history.

        Of the block the score alone counts: warm videos that have none look the same with it and without.

        Returns:
            Float32 `[B * C, ...]` each.
        """
        layout = self.layout
        matches = tf.reduce_sum(layout.block(query_embeddings)[:, None, :] * layout.block(videos), axis=2)
        query_embeddings, videos, events = (layout.learned(part) for part in (query_embeddings, videos, events))
        products = query_embeddings[:, None, :] * videos
        width = videos.shape[-1]
        mask = (query.history >= 0)[:, None, :]
        nearness = tf.einsum("bcd,btd->bct", _direction(videos), _direction(events))
        count = tf.maximum(tf.reduce_sum(tf.cast(mask, tf.float32), axis=2), 1.0)
        nearest = tf.reduce_max(tf.where(mask, nearness, -1.0), axis=2)
        mean = tf.reduce_sum(tf.where(mask, nearness, 0.0), axis=2) / count
        scalars = tf.stack(
            [tf.reduce_sum(products, axis=2) + matches, nearest, mean, tf.math.log(count + tf.zeros_like(mean))], axis=2
        )
        asked = tf.tile(query_embeddings[:, None, :], [1, tf.shape(videos)[1], 1])
        return [tf.reshape(part, [-1, part_width]) for part, part_width in
                ((scalars, 4), (products, width), (videos, width), (asked, width))]  # fmt: skip

    def _identities(self, users: tf.Tensor, rows: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """The collaborative part: id embeddings and their product; an unknown user and a cold video have none."""
        shape = tf.stack([tf.size(users), 1])
        user = self.user_ids(users + 1) * self.show_ids(shape, training=training)
        video = self.video_ids(tf.where(tf.gather(self.warm, rows), rows + 1, 0)) * self.show_ids(
            shape, training=training
        )
        return [user * video, user, video]

    def age(self, now: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[n, 1]`: logarithm of a video's age in days at the request, 0 where either time is unknown."""
        created = tf.gather(self.created_at, rows)
        days = tf.cast(tf.maximum(now - created, 0), tf.float32) / SECONDS_PER_DAY
        return tf.where((now > 0) & (created > 0), tf.math.log1p(days), 0.0)[:, None]


def _direction(learned: tf.Tensor) -> tf.Tensor:
    """Unit vectors of taste."""
    return tf.nn.l2_normalize(NO_BLOCK.taste(learned), -1)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)
