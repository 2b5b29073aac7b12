"""The `recommender` SavedModel: from a request to a slate in one call.

The stages of `recommend`, each a method: parse -> embed -> retrieve, without what may not be shown -> score -> slate -> reasons.
Everything is TensorFlow ops; the export holds variables, tables and functions, and no Keras object.

Terms. *Candidates* are the videos retrieved for a request and ranked; a *slate* is what is shown of them, in `k` *slots*. The
*taste* of a video is the part of its embedding that is neither content nor its appeal to everybody (see `towers/space.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import ExportConfig
from tfrec.data.input_pipeline import Query, days_between
from tfrec.data.schema import LABELS
from tfrec.export.candidates import Candidates, Retriever, best
from tfrec.export.filters import Filters, Safety
from tfrec.export.log_requests import Inputs, tensors
from tfrec.export.request import (
    CHOICE_SPECS,
    FILTER_SPECS,
    QUERY_SPECS,
    RawFilters,
    RawRequest,
    Request,
    RequestParser,
    VideoIds,
    or_default,
)
from tfrec.export.slate import Likeness, Slate, SlotFiller
from tfrec.export.text_search import TextSearch
from tfrec.index.base import Index
from tfrec.towers.space import NO_BLOCK, Layout, embed_query

Outputs = dict[str, tf.Tensor]

WEIGHTED = (*LABELS, "freshness")
"""What the final score weighs, in the order of the input `weights`."""

LARGEST_WEIGHT = 1e6
"""A larger weight in a request counts as this, so that scores stay finite."""

POPULAR, NEW = "popular", "new"
"""Reasons where no video of the history argues for a candidate."""


class Ranker(Protocol):
    """What is asked of a ranker of `tfrec/models`."""

    @property
    def variables(self) -> list[tf.Variable]:
        """Its weights."""

    def probabilities(
        self, query: Query, query_embeddings: tf.Tensor, events: tf.Tensor, candidates: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """float32 `[B, C]` for each label that the log has."""


@dataclass(frozen=True)
class ServingModel:
    """What is exported.

    Args:
        user_ids: object (str) `[num_users]`.
        video_ids: object (str) `[num_videos]`.
        query_tower: embeds requests.
        video_embeddings: float32 variable `[num_videos, D]`; that of the ranking model, so that it is stored once.
        is_cold: bool `[num_videos]`: nobody has watched it in training.
        ranking: predicts click, finish and like.
        history_embeddings: the same for the videos of histories, as the query tower takes them; mostly the same variable.
        index: over `video_embeddings`.
        history_length: most recent events that the query tower takes.
        log_end: Unix seconds of the last event in the log, 0 where it has no times.
        temperature: of the retrieval softmax.
        config: slots, candidates and weights.
        text_search: where the catalogue has texts.
        safety: float32 `[num_videos]` as in `Catalog`; None: every video may be shown.
        content_directions: float16 `[num_videos, d]` by which near-duplicates are known; None: by the embeddings.
        created_at: int64 `[num_videos]` Unix seconds, 0 where unknown; None: no video has a time.
        layout: of the embeddings.
        cold_weight: what the tastes of cold videos were multiplied with, above 0.
    """

    user_ids: NDArray[np.object_]
    video_ids: NDArray[np.object_]
    query_tower: tf.keras.layers.Layer
    video_embeddings: tf.Variable
    history_embeddings: tf.Variable
    is_cold: NDArray[np.bool_]
    ranking: Ranker
    index: Index
    history_length: int
    log_end: int
    temperature: float
    config: ExportConfig
    text_search: TextSearch | None = None
    safety: NDArray[np.float32] | None = None
    created_at: NDArray[np.int64] | None = None
    content_directions: NDArray[np.float16] | None = None
    layout: Layout = NO_BLOCK
    cold_weight: float = 1.0


class Embedded(NamedTuple):
    """A request in the index's space.

    Args:
        request: it.
        events: float32 `[B, T, D]`, embeddings of its history.
        embeddings: float32 `[B, D]`.
    """

    request: Request
    events: tf.Tensor
    embeddings: tf.Tensor


class Recommender:
    """The exported functions.

    Args:
        model: what they are made of.
    """

    def __init__(self, model: ServingModel) -> None:
        self._model = model
        self._num_videos = len(model.video_ids)
        self._num_candidates = min(model.config.num_candidates, self._num_videos)
        self._ids = VideoIds(model.video_ids)
        config = model.config
        self._parser = RequestParser(model.user_ids, self._ids, model.history_length, model.log_end, config.min_safety)
        self._safety = Safety(model.safety, self._num_videos)
        self._retriever = Retriever(model.index, model.video_embeddings, self._safety, self._num_candidates)
        self._weights = [getattr(config, f"{name}_weight") for name in WEIGHTED]
        self._created_at = None
        if model.created_at is not None:
            self._created_at = tf.Variable(model.created_at, trainable=False, name="created_at")
        self._is_cold = tf.Variable(model.is_cold, trainable=False, name="is_cold")
        self._mean_taste = tf.reduce_mean(self._taste(tf.range(self._num_videos)), axis=0)
        self._slots = SlotFiller(Likeness(self._likeness_directions()), config.max_k, config.max_similarity)
        self.functions: Mapping[str, tf.types.experimental.ConcreteFunction] = self._trace()

    def call(self, signature: str, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Answers a request in this process.

        Args:
            signature: name of the signature.
            inputs: its inputs by name.

        Returns:
            Its outputs by name.
        """
        function, values = self.functions[signature], tensors(inputs)
        arguments = [values[spec.name] for spec in function.structured_input_signature[0]]
        return {name: output.numpy() for name, output in function(*arguments).items()}

    def _trace(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """One function per signature; the order of its arguments is that of the specs."""
        candidate = tf.TensorSpec([None, None], tf.string, "candidate")
        video = tf.TensorSpec([None], tf.string, "video_id")
        signatures: dict[str, tuple[Callable[..., Outputs], tuple[tf.TensorSpec, ...]]] = {
            "recommend": (self._recommend, QUERY_SPECS),
            "recommend_filtered": (self._recommend_filtered, (*QUERY_SPECS, *FILTER_SPECS, *CHOICE_SPECS)),
            "retrieve": (self._retrieve, QUERY_SPECS),
            "retrieve_filtered": (self._retrieve_filtered, (*QUERY_SPECS, *FILTER_SPECS)),
            "rank": (self._rank, (*QUERY_SPECS, candidate)),
            "embed_user": (self._embed_user, QUERY_SPECS),
            "embed_candidate": (self._embed_candidate, (video,)),
            "similar_videos": (self._similar_videos, (video,)),
        }
        if self._model.text_search is not None:
            signatures["search"] = (self._search, (tf.TensorSpec([None], tf.string, "query"),))
        traced = {
            name: tf.function(call, specs, autograph=False).get_concrete_function()
            for name, (call, specs) in signatures.items()
        }
        return {"serving_default": traced["recommend"], **traced}

    def _recommend(self, *inputs: tf.Tensor) -> Outputs:
        embedded = self._embed(RawRequest(*inputs))
        diversity = tf.fill(tf.shape(embedded.request.k), self._model.config.diversity)
        return self._slate(embedded, tf.constant([self._weights]), diversity)

    def _recommend_filtered(self, *inputs: tf.Tensor) -> Outputs:
        *asked, weights, diversity = inputs
        embedded = self._embed(RawRequest(*asked[: len(QUERY_SPECS)]), RawFilters(*asked[len(QUERY_SPECS) :]))
        weights = or_default(tf.minimum(weights, LARGEST_WEIGHT), self._weights)
        return self._slate(embedded, weights, or_default(tf.minimum(diversity, 1.0), self._model.config.diversity))

    def _slate(self, embedded: Embedded, weights: tf.Tensor, diversity: tf.Tensor) -> Outputs:
        """The outputs of `recommend`, with weights float32 `[B or 1, 4]` and diversity float32 `[B]`."""
        candidates = self._nearest(embedded)
        scores = self._score(embedded, candidates, weights)
        slate = self._slots.fill(candidates.rows, scores["score"], embedded.request.k, diversity)
        outputs = {name: _in_slots(slate, values) for name, values in scores.items()}
        return {
            "video_id": self._ids.strings(slate.rows),
            **outputs,
            "reason": self._reasons(embedded, slate.rows),
            "is_cold": self._cold(slate.rows),
        }

    def _retrieve(self, *inputs: tf.Tensor) -> Outputs:
        return self._found(self._nearest(self._embed(RawRequest(*inputs))))

    def _retrieve_filtered(self, *inputs: tf.Tensor) -> Outputs:
        asked, filters = inputs[: len(QUERY_SPECS)], inputs[len(QUERY_SPECS) :]
        return self._found(self._nearest(self._embed(RawRequest(*asked), RawFilters(*filters))))

    def _rank(self, *inputs: tf.Tensor) -> Outputs:
        """What a list is worth, whatever of it may be shown."""
        embedded = self._embed(RawRequest(*inputs[:-1]))
        rows = self._ids.rows(inputs[-1])
        products = tf.squeeze(tf.matmul(self._embeddings_of(rows), embedded.embeddings[:, :, None]), 2)
        candidates = Candidates(rows, tf.where(rows >= 0, products, -np.inf))
        return self._score(embedded, candidates, tf.constant([self._weights]))

    def _embed_user(self, *inputs: tf.Tensor) -> Outputs:
        return {"embedding": self._embed(RawRequest(*inputs)).embeddings}

    def _embed_candidate(self, video_id: tf.Tensor) -> Outputs:
        """What the index holds of the videos; zeros for one that it does not know."""
        rows = self._ids.rows(video_id)
        return {"embedding": tf.where(rows[:, None] >= 0, self._embeddings_of(rows), 0.0)}

    def _similar_videos(self, video_id: tf.Tensor) -> Outputs:
        """The most alike in taste, by cosine, among those with the largest inner product."""
        row = self._ids.rows(video_id)[:, None]
        taste = self._tastes(row)
        query = tf.pad(taste[:, 0], [[0, 0], [self._model.layout.block_dim, 1]])  # nor does appeal make a video alike
        found = self._retriever.nearest(query, self._default_filters(row), tf.zeros_like(row[:, 0])).rows
        cosine = tf.squeeze(tf.matmul(taste, self._tastes(found), transpose_b=True), 1)
        return self._found(best(found, tf.where((row >= 0) & (found >= 0), cosine, -np.inf), self._model.config.max_k))

    def _search(self, query: tf.Tensor) -> Outputs:
        assert self._model.text_search is not None
        cosine = self._model.text_search.scores(query)
        filters = self._default_filters(tf.fill([tf.shape(query)[0], 1], -1))
        return self._found(best(None, self._safety.without_hidden(cosine, filters), self._model.config.max_k))

    def _default_filters(self, forbidden: tf.Tensor) -> Filters:
        return Filters(forbidden, tf.fill(tf.shape(forbidden)[:1], self._model.config.min_safety))

    def _embed(self, raw: RawRequest, filters: RawFilters | None = None) -> Embedded:
        request = self._parser.parse(raw, filters)
        watched = tf.gather(tf.convert_to_tensor(self._model.history_embeddings), tf.maximum(request.query.history, 0))
        events = self._embeddings_of(request.query.history)
        return Embedded(
            request, events, embed_query(self._model.query_tower, request.query, watched, self._model.layout)
        )

    def _nearest(self, embedded: Embedded) -> Candidates:
        request = embedded.request
        k = tf.minimum(request.k, self._model.config.max_k)
        return self._retriever.nearest(embedded.embeddings, request.filters, k, request.allow)

    def _embeddings_of(self, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[..., D]`; those of row 0 for padding."""
        # From the tensor that is read: once a variable itself was gathered from, every read of it is a copy.
        return tf.gather(tf.convert_to_tensor(self._model.video_embeddings), tf.maximum(rows, 0))

    def _score(self, embedded: Embedded, candidates: Candidates, weights: tf.Tensor) -> Outputs:
        """`score` and the probability of each of `LABELS`, float32 `[B, C]`, 0 for padding."""
        present = candidates.rows >= 0
        request, events, embeddings = embedded
        predicted = self._model.ranking.probabilities(request.query, embeddings, events, candidates.rows)
        if self._created_at is not None:
            predicted["freshness"] = self._freshness(request.query.timestamp, candidates.rows)
        parts = {name: tf.where(present, values, 0.0) for name, values in predicted.items()}
        weight_of = dict(zip(WEIGHTED, tf.unstack(weights[:, :, None], axis=1), strict=True))
        worth = tf.add_n([weight_of[name] * values for name, values in parts.items()])
        # Where the optimiser of a server cannot tell the rank of what a softmax takes, it logs a long complaint at each load.
        logits = tf.ensure_shape(candidates.scores, [None, None]) / self._model.temperature
        share = tf.where(present, tf.nn.softmax(logits), 0.0)
        score = worth * share**self._model.config.retrieval_exponent
        missing = tf.zeros_like(score)
        return {"score": score, **{name: parts.get(name, missing) for name in LABELS}}

    def _freshness(self, now: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """float32 `[B, C]`: halves with every half-life of age, 0 where a time is unknown."""
        created = tf.gather(tf.convert_to_tensor(self._created_at), tf.maximum(rows, 0))
        half_lives = days_between(created, now[:, None]) / self._model.config.freshness_half_life_days
        return tf.where((created > 0) & (now[:, None] > 0), 2.0**-half_lives, 0.0)

    def _reasons(self, embedded: Embedded, rows: tf.Tensor) -> tf.Tensor:
        """String `[B, K]`: the video of the history most alike in taste, if it is alike at all; else `new` or `popular`."""
        history = embedded.request.query.history
        alike = tf.matmul(self._tastes(rows), self._tastes(history), transpose_b=True)
        alike = tf.where(history[:, None, :] >= 0, alike, 0.0)
        nearest = tf.gather(history, tf.argmax(alike, axis=2, output_type=tf.int32), batch_dims=1)
        reason = tf.where(
            tf.reduce_max(alike, axis=2) > 0, self._ids.strings(nearest), tf.where(self._cold(rows), NEW, POPULAR)
        )
        return tf.where(rows >= 0, reason, "")

    def _tastes(self, rows: tf.Tensor) -> tf.Tensor:
        """Unit vectors, float32 `[..., d]`: where a taste lies, seen from the catalogue's mean; that of row 0 for padding."""
        return tf.math.l2_normalize(self._taste(rows) - self._mean_taste, axis=-1)

    def _taste(self, rows: tf.Tensor) -> tf.Tensor:
        weight = tf.where(self._cold(rows), 1 / self._model.cold_weight, 1.0)
        return self._model.layout.taste(self._embeddings_of(rows)) * weight[..., None]

    def _likeness_directions(self) -> tf.Tensor:
        """Of the contents; without any, of the tastes: then nothing is known of cold videos, and they are like no other."""
        if self._model.content_directions is not None:
            return self._model.content_directions
        return tf.where(self._is_cold[:, None], 0.0, self._tastes(tf.range(self._num_videos)))

    def _cold(self, rows: tf.Tensor) -> tf.Tensor:
        return (rows >= 0) & tf.gather(self._is_cold, tf.maximum(rows, 0))

    def _found(self, candidates: Candidates) -> Outputs:
        scores = tf.where(candidates.rows >= 0, candidates.scores, 0.0)
        return {"video_id": self._ids.strings(candidates.rows), "score": scores}

    def tracked(self) -> tf.Module:
        """What the functions use, for the SavedModel: variables, tables and the text encoder."""
        root = tf.Module(name="recommender")
        root.weights = list({id(v): v for function in self.functions.values() for v in function.variables}.values())
        root.tables = [self._ids.table, self._parser.users]
        if self._model.text_search is not None:
            root.text_encoder = self._model.text_search.encoder
        return root


def _in_slots(slate: Slate, values: tf.Tensor) -> tf.Tensor:
    """float32 `[B, K]` of float32 `[B, C]`: what belongs to the videos shown, 0 in empty slots."""
    return tf.where(slate.rows >= 0, tf.gather(values, slate.places, batch_dims=1), 0.0)


def save_recommender(recommender: Recommender, folder: Path) -> None:
    """Writes the SavedModel.

    Args:
        recommender: its functions become the signatures.
        folder: made if missing.
    """
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(recommender.tracked(), str(folder), recommender.functions, options)
