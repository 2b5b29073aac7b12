"""Retrieval whose content encoders are trained with the towers.

It starts from trained towers over frozen features, which is kinder to pretrained weights than to start from random towers.
In a step, all candidates (the batch's targets and its uniform negatives) go through the encoders with gradients; histories read
the features that the encoders made at the end of the last epoch. Candidates are never mixed: if negatives alone were read
from the table, an encoder could lower the loss by moving all that it encodes afresh.

References:
    Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec.config import RetrievalConfig
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.data.schema import Dataset
from tfrec.features.content import ContentFeatures
from tfrec.features.tuning import TunableEncoder
from tfrec.models.retrieval import RetrievalModel, batch_candidates
from tfrec.towers.fusion import ContentTower


class FineTunedRetrieval(RetrievalModel):
    """A retrieval model that trains encoders, with a learning rate of their own.

    Args:
        config: of the model; of the batches that it is trained with.
        dataset: as for `RetrievalModel`.
        content: features by the encoders as they are before training.
        batches: the training stream.
        encoders: by modality.
        encoder_learning_rate: of Adam for their variables.
    """

    def __init__(
        self,
        config: RetrievalConfig,
        dataset: Dataset,
        content: ContentFeatures,
        batches: RetrievalBatches,
        encoders: Mapping[str, TunableEncoder],
        encoder_learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule,
    ) -> None:
        changing = {name: replace(content.modalities[name], is_tuned=True) for name in encoders}
        super().__init__(config, dataset, replace(content, modalities={**content.modalities, **changing}), batches)
        # Behind a function, so that Keras does not take what it need not see.
        signature = [tf.TensorSpec([None], tf.int32)]
        parts = [
            (name, encoder, tf.function(encoder, signature, autograph=False)) for name, encoder in encoders.items()
        ]
        self._encoders: Callable[[], list[tuple[str, TunableEncoder, Any]]] = lambda: parts
        self.encoder_variables = [variable for encoder in encoders.values() for variable in encoder.variables]
        self.encoder_optimizer = tf.keras.optimizers.Adam(encoder_learning_rate)

    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: Any) -> dict[str, tf.Tensor]:
        """One step of both optimizers."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(inputs, training=True)
        encoders = {id(variable) for variable in self.encoder_variables}
        towers = [variable for variable in self.trainable_variables if id(variable) not in encoders]
        gradients = tape.gradient(loss, [*towers, *self.encoder_variables])
        self.optimizer.apply_gradients(zip(gradients[: len(towers)], towers, strict=True))
        self.encoder_optimizer.apply_gradients(zip(gradients[len(towers) :], self.encoder_variables, strict=True))
        return {"loss": loss}

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """As `RetrievalModel.compute_loss`, the candidates encoded afresh."""
        content = self._content
        candidates, _ = batch_candidates(inputs)
        fresh = {name: encoder(candidates) for name, encoder, _ in self._encoders()}
        content.overlay = partial(_overlay, self._places(candidates), fresh)
        try:
            return super().compute_loss(inputs, training=training)
        finally:
            content.overlay = None

    def _places(self, candidates: tf.Tensor) -> tf.Tensor:
        """int32 `[num_videos]`: the place of each video among the candidates, -1 where it is none of them."""
        nowhere = tf.fill([self.num_videos], -1)
        return tf.tensor_scatter_nd_update(nowhere, candidates[:, tf.newaxis], tf.range(tf.size(candidates)))

    @property
    def _content(self) -> ContentTower:
        assert self.candidate_tower.content is not None, "there are encoders"
        return self.candidate_tower.content

    def refresh(self) -> None:
        """Encodes the whole catalogue with the weights of now."""
        for name, encoder, encode in self._encoders():
            table = self._content.values[name]
            rows = np.flatnonzero(self._content.lengths[name]).astype(np.int32)
            for start in range(0, len(rows), encoder.batch_size):
                part = tf.constant(rows[start : start + encoder.batch_size])
                table.scatter_nd_update(part[:, tf.newaxis], tf.cast(encode(part), table.dtype))

    def tuned_content(self, content: ContentFeatures, versions: Mapping[str, str]) -> ContentFeatures:
        """Content features as the encoders make them now (see `refresh`).

        Args:
            content: before training.
            versions: of the trained encoders, by modality.
        """
        tables = self._content.values
        tuned = {name: replace(content.modalities[name], values=tables[name].numpy()) for name in versions}
        return replace(content, modalities={**content.modalities, **tuned}, encoders={**content.encoders, **versions})


def _overlay(
    places: tf.Tensor, fresh: Mapping[str, tf.Tensor], videos: tf.Tensor, stored: dict[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Features of videos: fresh where they are candidates, else as stored."""
    place = tf.gather(places, videos)
    joined = {}
    for name, values in fresh.items():
        is_fresh = tf.reshape(place >= 0, [-1] + [1] * (values.shape.rank - 1))
        joined[name] = tf.where(is_fresh, tf.gather(values, tf.maximum(place, 0)), tf.cast(stored[name], tf.float32))
    return stored | joined
