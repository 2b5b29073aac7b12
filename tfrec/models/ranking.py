"""Multi-task ranking of retrieved videos: will the user click, finish, like?

The model stands on the frozen retrieval: query and candidate embeddings, and their inner product, are inputs. So a cold
video, whose embedding comes from its content, is ranked like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from numpy.typing import NDArray

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import SECONDS_PER_DAY, Query, RankingBatches
from tfrec.data.schema import LABELS, Dataset
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import Dropout, RandomMask
from tfrec.models.base import Model, mean_over_replicas
from tfrec.models.calibration import platt_scaling
from tfrec.models.retrieval import RetrievalModel
from tfrec.towers.space import NO_BLOCK, Layout

ID_UNITS = 16
"""Width of the id embeddings of the collaborative part."""


class Predictions(NamedTuple):
    """Predicted and true labels of the pairs whose label is known, `[num_pairs]` each.

    Args:
        labels: 0 or 1.
        logits: not calibrated.
        probabilities: calibrated.
        retrieval_scores: inner products of query and candidate embeddings.
        users: row numbers.
    """

    labels: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    retrieval_scores: NDArray[np.float32]
    users: NDArray[np.int32]


class RankingModel(Model):
    """Neural collaborative filtering and feature crosses under one head per label.

    References:
        He et al., Neural collaborative filtering, WWW 2017; Wang et al., DCN V2, WWW 2021.

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
        super().__init__()
        interactions = dataset.interactions
        self.labels = tuple(name for name in LABELS if name in interactions.labels) or ("click",)
        self._retrieval: Callable[[], Any] = lambda: (
            retrieval
        )  # behind a function, so that its variables are not this model's
        self.video_embeddings = tf.Variable(video_embeddings, trainable=False)
        self.layout = Layout(video_embeddings.shape[1] - retrieval.config.embedding_dim)
        watched = retrieval.history_embeddings(video_embeddings) if history_embeddings is None else history_embeddings
        shared = watched is video_embeddings
        self.history_embeddings = self.video_embeddings if shared else tf.Variable(watched, trainable=False)
        self.created_at = tf.constant(dataset.videos.created_at, tf.int64)
        self.warm = tf.constant(interactions.train_counts > 0)
        self.log_count = tf.constant(_standardised(np.log1p(interactions.train_counts)))
        self.user_ids = tf.keras.layers.Embedding(len(dataset.users) + 1, ID_UNITS)
        self.video_ids = tf.keras.layers.Embedding(len(dataset.videos) + 1, ID_UNITS)
        self.show_ids = RandomMask(0.3)
        self.user_columns = ColumnEmbedding(dataset.users.columns) if dataset.users.columns.names else None
        self.video_columns = ColumnEmbedding(dataset.videos.columns) if dataset.videos.columns.names else None
        is_shared_out = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.normalise = tf.keras.layers.BatchNormalization(synchronized=is_shared_out)
        self.crosses = [
            tfrs.layers.dcn.Cross(projection_dim=config.hidden_units[-1]) for _ in range(config.num_cross_layers)
        ]
        self.hidden = [tf.keras.layers.Dense(units, activation="relu") for units in config.hidden_units]
        self.dropout = Dropout(config.dropout)
        # Training starts at the order of the retrieval scores and learns what to change in it.
        self.heads = tf.keras.layers.Dense(len(self.labels), kernel_initializer="zeros")
        self.from_score = tf.keras.layers.Dense(len(self.labels), kernel_initializer="ones", use_bias=False)
        self.scale = tf.Variable(tf.ones(len(self.labels)), trainable=False)
        self.shift = tf.Variable(tf.zeros(len(self.labels)), trainable=False)

    def logits(
        self,
        query: Query,
        query_embeddings: tf.Tensor,
        events: tf.Tensor,
        candidates: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Scores candidates.

        Args:
            query: `B` requests.
            query_embeddings: float32 `[B, D]`.
            events: float32 `[B, T, D]`, candidate embeddings of the histories.
            candidates: int32 `[B, C]` row numbers, -1 padding.
            training: whether dropout is on.

        Returns:
            float32 `[B, C, num_labels]` logits, not calibrated.
        """
        shape = tf.shape(candidates)
        users, rows = tf.repeat(query.user, shape[1]), tf.maximum(tf.reshape(candidates, [-1]), 0)
        videos = tf.gather(tf.convert_to_tensor(self.video_embeddings), tf.maximum(candidates, 0))
        parts = [*self._matches(query, query_embeddings, events, videos), *self._identities(users, rows, training)]
        parts += [tf.gather(self.log_count, rows)[:, None], self._age(tf.repeat(query.timestamp, shape[1]), rows)]
        parts += [columns(ids) for columns, ids in ((self.user_columns, users), (self.video_columns, rows)) if columns]
        inputs = self.normalise(tf.concat(parts, axis=1), training=training)
        crossed = inputs
        for cross in self.crosses:
            crossed = cross(inputs, crossed)
        hidden = crossed
        for layer in self.hidden:
            hidden = layer(self.dropout(hidden, training=training))
        logits = self.heads(tf.concat([hidden, inputs], axis=1)) + self.from_score(inputs[:, :1])
        return tf.reshape(logits, [shape[0], shape[1], len(self.labels)])

    def _matches(
        self, query: Query, query_embeddings: tf.Tensor, events: tf.Tensor, videos: tf.Tensor
    ) -> list[tf.Tensor]:
        """What retrieval knows of each pair, its score first, and how near the candidate is to the history.

        Of the content block the score alone counts: warm videos, which have none, look the same with it and without.

        Returns:
            Float32 `[B * C, ...]` each.
        """
        layout = self.layout
        matches = tf.reduce_sum(layout.content(query_embeddings)[:, None, :] * layout.content(videos), axis=2)
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

    def _age(self, now: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[n, 1]`: logarithm of a video's age in days at the request, 0 where either time is unknown."""
        created = tf.gather(self.created_at, rows)
        days = tf.cast(tf.maximum(now - created, 0), tf.float32) / SECONDS_PER_DAY
        return tf.where((now > 0) & (created > 0), tf.math.log1p(days), 0.0)[:, None]

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Sum over the labels of the mean cross-entropy where the label is known."""
        logits = self._batch_logits(inputs, training)
        losses = []
        for column, name in enumerate(self.labels):
            label = inputs["labels"][name]
            known = tf.cast(label >= 0, tf.float32)
            loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.maximum(label, 0.0), logits[:, :, column])
            losses.append(mean_over_replicas(loss, known))
        return tf.add_n(losses)

    def _batch_logits(self, inputs: dict[str, Any], training: bool) -> tf.Tensor:
        query: Query = inputs["query"]
        events = tf.gather(self.video_embeddings, tf.maximum(query.history, 0))
        query_embeddings = self._retrieval().embed_queries(query, self.history_embeddings)
        return self.logits(query, query_embeddings, events, inputs["candidates"], training=training)

    def probabilities(
        self, query: Query, query_embeddings: tf.Tensor, events: tf.Tensor, candidates: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Calibrated probabilities, float32 `[B, C]` for each label of the log; arguments as `logits`."""
        logits = self.logits(query, query_embeddings, events, candidates)
        values = tf.unstack(tf.sigmoid(logits * self.scale + self.shift), axis=2)
        return dict(zip(self.labels, values, strict=True))

    def predict_events(self, batches: RankingBatches) -> dict[str, Predictions]:
        """Predicts every event of a part, by label."""
        rows = [self._predict_batch(batch) for batch in batches.in_order()]
        count = len(batches.events)

        def joined(part: int) -> NDArray[Any]:
            return np.concatenate([np.asarray(row[part]) for row in rows])[:count]

        results = {}
        for column, name in enumerate(self.labels if count else ()):
            labels = np.concatenate([np.asarray(row[3][name]) for row in rows])[:count]
            known = labels >= 0
            logits, users = joined(0)[:, :, column], np.broadcast_to(joined(2)[:, None], labels.shape)
            calibrated = logits * self.scale[column].numpy() + self.shift[column].numpy()
            probabilities = 1 / (1 + np.exp(-calibrated))
            results[name] = Predictions(
                *(values[known] for values in (labels, logits, probabilities, joined(1), users))
            )
        return results

    @tf.function(reduce_retracing=True, autograph=False)
    def _predict_batch(self, inputs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        query: Query = inputs["query"]
        events = tf.gather(self.video_embeddings, tf.maximum(query.history, 0))
        query_embeddings = self._retrieval().embed_queries(query, self.history_embeddings)
        videos = tf.gather(self.video_embeddings, inputs["candidates"])
        scores = tf.einsum("bd,bcd->bc", query_embeddings, videos)
        logits = self.logits(query, query_embeddings, events, inputs["candidates"])
        return logits, scores, query.user, inputs["labels"]

    def calibrate(self, batches: RankingBatches) -> None:
        """Fits the calibration of each label on a part that was not trained on."""
        predictions = self.predict_events(batches)
        for column, name in enumerate(self.labels):
            if name in predictions:
                scale, shift = platt_scaling(predictions[name].logits, predictions[name].labels)
                self.scale[column].assign(scale)
                self.shift[column].assign(shift)

    def mean_loss(self, batches: RankingBatches) -> float:
        """The loss over every event of a part."""
        predictions = self.predict_events(batches).values()
        # log(1 + exp(z)) - label * z, without overflow.
        return float(
            sum(np.mean(np.logaddexp(0, p.logits) - p.labels * p.logits) for p in predictions if len(p.labels))
        )


def _direction(learned: tf.Tensor) -> tf.Tensor:
    """Unit vectors of taste."""
    return tf.nn.l2_normalize(NO_BLOCK.taste(learned), -1)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)
