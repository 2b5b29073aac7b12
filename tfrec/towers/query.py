"""The query tower: who asks, and what they watched, to an embedding in the index's space."""

from __future__ import annotations

import tensorflow as tf

from tfrec.config import SEQUENCE_ENCODERS, QueryConfig
from tfrec.data.input_pipeline import Query
from tfrec.data.schema import LABELS, FeatureColumns
from tfrec.layers.acceleration import Dense, compiled, is_compiled
from tfrec.layers.attention import TimeAwareAttention
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import Dropout, RandomMask
from tfrec.layers.gathered import Gathered
from tfrec.layers.time_decay import TimeDecay
from tfrec.towers.sequence import SequenceTower


def make_query_tower(
    config: QueryConfig,
    embedding_dim: int,
    num_users: int,
    columns: FeatureColumns,
    ordered: bool,
    dropout: float,
    ensemble_size: int = 1,
) -> QueryTower | SequenceTower:
    """The tower for an encoder: one that reads events in order, or one that pools them; arguments as `QueryTower`.

    A log without times has no order to read: there, histories are averaged.
    """
    if ordered and config.encoder in SEQUENCE_ENCODERS:
        return SequenceTower(config, embedding_dim, num_users, columns, dropout)
    return QueryTower(config, embedding_dim, num_users, columns, ordered, dropout, ensemble_size)


class HistoryEncoder(tf.keras.layers.Layer):
    """Pools embedded events into one vector, by the encoder that `QueryConfig.encoder` names.

    Args:
        config: of the query tower.
        units: width of events and of the result.
        ordered: whether events have times.
    """

    def __init__(self, config: QueryConfig, units: int, ordered: bool) -> None:
        super().__init__()
        self.ordered = ordered
        self.kind = config.encoder if ordered or config.encoder == "attention" else "mean"
        if self.kind == "attention":
            self.attention = TimeAwareAttention(units, config.num_heads, config.history_length)
        elif self.kind == "decay":
            self.decay = TimeDecay(config.half_life_days)

    def call(self, events: tf.Tensor | Gathered, mask: tf.Tensor, age: tf.Tensor) -> tf.Tensor:
        """From events `[B, T, units]`, bool `[B, T]` and days `[B, T]` to `[B, units]`; zeros for an empty history."""
        events = Gathered.of(events)
        # A mean of n events, times the root of n: what is known of a user grows with the evidence.
        if self.kind == "mean":
            return events.sum_by_root(mask)
        evidence = tf.sqrt(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True))
        if self.kind == "attention":
            return self.attention(events, mask, age, self.ordered) * evidence
        return self.decay(events, mask, age) * evidence


class QueryTower(tf.keras.layers.Layer):
    """Embeds requests.

    Args:
        config: of the tower.
        embedding_dim: width of the output; the last dimension is a constant (see `CandidateTower`).
        num_users: size of the user table.
        columns: side columns of the users.
        ordered: whether events have times.
        dropout: on the joined parts.
        ensemble_size: the score is the mean over so many parts of the embedding (see `RetrievalConfig`), not their sum.
    """

    def __init__(
        self,
        config: QueryConfig,
        embedding_dim: int,
        num_users: int,
        columns: FeatureColumns,
        ordered: bool,
        dropout: float,
        ensemble_size: int = 1,
    ) -> None:
        super().__init__()
        self.ensemble_size = ensemble_size
        self.ids = None
        if config.user_ids:
            self.ids = tf.keras.layers.Embedding(num_users + 1, embedding_dim, embeddings_initializer="zeros")
            self.show_id = RandomMask(config.user_id_dropout)
        self.columns = ColumnEmbedding(columns) if columns.names and config.network else None
        self.kinds = tf.keras.layers.Embedding(1 << len(LABELS), embedding_dim) if config.event_kinds else None
        self.history = HistoryEncoder(config, embedding_dim, ordered)
        self.dropout, self.last_dropout = Dropout(dropout), Dropout(config.dropout)
        self.everybody = None
        if config.network:
            self.hidden = Dense(4 * embedding_dim, activation="gelu")
            self.out = Dense(embedding_dim - 1, kernel_initializer="zeros")
        else:
            self.everybody = self.add_weight("everybody", (embedding_dim - 1,), initializer="zeros")

    def call(self, query: Query, events: tf.Tensor | Gathered, training: bool = False) -> tf.Tensor:
        """Embeds `B` requests.

        Args:
            query: the requests.
            events: float32 `[B, T, embedding_dim]`, candidate embeddings of `query.history`, perhaps not gathered yet; padding
                is ignored.
            training: whether dropout is on.

        Returns:
            float32 `[B, embedding_dim]`.
        """
        mask = query.history >= 0
        # The last dimension, a video's appeal, is no taste of who watched it.
        events = Gathered.of(events)
        units = events.table.shape[-1]
        tastes = events.map(lambda rows: rows * (1.0 - tf.one_hot(units - 1, units)))
        if self.kinds is not None:
            tastes = Gathered.of(tastes.rows() + self.kinds(query.history_kind))
        # XLA would compile anew for every number of videos that a batch names.
        history = compiled(self.history)(
            Gathered.of(tastes.rows()) if is_compiled() else tastes, mask, query.history_age
        )
        length = tf.math.log1p(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True))
        parts, personal = [history, length], history
        if self.ids is not None:
            known = tf.cast(query.user >= 0, tf.float32)[:, None]
            user = self.ids(query.user + 1) * known * self.show_id(tf.shape(known), training=training)
            parts, personal = [*parts, user], personal + user
        if self.columns is not None:
            parts.append(self.columns(query.user))
        personal = tf.split(personal, [units - 1, 1], axis=1)[0] + self._refinement(tf.concat(parts, axis=1), training)
        personal = self.last_dropout(personal, training=training) / self.ensemble_size
        return tf.concat([personal, tf.ones_like(personal[:, :1])], axis=1)

    def _refinement(self, parts: tf.Tensor, training: bool) -> tf.Tensor:
        """What the network makes of all parts; without it, a constant: the taste of somebody without a history."""
        if self.everybody is not None:
            return self.everybody
        joined = self.hidden(self.dropout(parts, training=training))
        return self.out(self.dropout(joined, training=training))
