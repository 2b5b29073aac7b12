"""Two-tower retrieval."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import RetrievalConfig
from tfrec.data.input_pipeline import QUERY_SPEC, Query, RetrievalBatches
from tfrec.data.schema import Dataset
from tfrec.errors import TfrecError
from tfrec.features.content import ContentFeatures
from tfrec.layers.gathered import Gathered
from tfrec.layers.gbce import generalised_bce
from tfrec.layers.pairwise import bayesian_personalised_ranking
from tfrec.layers.sampled_softmax import inclusion_log_probability, positives_mask, softmax_cross_entropy
from tfrec.models.base import Model
from tfrec.models.linear_factors import Factors
from tfrec.models.negatives import POOL_PER_HARD_NEGATIVE, CandidateQueue, StreamingFrequency, hard_negatives
from tfrec.towers.appeal import Appeal
from tfrec.towers.candidate import CandidateTower
from tfrec.towers.graph import build_graph
from tfrec.towers.query import make_query_tower
from tfrec.towers.space import Layout, Tables, embed_query, rows_of


class Draws(NamedTuple):
    """How many draws could have brought each candidate in, besides the targets and popular negatives of the batch.

    Args:
        uniform: float32 `[C]` uniform draws; of a hard negative, those of its pool too.
        queued: float32, targets of earlier batches.
    """

    uniform: tf.Tensor
    queued: float | tf.Tensor = 0.0


class RetrievalModel(Model):
    """Query tower and candidate tower, trained to tell what a user watches next from the rest of the catalogue.

    Args:
        config: of the model.
        dataset: sizes, side columns and frequencies are taken from it.
        content: content features of the catalogue.
        batches: the training stream, whose sampling the loss corrects.

    Attributes:
        linear: factors that stand beside what the towers give, once they have been trained; None without.
    """

    def __init__(
        self, config: RetrievalConfig, dataset: Dataset, content: ContentFeatures, batches: RetrievalBatches
    ) -> None:
        super().__init__()
        self.config = config
        self.num_videos = len(dataset.videos)
        self.linear: Factors | None = None
        graph = None
        if config.candidate.graph != "none":
            graph = build_graph(config.candidate, dataset.interactions, content)
        make_tower = partial(
            CandidateTower,
            config.candidate,
            config.embedding_dim,
            self.num_videos,
            content,
            dataset.videos.columns,
            config.dropout,
            graph,
        )
        self.candidate_tower = make_tower()
        self.history_tower = make_tower() if config.candidate.separate_history else self.candidate_tower
        self.appeal = Appeal(dataset.interactions, dataset.videos.created_at, config.trends)
        self.query_tower = make_query_tower(
            config.query,
            config.embedding_dim,
            len(dataset.users),
            dataset.users.columns,
            dataset.interactions.has_time,
            config.dropout,
            config.ensemble_size,
        )
        self.num_warm = len(dataset.interactions.warm_videos)
        self.samples_negatives = batches.samples_catalogue
        corrected = config.loss == "softmax" and config.log_q_correction and self.samples_negatives
        self.frequency = tf.constant(batches.frequency, tf.float32) if corrected else None
        self.popularity = tf.constant(batches.popularity, tf.float32) if config.num_popular_negatives else None
        self.streaming, self.queue = None, None
        if corrected and config.frequency == "streaming":
            self.streaming = StreamingFrequency(batches.frequency, batches.batch_size)
        if config.queue_size and self.samples_negatives:
            self.queue = CandidateQueue(config.queue_size, config.embedding_dim, self.num_videos)
        strategy = tf.distribute.get_strategy()
        is_shared_out = strategy.num_replicas_in_sync > 1 or isinstance(strategy, tf.distribute.ParameterServerStrategy)
        if is_shared_out and (self.queue or self.streaming or config.num_hard_negatives):
            raise TfrecError(
                "`retrieval.queue_size`, `num_hard_negatives` and `frequency: streaming` are for one device: replicas would "
                "each have negatives of their own. Leave them off, or train with `distribution.strategy: one_device`."
            )
        if config.loss == "gbce":
            # Appeal starts at the logarithm of counts; less that of all events, it is the logit of a video's share.
            share = -math.log(max(int(dataset.interactions.train_counts.sum()), 1))
            self.base_rate = tf.Variable(share, dtype=tf.float32, name="base_rate")

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Mean loss of the targets of one batch of `RetrievalBatches`, with weight penalty and alignment."""
        query: Query = inputs["query"]
        candidates, targets = batch_candidates(inputs)
        embeddings, events = self._embed_batch(candidates, query.history, training)
        queries = self.query_tower(query, events, training=training)
        draws = Draws(tf.fill(tf.shape(candidates), float(self.config.num_uniform_negatives)))
        if "pool" in inputs and self.config.num_hard_negatives:
            hard = self._hard_negatives(tf.stop_gradient(queries), candidates, inputs)
            size = float(self.config.num_uniform_negatives + POOL_PER_HARD_NEGATIVE * self.config.num_hard_negatives)
            draws = Draws(tf.concat([draws.uniform, tf.fill(tf.shape(hard), size)], axis=0))
            candidates = tf.concat([candidates, hard], axis=0)
            embeddings = tf.concat([embeddings, self.candidate_tower(hard, training=training)], axis=0)
        if self.queue is not None:
            candidates, embeddings, draws = self._with_queue(candidates, embeddings, targets, draws, training)
        if self.streaming is not None and training:
            self.streaming.update(inputs["video"])
        loss = self.softmax_loss(queries, embeddings, candidates, targets, inputs, draws)
        return loss + self._weight_penalty() + self._alignment(inputs["video"], training)

    def _hard_negatives(self, queries: tf.Tensor, candidates: tf.Tensor, inputs: dict[str, Any]) -> tf.Tensor:
        """int32 `[H]` distinct videos of the batch's pool that are no candidates."""

        def score(videos: tf.Tensor) -> tf.Tensor:
            scores = tf.matmul(queries, self.candidate_tower(videos), transpose_b=True)
            return (scores + self.appeal(inputs["query"].timestamp, videos)) / self.config.temperature

        count = self.config.num_hard_negatives
        return hard_negatives(queries, inputs["pool"], score, candidates, inputs["positives"], count, self.num_videos)

    def _with_queue(
        self, candidates: tf.Tensor, embeddings: tf.Tensor, targets: tf.Tensor, draws: Draws, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, Draws]:
        """The candidates with those of the queue behind, into which training then puts the targets."""
        assert self.queue is not None
        queued, stale = self.queue.beside(candidates)
        uniform = tf.fill(tf.shape(queued), float(self.config.num_uniform_negatives))
        draws = Draws(tf.concat([draws.uniform, uniform], axis=0), self.queue.filled)
        if training:
            self.queue.push(tf.gather(candidates, targets), tf.gather(embeddings, targets))
        return tf.concat([candidates, queued], axis=0), tf.concat([embeddings, stale], axis=0), draws

    def _log_inclusion(self, candidates: tf.Tensor, num_targets: tf.Tensor, draws: Draws | None) -> tf.Tensor:
        """float32 `[C]`: log of the probability of each candidate to be one, by whichever way."""
        assert self.frequency is not None
        uniform = float(self.config.num_uniform_negatives) if draws is None else draws.uniform
        queued = 0.0 if draws is None else draws.queued
        missed: tf.Tensor | float = 0.0
        if self.popularity is not None:
            chance = tf.gather(self.popularity, candidates)
            missed = self.config.num_popular_negatives * tf.math.log1p(-tf.minimum(chance, 1 - 1e-6))
        frequency, targets = tf.gather(self.frequency, candidates), num_targets + queued
        if self.streaming is not None:  # counts in batches of retrieval; those of the cold-start head have another size
            frequency, targets = tf.gather(self.streaming.in_batch, candidates), targets / self.streaming.batch_size
        return inclusion_log_probability(frequency, targets, uniform, self.num_warm, missed)

    def _embed_batch(self, candidates: tf.Tensor, history: tf.Tensor, training: bool) -> tuple[tf.Tensor, Gathered]:
        """Embeddings of int32 `[C]` candidates and of the videos in `[B, T]` histories, each embedded once."""
        if self.history_tower is not self.candidate_tower:
            videos, places = tf.unique(tf.reshape(history, [-1]))
            watched = self.history_tower(tf.maximum(videos, 0), training=training)
            embeddings = self.candidate_tower(candidates, training=training)
            return embeddings, Gathered(watched, tf.reshape(places, tf.shape(history)))
        videos, places = tf.unique(tf.concat([candidates, tf.reshape(history, [-1])], axis=0))
        embeddings = self.candidate_tower(tf.maximum(videos, 0), training=training)
        num_candidates = tf.size(candidates)
        events = Gathered(embeddings, tf.reshape(places[num_candidates:], tf.shape(history)))
        return tf.split(embeddings, [num_candidates, -1])[0], events  # the gradient of a slice would take longer

    def softmax_loss(
        self,
        queries: tf.Tensor,
        embeddings: tf.Tensor,
        candidates: tf.Tensor,
        targets: tf.Tensor,
        inputs: dict[str, Any],
        draws: Draws | None = None,
    ) -> tf.Tensor:
        """Mean loss of the targets among the candidates, corrected and masked; with an ensemble, the mean over it.

        Args:
            queries: float32 `[B, D]`.
            embeddings: float32 `[C, D]` of the candidates.
            candidates: int32 `[C]`, distinct row numbers.
            targets: int32 `[B]`, places in `candidates`.
            inputs: the batch: the times of the queries, and what each user watched besides.
            draws: how the candidates came, where not from the batch alone.
        """
        log_inclusion, mask = None, None
        if self.frequency is not None:
            num_targets = tf.cast(tf.size(inputs["video"]), tf.float32)
            log_inclusion = self._log_inclusion(candidates, num_targets, draws)
        if self.config.mask_positives:
            mask = positives_mask(candidates, inputs["positives"], targets, self.num_videos)
        appeal = self.appeal(inputs["query"].timestamp, candidates)
        members = self.member_logits(queries, embeddings, appeal, log_inclusion, mask)
        losses = [tf.reduce_mean(self.target_losses(member, targets, tf.size(candidates))) for member in members]
        return tf.add_n(losses) / len(losses)

    def target_losses(self, logits: tf.Tensor, targets: tf.Tensor, num_candidates: tf.Tensor) -> tf.Tensor:
        """float32 `[B]`: the configured loss of each target, int32 `[B]` places among float32 `[B, C]` logits.

        Args:
            logits: corrected and masked.
            targets: places of the positives.
            num_candidates: distinct candidates, of all of which one is the target.
        """
        if self.config.loss == "softmax":
            return softmax_cross_entropy(targets, logits)
        if self.config.loss == "bpr":
            return bayesian_personalised_ranking(targets, logits)
        rate = tf.cast(num_candidates - 1, tf.float32) / max(self.num_warm - 1, 1)
        logits += self.base_rate  # else the scores themselves would have to sink, popular videos' most
        return generalised_bce(logits, targets, tf.minimum(rate, 1.0), self.config.gbce_calibration)

    def member_logits(
        self,
        queries: tf.Tensor,
        embeddings: tf.Tensor,
        appeal: tf.Tensor,
        log_inclusion: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """float32 `[B, C]` of each member of the ensemble: what its part of the embedding alone makes of the logits.

        What belongs to a candidate alone goes into the last dimension of its embedding, where queries hold a 1, and the
        temperature into the queries: a pass over `[B, C]` takes as long as a fifth of the product that makes it.

        Args:
            queries: float32 `[B, D]`.
            embeddings: float32 `[C, D]` of the candidates.
            appeal: float32 `[B, C]`, or `[1, C]` where it is that of all requests.
            log_inclusion: float32 `[C]`, the correction of sampled candidates.
            mask: float32 `[B, C]`, added last.
        """
        size, temperature = self.config.ensemble_size, self.config.temperature
        *asked, one = _parts(queries, size)
        *offered, own = _parts(embeddings, size)
        added = [] if mask is None else [mask]
        if log_inclusion is not None:
            own -= temperature * log_inclusion[:, None]
        if appeal.shape[0] == 1:
            own += tf.transpose(appeal)
        else:
            added.append(appeal / temperature)
        members = []
        for taste, of_candidates in zip(asked, offered, strict=True):
            scaled = tf.concat([size * taste, one], axis=1) / temperature
            scores = tf.matmul(scaled, tf.concat([of_candidates, own], axis=1), transpose_b=True)
            members.append(tf.add_n([scores, *added]))
        return members

    def _alignment(self, videos: tf.Tensor, training: bool) -> tf.Tensor | float:
        """The weighted alignment loss of the modalities of the batch's targets, 0 without it."""
        weight, content = self.config.candidate.alignment_weight, self.candidate_tower.content
        if not weight or content is None:
            return 0.0
        return weight * content.alignment_loss(tf.unique(videos)[0], training=training)

    def _weight_penalty(self) -> tf.Tensor | float:
        if not self.config.weight_decay:
            return 0.0  # a penalty of weight 0 would still give every table a dense gradient
        tables = {id(tower.ids): tower.ids for tower in (self.candidate_tower, self.history_tower, self.query_tower)}
        pieces = [piece for table in tables.values() if table is not None for piece in table.trainable_weights]
        norm = tf.add_n([tf.nn.l2_loss(piece) for piece in pieces])  # of a table on parameter servers, there
        return self.config.weight_decay * norm

    def embed_catalogue(self, batch_size: int = 4096) -> NDArray[np.float32]:
        """The embedding of every video but for what changes with time: float32 `[num_videos, embedding_dim]`."""
        return self._embed_all(self._embed_candidates, batch_size)

    def history_embeddings(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings of the catalogue for `embed_queries`: those given, unless histories have a tower of their own.

        Args:
            embeddings: float32 `[num_videos, embedding_dim]` of the candidates.
        """
        if self.history_tower is self.candidate_tower:
            return embeddings
        return self._embed_all(self._embed_watched)

    def tables(self, embeddings: NDArray[np.float32]) -> Tables:
        """Candidates, and what queries are embedded with; argument as of `history_embeddings`."""
        tables = Tables(embeddings, self.history_embeddings(embeddings))
        return tables if self.linear is None else tables.with_block(self.linear.offered, self.linear.watched)

    def _embed_all(self, embed: Callable[[tf.Tensor], tf.Tensor], batch_size: int = 4096) -> NDArray[np.float32]:
        if self.config.candidate.graph != "none":
            batch_size = self.num_videos  # a graph embeds all at once anyway
        starts = range(0, self.num_videos, batch_size)
        return np.concatenate([embed(tf.range(start, min(start + batch_size, self.num_videos))) for start in starts])

    def publish(self, embeddings: NDArray[np.float32], now: int) -> NDArray[np.float32]:
        """Candidate embeddings for an index: those of `embed_catalogue` with their appeal at a time.

        Args:
            embeddings: float32 `[num_videos, embedding_dim]`.
            now: Unix seconds after the training part; any number where the log has no times.

        Returns:
            float32 `[num_videos, embedding_dim]`.
        """
        published = embeddings.copy()
        published[:, -1] += np.asarray(self.appeal.published(tf.range(self.num_videos), now))
        return published

    @tf.function(reduce_retracing=True, autograph=False)
    def _embed_candidates(self, videos: tf.Tensor) -> tf.Tensor:
        return self.candidate_tower(videos)

    @tf.function(reduce_retracing=True, autograph=False)
    def _embed_watched(self, videos: tf.Tensor) -> tf.Tensor:
        return self.history_tower(videos)

    def embed_queries(self, query: Query, history_embeddings: tf.Tensor) -> tf.Tensor:
        """float32 `[B, D]`.

        Args:
            query: the requests.
            history_embeddings: float32 `[num_videos, D]`, see the method of that name; wider by a block, where `Tables.history`
                has one.
        """
        layout = Layout(int(history_embeddings.shape[1]) - self.config.embedding_dim)
        return embed_query(self._ask, query, rows_of(history_embeddings, tf.maximum(query.history, 0)), layout)

    # Traced once for all shapes, with a block and without: TensorFlow orders sums by what it knows of shapes.
    @tf.function(input_signature=[QUERY_SPEC, tf.TensorSpec([None, None, None], tf.float32)], autograph=False)
    def _ask(self, query: Query, events: tf.Tensor) -> tf.Tensor:
        return self.query_tower(query, tf.ensure_shape(events, [None, None, self.config.embedding_dim]))


def batch_candidates(inputs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """The distinct candidates of a batch of `RetrievalBatches`, int32 `[C]`, and the places of its targets, int32 `[B]`.

    Of a share, the candidates are those of the whole batch, and the targets those of its own rows.
    """
    candidates, places = tf.unique(tf.concat([inputs["video"], inputs["negatives"]], axis=0))
    targets = places[: tf.size(inputs["video"])]
    return candidates, tf.gather(targets, inputs["rows"]) if "rows" in inputs else targets


def _parts(table: tf.Tensor, ensemble_size: int) -> list[tf.Tensor]:
    """float32 `[B, D]` in the tastes of the members, of equal width, and the last column."""
    width = (table.shape[1] - 1) // ensemble_size
    return tf.split(table, [width] * ensemble_size + [1], axis=1)
