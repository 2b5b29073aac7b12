"""The candidate tower: videos to embeddings in the index's space."""

from __future__ import annotations

import tensorflow as tf

from tfrec.config import CandidateConfig
from tfrec.data.schema import FeatureColumns
from tfrec.features.content import ContentFeatures
from tfrec.layers.columns import ColumnEmbedding
from tfrec.layers.dropout import RandomMask
from tfrec.towers.fusion import ContentTower


class CandidateTower(tf.keras.layers.Layer):
    """Embeds videos by id, content and side columns, summed.

    The last dimension of an embedding is the video's own appeal: the query tower holds a constant there, so that the inner
    product of the two is a personal score plus a bias, and one index serves both.

    Args:
        config: of the tower.
        embedding_dim: width of the output.
        num_videos: size of the catalogue.
        content: its content features.
        columns: its side columns.
        dropout: inside the content towers.
    """

    def __init__(
        self,
        config: CandidateConfig,
        embedding_dim: int,
        num_videos: int,
        content: ContentFeatures,
        columns: FeatureColumns,
        dropout: float,
    ) -> None:
        super().__init__()
        self.ids = tf.keras.layers.Embedding(
            num_videos, embedding_dim, embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=0.05)
        )
        self.show_id = RandomMask(config.id_dropout)
        self.content = None
        if config.use_content and content:
            self.content = ContentTower(content, config.adapter_units, dropout, config.modality_dropout)
            self.from_content = tf.keras.layers.Dense(embedding_dim)
        self.columns = ColumnEmbedding(columns) if config.use_content and columns.names else None
        self.from_columns = tf.keras.layers.Dense(embedding_dim, use_bias=False)

    def call(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From int32 `[B]` row numbers to float32 `[B, embedding_dim]`."""
        shown = self.show_id(tf.stack([tf.size(videos), 1]), training=training)
        return self.ids(videos) * shown + self.embed_content(videos, training=training)

    def embed_content(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The part of the embedding that does not come from the id: float32 `[B, embedding_dim]`, or 0 without content."""
        total = tf.zeros([tf.size(videos), self.ids.output_dim])
        if self.content is not None:
            total += self.from_content(self.content(videos, training=training))
        if self.columns is not None:
            total += self.from_columns(self.columns(videos))
        return total
