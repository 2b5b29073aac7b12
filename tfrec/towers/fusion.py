"""Masked fusion: one vector from the modalities that a video has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from tfrec.config import CandidateConfig
from tfrec.features.content import ContentFeatures, Modality
from tfrec.layers.alignment import alignment_loss
from tfrec.layers.dropout import RandomMask
from tfrec.layers.fusion import Output, make_fusion
from tfrec.layers.graph import GraphConvolution, VideoGraph
from tfrec.towers.modality import make_tower


class ContentTower(tf.keras.layers.Layer):
    """All modalities of given videos through their towers, joined by the fusion of `layers/fusion.py` that is configured.

    Args:
        content: features of the whole catalogue, kept as constants, or as variables where their encoder is trained.
        config: width, fusion and modality dropout.
        dropout: in training, inside the modalities' towers.
        graph: that each modality is propagated over, if any; videos that are in no catalogue yet have no neighbours.
    """

    def __init__(
        self, content: ContentFeatures, config: CandidateConfig, dropout: float, graph: VideoGraph | None = None
    ) -> None:
        super().__init__()
        units = config.adapter_units
        self.names = tuple(content.modalities)
        self.values = {name: _table(name, modality) for name, modality in content.modalities.items()}
        self.overlay: Callable[[tf.Tensor, dict[str, tf.Tensor]], dict[str, tf.Tensor]] | None = None
        """From videos and their stored features to the latter with what an encoder in training makes of some of them."""
        self.lengths = {name: tf.constant(modality.lengths) for name, modality in content.modalities.items()}
        self.towers = {
            name: make_tower(name, modality, config, dropout) for name, modality in content.modalities.items()
        }
        self.convolutions: dict[str, GraphConvolution] = {}
        if graph is not None:
            self.convolutions = {name: GraphConvolution(graph, config.graph_layers, units) for name in self.names}
        self.fusion = make_fusion(config.fusion, self.names, units)
        self.hide = RandomMask(config.modality_dropout)

    def call(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From int32 `[B]` row numbers to `[B, units]`, zeros for a video without any modality."""
        if not self.convolutions:
            return self.embed(*self.features(videos), training=training)
        return self.fusion.fuse(self._propagated(videos, training))

    def features(self, videos: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Values and lengths by modality, as `embed` takes them, of int32 `[B]` row numbers."""
        values = {name: tf.gather(table, videos) for name, table in self.values.items()}
        lengths = {name: tf.gather(table, videos) for name, table in self.lengths.items()}
        return self.overlay(videos, values) if self.overlay else values, lengths

    def embed(
        self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """The same from features, for videos that are in no catalogue yet.

        Args:
            values: `[B, dim]` or `[B, T, dim]` by modality.
            lengths: int32 `[B]` by modality, 0 = missing.
            training: whether dropout is on.
        """
        return self.fusion.fuse(self._outputs(values, lengths, training))

    def alignment_loss(self, videos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """How far the modalities of the same video are apart: scalar, of int32 `[B]` distinct row numbers."""
        return alignment_loss(list(self._outputs(*self.features(videos), training)))

    def _outputs(
        self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor], training: bool
    ) -> Iterator[Output]:
        for name in self.names:
            output = self.towers[name](values[name], lengths[name], training=training)
            present = tf.cast(lengths[name] > 0, tf.float32)[:, None]
            yield output, present * self.hide(tf.shape(present), training=training)

    def _propagated(self, videos: tf.Tensor, training: bool) -> Iterator[Output]:
        """Outputs of the whole catalogue, after their way through the graph, of which those of `videos` are kept."""
        catalogue = tf.range(len(self.lengths[self.names[0]]))
        outputs = self._outputs(*self.features(catalogue), training)
        for name, (output, present) in zip(self.names, outputs, strict=True):
            yield tf.gather(self.convolutions[name](output * present), videos), tf.gather(present, videos)


def _table(name: str, modality: Modality) -> tf.Tensor | tf.Variable:
    if modality.is_tuned:
        return tf.Variable(modality.values, trainable=False, name=f"{name}_features")
    return tf.constant(modality.values)
