"""The query tower that reads a history in order and answers after each of its events.

The *steps* of a request are its start, where nothing has been watched yet, and then its events. The output of a step is the
embedding of a request made between its event and the next one. What it depends on lies before that moment: the user, the events
so far and the times between them, the moment of the request among them. So a model may learn from every step of a sequence
at once, and what it answers when served is the output of the last step.
"""

from __future__ import annotations

import tensorflow as tf

from tfrec.config import QueryConfig
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import LABELS, FeatureColumns
from tfrec.layers.acceleration import Dense, compiled
from tfrec.layers.attention import TimeEncoding
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import Dropout, RandomMask
from tfrec.layers.gathered import Gathered
from tfrec.layers.transformer import CausalTransformer


class SequenceTower(tf.keras.layers.Layer):
    """Embeds requests by a causal encoder: `transformer`, `gru` or `lstm`.

    Args:
        config: of the tower.
        embedding_dim: width of the output; the last dimension is a constant (see `CandidateTower`).
        num_users: size of the user table.
        columns: side columns of the users.
        dropout: on the steps and inside the encoder.
    """

    def __init__(
        self, config: QueryConfig, embedding_dim: int, num_users: int, columns: FeatureColumns, dropout: float
    ) -> None:
        super().__init__()
        self.units = embedding_dim
        self.ids = None
        if config.user_ids:
            self.ids = tf.keras.layers.Embedding(num_users + 1, embedding_dim, embeddings_initializer="zeros")
            self.show_id = RandomMask(config.user_id_dropout)
        self.columns = ColumnEmbedding(columns) if columns.names else None
        self.from_columns = tf.keras.layers.Dense(embedding_dim, use_bias=False)
        self.kinds = tf.keras.layers.Embedding(1 << len(LABELS), embedding_dim) if config.event_kinds else None
        # Videos start small too: what they have in common must not drown what tells them apart.
        self.time = TimeEncoding(embedding_dim, initializer="zeros")
        self.start = self.add_weight("start", (embedding_dim,), initializer="random_normal")
        self.dropout = Dropout(dropout)
        self.encoder = _make_encoder(config, embedding_dim, dropout)
        self.age_bias = config.age_bias

    def call(self, query: Query, events: tf.Tensor | Gathered, training: bool = False) -> tf.Tensor:
        """Embeds `B` requests.

        Args:
            query: the requests.
            events: float32 `[B, T, embedding_dim]`, candidate embeddings of `query.history`; padding is ignored.
            training: whether dropout is on.

        Returns:
            float32 `[B, embedding_dim]`.
        """
        length = tf.reduce_sum(tf.cast(query.history >= 0, tf.int32), axis=1)
        return tf.gather(self.every_step(query, events, training=training), length, batch_dims=1)

    def every_step(self, query: Query, events: tf.Tensor | Gathered, training: bool = False) -> tf.Tensor:
        """Embeds the requests that were made after each event; arguments as `call`.

        Returns:
            float32 `[B, 1 + T, embedding_dim]`: at 0 before the first event, at i after event i; padding has no meaning.
        """
        age = tf.where(query.history >= 0, query.history_age, 0.0)
        following = tf.pad(age[:, 1:], [[0, 0], [0, 1]])  # of the next event, or of the request
        steps = self._events(query, events, age - following)
        steps = tf.concat([self._start(query, training)[:, None], steps], axis=1)
        seen = {"ages": _ages(age, following)} if self.age_bias else {}
        outputs = compiled(self.encoder)(self.dropout(steps, training=training), training=training, **seen)
        return tf.concat([outputs[:, :, :-1], tf.ones_like(outputs[:, :, :1])], axis=2)

    def _start(self, query: Query, training: bool) -> tf.Tensor:
        """float32 `[B, embedding_dim]`: who asks."""
        start = self.start + tf.zeros([tf.size(query.user), 1])
        if self.ids is not None:
            known = tf.cast(query.user >= 0, tf.float32)[:, None]
            start += self.ids(query.user + 1) * known * self.show_id(tf.shape(known), training=training)
        return start if self.columns is None else start + self.from_columns(self.columns(query.user))

    def _events(self, query: Query, events: tf.Tensor | Gathered, gaps: tf.Tensor) -> tf.Tensor:
        """float32 `[B, T, embedding_dim]`: what was watched, how, and how many days before the next event or the request."""
        # The last dimension, a video's appeal, is no taste of who watched it. Tables start small, steps must not.
        is_taste = tf.concat([tf.ones([self.units - 1]), tf.zeros([1])], axis=0)
        steps = Gathered.of(events).rows() * is_taste * self.units**0.5
        if self.kinds is not None:
            steps += self.kinds(query.history_kind)
        return steps + self.time(tf.maximum(gaps, 0.0))


def _ages(age: tf.Tensor, following: tf.Tensor) -> tf.Tensor:
    """How old each step is, in days, at the moment that each step answers for: float32 `[B, 1 + T, 1 + T]`, -1 for the start.

    Args:
        age: float32 `[B, T]` of the events at the request.
        following: the same of what came next after each.
    """
    answered = tf.concat([age[:, :1], following], axis=1)
    ages = tf.maximum(age[:, None, :] - answered[:, :, None], 0.0)
    return tf.pad(ages, [[0, 0], [0, 0], [1, 0]], constant_values=-1.0)


def _make_encoder(config: QueryConfig, units: int, dropout: float) -> tf.keras.layers.Layer:
    if config.encoder == "transformer":
        return CausalTransformer(
            units,
            config.num_blocks,
            config.num_heads,
            config.hidden_units,
            config.history_length,
            dropout,
            config.age_bias,
        )
    layer = {"gru": tf.keras.layers.GRU, "lstm": tf.keras.layers.LSTM}[config.encoder]
    return tf.keras.Sequential([layer(units, return_sequences=True), Dense(units)])
