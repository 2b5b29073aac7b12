"""What every ranker has in common: labels, the loss, predictions of logged events and their calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import Calibration
from tfrec.data.input_pipeline import Query, RankingBatches
from tfrec.data.schema import LABELS, Dataset
from tfrec.models.base import Model, mean_over_replicas
from tfrec.models.calibration import MonotoneCurve, platt_scaling
from tfrec.models.retrieval import RetrievalModel
from tfrec.towers.space import Layout, rows_of


class Predictions(NamedTuple):
    """Predicted and true labels of the pairs whose label is known, `[num_pairs]` each.

    Args:
        labels: 0 or 1.
        logits: not calibrated.
        probabilities: calibrated.
        retrieval_scores: inner products of query and candidate embeddings.
        position_biases: what training adds to the logits for where the video was shown.
        users: row numbers.
    """

    labels: NDArray[np.float32]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    retrieval_scores: NDArray[np.float32]
    position_biases: NDArray[np.float32]
    users: NDArray[np.int32]


class Ranker(Model):
    """Predicts the labels of pairs of a request and a video, from what the frozen retrieval makes of both.

    Args:
        dataset: its labels are predicted.
        retrieval: trained; it stays as it is.
        video_embeddings: float32 `[num_videos, D]` of the catalogue, cold videos included.
        history_embeddings: float32 `[num_videos, D]`, as `RetrievalModel.embed_queries` takes them; by default what
            `retrieval` gives.
        calibration: of the probabilities.
    """

    def __init__(
        self,
        dataset: Dataset,
        retrieval: RetrievalModel,
        video_embeddings: NDArray[np.float32] | tf.Variable,
        history_embeddings: NDArray[np.float32] | tf.Variable | None = None,
        calibration: Calibration = "platt",
    ) -> None:
        super().__init__()
        self.labels = tuple(name for name in LABELS if name in dataset.interactions.labels) or ("click",)
        # Behind a function, so that its variables are not this model's.
        self._retrieval: Callable[[], RetrievalModel] = lambda: retrieval
        watched = retrieval.history_embeddings(video_embeddings) if history_embeddings is None else history_embeddings
        shared = watched is video_embeddings
        self.video_embeddings = _frozen(video_embeddings)
        self.history_embeddings = self.video_embeddings if shared else _frozen(watched)
        self.layout = Layout(int(video_embeddings.shape[1]) - retrieval.config.embedding_dim)
        self.scale = tf.Variable(tf.ones(len(self.labels)), trainable=False)
        self.shift = tf.Variable(tf.zeros(len(self.labels)), trainable=False)
        self.curves = [MonotoneCurve() for _ in self.labels] if calibration == "isotonic" else None

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
        raise NotImplementedError

    def position_bias(self, inputs: dict[str, Any]) -> tf.Tensor | float:
        """What the place at which a video was shown adds to the logits of a batch, `[B, C, num_labels]`; never served."""
        del inputs
        return 0.0

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Sum over the labels of the mean cross-entropy where the label is known."""
        return self._label_loss(self._batch_logits(inputs, training) + self.position_bias(inputs), inputs)

    def _label_loss(self, logits: tf.Tensor, inputs: dict[str, Any]) -> tf.Tensor:
        losses = []
        for column, name in enumerate(self.labels):
            label = inputs["labels"][name]
            known = tf.cast(label >= 0, tf.float32)
            loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.maximum(label, 0.0), logits[:, :, column])
            losses.append(mean_over_replicas(loss, known))
        return tf.add_n(losses)

    def _batch_logits(self, inputs: dict[str, Any], training: bool) -> tf.Tensor:
        query: Query = inputs["query"]
        events = rows_of(self.video_embeddings, tf.maximum(query.history, 0))
        query_embeddings = self._retrieval().embed_queries(query, self.history_embeddings)
        return self.logits(query, query_embeddings, events, inputs["candidates"], training=training)

    def probabilities(
        self, query: Query, query_embeddings: tf.Tensor, events: tf.Tensor, candidates: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Calibrated probabilities, float32 `[B, C]` for each label of the log; arguments as `logits`."""
        logits = self.logits(query, query_embeddings, events, candidates)
        return {name: self._calibrated(column, logits[:, :, column]) for column, name in enumerate(self.labels)}

    def _calibrated(self, label: int, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities of the label in that place from its logits, of any shape."""
        logits = logits * self.scale[label] + self.shift[label]
        return tf.sigmoid(logits) if self.curves is None else self.curves[label](logits)

    def predict_events(self, batches: RankingBatches) -> dict[str, Predictions]:
        """Predicts every event of a part, by label."""
        answers = [self._predict_batch(batch) for batch in batches.in_order()]
        count = len(batches.events)

        def joined(part: str) -> NDArray[Any]:
            return np.concatenate([np.asarray(answer[part]) for answer in answers])[:count]

        results = {}
        for column, name in enumerate(self.labels if count else ()):
            labels = joined(name)
            logits, biases = (joined(part)[:, :, column] for part in ("logits", "biases"))
            probabilities = self._calibrated(column, logits).numpy()
            users = np.broadcast_to(joined("users")[:, None], labels.shape)
            known = labels >= 0
            parts = (labels, logits, probabilities, joined("scores"), biases, users)
            results[name] = Predictions(*(values[known] for values in parts))
        return results

    @tf.function(reduce_retracing=True, autograph=False)
    def _predict_batch(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        query: Query = inputs["query"]
        events = rows_of(self.video_embeddings, tf.maximum(query.history, 0))
        query_embeddings = self._retrieval().embed_queries(query, self.history_embeddings)
        videos = rows_of(self.video_embeddings, inputs["candidates"])
        logits = self.logits(query, query_embeddings, events, inputs["candidates"])
        return {
            "logits": logits,
            "biases": self.position_bias(inputs) + tf.zeros_like(logits),
            "scores": tf.einsum("bd,bcd->bc", query_embeddings, videos),
            "users": query.user,
            **inputs["labels"],
        }

    def calibrate(self, batches: RankingBatches) -> None:
        """Fits the calibration of each label on a part that was not trained on."""
        predictions = self.predict_events(batches)
        for column, name in enumerate(self.labels):
            if name in predictions:
                scale, shift = platt_scaling(predictions[name].logits, predictions[name].labels)
                self.scale[column].assign(scale)
                self.shift[column].assign(shift)
                if self.curves is not None:
                    self.curves[column].fit(predictions[name].logits * scale + shift, predictions[name].labels)

    def mean_loss(self, batches: RankingBatches) -> float:
        """The loss over every event of a part."""
        losses = []
        for predicted in self.predict_events(batches).values():
            if len(predicted.labels):
                logits = predicted.logits + predicted.position_biases
                # log(1 + exp(z)) - label * z, without overflow.
                losses.append(np.mean(np.logaddexp(0, logits) - predicted.labels * logits))
        return float(sum(losses))


def _frozen(embeddings: NDArray[np.float32] | tf.Variable) -> tf.Variable:
    """A variable of these, or that which they are already."""
    return embeddings if isinstance(embeddings, tf.Variable) else tf.Variable(embeddings, trainable=False)
