"""The VAE head: an embedding for videos nobody has watched.

An encoder turns a video's content into a latent distribution; a decoder rebuilds the content from a draw of it, and a second
one turns it into an embedding in the index's space. There the latent stands in for the interactions that are missing: the
embedding is trained against the frozen queries of the users who did watch the video. Trained on warm videos, used for cold
ones only, so what is recommended of the warm catalogue is the same with the head and without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import ColdStartConfig
from tfrec.features.content import ContentFeatures
from tfrec.layers.dropout import Dropout, RandomMask
from tfrec.layers.pooling import masked_mean
from tfrec.models.base import Model
from tfrec.models.retrieval import RetrievalModel, batch_candidates

GENERATION = "generation"
"""The modality that is known before a video is rendered."""

LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -10.0, 5.0
"""Of a latent: what lies beyond is clipped."""


class Latent(NamedTuple):
    """A normal distribution per video: `mean` and `log_variance`, float32 `[B, D]`."""

    mean: tf.Tensor
    log_variance: tf.Tensor


class ColdStartModel(Model):
    """Variational autoencoder from content to the index's space.

    References:
        Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014.

    Args:
        config: of the model.
        retrieval: trained, with content in its candidate tower; it stays as it is.
        content: content features of the catalogue.
        video_embeddings: float32 `[num_videos, D]`, from `RetrievalModel.embed_catalogue`.
        steps_per_epoch: for the annealing.
    """

    def __init__(
        self,
        config: ColdStartConfig,
        retrieval: RetrievalModel,
        content: ContentFeatures,
        video_embeddings: NDArray[np.float32],
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.config = config
        self._retrieval: Callable[[], Any] = lambda: (
            retrieval
        )  # behind a function, so that its variables are not this model's
        self._targets = tf.constant(video_embeddings)
        self._watched = tf.constant(retrieval.history_embeddings(video_embeddings))
        self._widths = {name: modality.dim for name, modality in content.modalities.items()}
        dim = video_embeddings.shape[1]
        self.dropout = Dropout(config.dropout)
        self.keep_all = RandomMask(config.generation_share if GENERATION in self._widths else 0.0)
        self.encoder = tf.keras.layers.Dense(config.hidden_units, activation="gelu")
        self.moments = tf.keras.layers.Dense(2 * dim)
        self.decoder = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(config.hidden_units, activation="gelu"),
                tf.keras.layers.Dense(sum(self._widths.values())),
            ]
        )
        self.correction = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(config.hidden_units, activation="gelu"),
                tf.keras.layers.Dense(dim, kernel_initializer="zeros"),
            ]
        )
        self.prior = None
        if config.generation_prior and GENERATION in self._widths:
            # Without bias: what has no metadata keeps the standard distribution, from which all training starts.
            self.prior = tf.keras.layers.Dense(2 * dim, use_bias=False, kernel_initializer="zeros")
        self.noise = tf.random.Generator.from_seed(random.randrange(1 << 31))
        self.step = tf.Variable(0.0, trainable=False)
        self.annealing_steps = float(config.annealing_epochs * steps_per_epoch)

    def embed(
        self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor], columns: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeds videos that may be in no catalogue.

        Args:
            values: content features by modality, `[B, dim]` or `[B, T, dim]`.
            lengths: int32 `[B]` by modality, 0 = missing.
            columns: float32 `[B, width]`, their side columns, see `CandidateTower.embed_columns`; None if no video has any.

        Returns:
            Embeddings as `RetrievalModel.embed_catalogue` gives them, and the log-variance of their latents, float32
            `[B, D]` each.
        """
        inputs, base = self._inputs(values, lengths, columns)
        latent = self._encode(inputs, base)
        return base + self.correction(latent.mean), latent.log_variance

    def embed_columns(self, codes: Mapping[str, tf.Tensor], numbers: tf.Tensor | None) -> tf.Tensor | None:
        """Side columns for `embed`; arguments as `ColumnEmbedding.embed`. None where the catalogue has none."""
        columns = self._retrieval().candidate_tower.columns
        return None if columns is None else columns.embed(codes, numbers)

    def embed_videos(self, videos: NDArray[np.int64], batch_size: int = 4096) -> NDArray[np.float32]:
        """float32 `[n, D]` for row numbers of the catalogue."""
        return self.embed_rows(videos, batch_size)[0]

    def embed_rows(
        self, videos: NDArray[np.int64], batch_size: int = 4096
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `embed` returns, for row numbers of the catalogue."""
        rows = videos if len(videos) else np.zeros(1, np.int64)  # convolutions refuse empty batches
        starts = range(0, len(rows), batch_size)
        embeddings, log_variance = zip(
            *(self._embed_rows(rows[start : start + batch_size]) for start in starts), strict=True
        )
        return np.concatenate(embeddings)[: len(videos)], np.concatenate(log_variance)[: len(videos)]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
    def _embed_rows(self, videos: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tower = self._retrieval().candidate_tower
        values, lengths = tower.content.features(videos)
        return self.embed(values, lengths, tower.embed_columns(videos))

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Negative ELBO with annealed KL, the retrieval loss of the embeddings, and their distance to the tower's."""
        retrieval = self._retrieval()
        candidates, targets = batch_candidates(inputs)
        values, lengths = retrieval.candidate_tower.content.features(candidates)
        values, lengths = self._some_unrendered(values, lengths, candidates, training)
        features, base = self._inputs(values, lengths, retrieval.candidate_tower.embed_columns(candidates))
        latent = self._encode(self.dropout(features, training=training), base)
        deviation = tf.exp(0.5 * latent.log_variance)
        sample = latent.mean + deviation * self.noise.normal(tf.shape(deviation)) if training else latent.mean
        embeddings = base + self.correction(sample)
        events = tf.gather(self._watched, tf.maximum(inputs["query"].history, 0))
        queries = retrieval.query_tower(inputs["query"], events)
        interaction = retrieval.softmax_loss(queries, embeddings, candidates, targets, inputs)
        distance = tf.reduce_mean(tf.reduce_sum(tf.square(embeddings - tf.gather(self._targets, candidates)), axis=1))
        reconstruction = self._reconstruction(sample, features, lengths)
        if training:
            self.step.assign_add(1.0)
        annealing = self.config.kl_weight * tf.minimum(self.step / self.annealing_steps, 1.0)
        return (
            interaction
            + self.config.alignment_weight * distance
            + self.config.reconstruction_weight * reconstruction
            + annealing * self._divergence(latent, features)
        )

    def _divergence(self, latent: Latent, features: tf.Tensor) -> tf.Tensor:
        """KL divergence from the prior: mean over the batch, sum over the dimensions, each of which has its bits free."""
        mean, log_variance = latent
        if self.prior is not None:
            expected = self._prior(features)
            mean = (mean - expected.mean) * tf.exp(-0.5 * expected.log_variance)
            log_variance -= expected.log_variance
        kl = 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)
        if not self.config.free_bits:
            return tf.reduce_mean(tf.reduce_sum(kl, axis=1))
        return tf.reduce_sum(tf.maximum(tf.reduce_mean(kl, axis=0), self.config.free_bits))

    def _prior(self, features: tf.Tensor) -> Latent:
        """What the generation metadata among the features `[B, sum of widths]` let expect of the latents."""
        assert self.prior is not None
        parts = dict(zip(self._widths, tf.split(features, list(self._widths.values()), axis=1), strict=True))
        return _normal(self.prior(parts[GENERATION]))

    def _some_unrendered(
        self, values: dict[str, tf.Tensor], lengths: dict[str, tf.Tensor], videos: tf.Tensor, training: bool
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Leaves some videos their generation metadata alone."""
        if GENERATION not in lengths:
            return values, lengths
        rendered = tf.cast(self.keep_all(tf.shape(videos), training=training), tf.int32)
        rendered = tf.maximum(rendered, tf.cast(lengths[GENERATION] == 0, tf.int32))
        return values, {name: length if name == GENERATION else length * rendered for name, length in lengths.items()}

    def _inputs(
        self, values: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor], columns: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Standardised pooled content `[B, sum of widths]`, and the candidate tower's embedding without id `[B, D]`."""
        tower = self._retrieval().candidate_tower
        pooled = []
        for name in self._widths:
            value = tower.content.towers[name].standardise(values[name])
            if value.shape.rank == 3:
                value = masked_mean(value, tf.sequence_mask(lengths[name], tf.shape(value)[1]))
            pooled.append(value * tf.cast(lengths[name] > 0, tf.float32)[:, None])
        return tf.concat(pooled, axis=1), tower.embed_features(values, lengths, columns)

    def _encode(self, features: tf.Tensor, base: tf.Tensor) -> Latent:
        return _normal(self.moments(self.encoder(tf.concat([features, base], axis=1))))

    def _reconstruction(self, sample: tf.Tensor, features: tf.Tensor, lengths: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Mean squared error per dimension, over the modalities present."""
        present = [
            tf.repeat(tf.cast(lengths[name] > 0, tf.float32)[:, None], width, axis=1)
            for name, width in self._widths.items()
        ]
        mask = tf.concat(present, axis=1)
        error = tf.square(self.decoder(sample) - features) * mask
        return tf.math.divide_no_nan(tf.reduce_sum(error), tf.reduce_sum(mask))


def _normal(moments: tf.Tensor) -> Latent:
    """From float32 `[B, 2 * D]`."""
    mean, log_variance = tf.split(moments, 2, axis=1)
    return Latent(mean, tf.clip_by_value(log_variance, LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE))
