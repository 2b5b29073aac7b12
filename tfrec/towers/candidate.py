"""The candidate tower: videos to embeddings in the index's space."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tfrec.config import CandidateConfig
from tfrec.data.schema import FeatureColumns
from tfrec.features.content import ContentFeatures
from tfrec.layers.acceleration import Dense
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import RandomMask
from tfrec.layers.graph import GraphSmoothing, VideoGraph
from tfrec.towers.fusion import ContentTower


def _near_zero() -> tf.keras.initializers.Initializer:
    """Embeddings start so small that the popularity ranking comes first."""
    return tf.keras.initializers.RandomNormal(stddev=0.01)


class CandidateTower(tf.keras.layers.Layer):
    """Embeds videos by id, content and side columns, summed.

    The last dimension of an embedding is the video's own appeal: the query tower holds a constant there, so that the inner
    product of the two is a personal score plus a bias, and one index serves both.
    What of it changes with time is `Appeal`'s.

    Args:
        config: of the tower.
        embedding_dim: width of the output.
        num_videos: size of the catalogue.
        content: its content features.
        columns: its side columns.
        dropout: inside the content towers.
        graph: where `config.graph` wants one.
    """

    def __init__(
        self,
        config: CandidateConfig,
        embedding_dim: int,
        num_videos: int,
        content: ContentFeatures,
        columns: FeatureColumns,
        dropout: float,
        graph: VideoGraph | None = None,
    ) -> None:
        super().__init__()
        self.ids = tf.keras.layers.Embedding(num_videos, embedding_dim - 1, embeddings_initializer=_near_zero())
        self.smoothing = None
        if graph is not None:
            self.smoothing = GraphSmoothing(graph, config.graph_layers, config.graph_content_weight)
            self.ids.build(None)  # its whole table is read, not looked up in
        self.appeal = tf.keras.layers.Embedding(num_videos, 1, embeddings_initializer="zeros")
        self.show_id = RandomMask(config.id_dropout)
        self.content = None
        if config.use_content and content:
            self.content = ContentTower(content, config, dropout, graph if config.graph == "mmgcn" else None)
            self.from_content = Dense(embedding_dim, kernel_initializer=_near_zero())
        self.columns = ColumnEmbedding(columns) if config.use_content and columns.names else None
        self.from_columns = tf.keras.layers.Dense(embedding_dim, use_bias=False, kernel_initializer=_near_zero())

    def call(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From int32 `[B]` row numbers to float32 `[B, embedding_dim]`."""
        by_id = tf.concat([self._tastes(videos), self.appeal(videos)], axis=1)
        if training and self.show_id.rate:
            by_id *= self.show_id(tf.stack([tf.size(videos), 1]), training=True)
        if self.content is None and self.columns is None:
            return by_id
        return by_id + self.embed_content(videos, training=training)

    def _tastes(self, videos: tf.Tensor) -> tf.Tensor:
        if self.smoothing is None:
            return self.ids(videos)
        return tf.gather(self.smoothing(self.ids.embeddings), videos)

    def embed_content(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The part of the embedding that does not come from the id: float32 `[B, embedding_dim]`, 0 without content."""
        content = None if self.content is None else self.content(videos, training=training)
        return tf.zeros([tf.size(videos), 1]) + self._without_id(content, self.embed_columns(videos))

    def embed_columns(self, videos: tf.Tensor) -> tf.Tensor | None:
        """Side columns of rows of the catalogue, float32 `[B, width]`; None where it has none."""
        return None if self.columns is None else self.columns(videos)

    def embed_features(
        self,
        values: Mapping[str, tf.Tensor],
        lengths: Mapping[str, tf.Tensor],
        columns: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """The same from features, for videos that are in no catalogue yet.

        Args:
            values: content features by modality, as `ContentTower.embed` takes them.
            lengths: int32 `[B]` by modality, 0 = missing.
            columns: float32 `[B, width]` side columns as `ColumnEmbedding` gives them; None if no video has any.
            training: whether dropout is on.
        """
        content = None if self.content is None else self.content.embed(values, lengths, training=training)
        return self._without_id(content, columns)

    def _without_id(self, content: tf.Tensor | None, columns: tf.Tensor | None) -> tf.Tensor:
        total = tf.zeros([1, self.ids.output_dim + 1])
        if content is not None:
            total += self.from_content(content)
        if self.columns is not None:
            total += self.from_columns(self.columns.missing() if columns is None else columns)
        return total
