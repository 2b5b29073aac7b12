"""The stages of `python -m tfrec.train`, and what they hand to each other.

What can be had again quickly (the dataset, cached features, embeddings) is computed anew when a run is resumed; what cost
training is kept in checkpoints (see `models/training.py`). A stage that was finished is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import TrainConfig
from tfrec.console import progress_bar
from tfrec.data.input_pipeline import HistoryLog, Query, RankingBatches, RetrievalBatches
from tfrec.data.schema import Dataset, Part
from tfrec.evaluation import metrics
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, final_part, make_task
from tfrec.evaluation.references import evaluate_baseline, evaluate_oracle
from tfrec.features.content import ContentFeatures
from tfrec.index.base import Index
from tfrec.index.tune import build_index
from tfrec.models.cold_start import ColdStartModel
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.models.training import Objective, Record, fit, restore_best
from tfrec.run import RunFolder

QUERIES_PER_BATCH = 1024
MIN_COLD_USERS = 30
"""Users with a cold positive from which on cold recall decides early stopping of the cold-start head."""

HELD_OUT_USERS = 0.2
"""Share of the users whose validation events measure the ranker instead of training it."""

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Stages:
    """One run, stage by stage; each stage takes what the earlier ones returned.

    Args:
        config: of the run.
        run: its folder.
        dataset: read and split.
        content: content features of the catalogue.
    """

    config: TrainConfig
    run: RunFolder
    dataset: Dataset
    content: ContentFeatures

    @cached_property
    def retrieval_batches(self) -> RetrievalBatches:
        """The training stream of retrieval and cold start."""
        config = self.config.retrieval
        return RetrievalBatches(
            self.dataset.interactions,
            config.query.history_length,
            config.batch_size,
            config.num_uniform_negatives,
            config.max_examples_per_user,
            self.config.seed,
        )

    def train_retrieval(self) -> RetrievalModel:
        """Two towers, stopped early by recall@20 on the validation part."""
        config = self.config.retrieval
        tf.keras.utils.set_random_seed(self.config.seed)
        model = RetrievalModel(config, self.dataset, self.content, self.retrieval_batches)
        task = self._validation_task()
        queries = self.queries(task)

        def validate() -> Record:
            embeddings = model.publish(model.embed_catalogue(), _opening(task))
            return _validation_record(self._evaluate(task, self._embed(model, queries, embeddings), embeddings))

        self._fit(
            "retrieval",
            model,
            config,
            self.retrieval_batches.epoch,
            validate,
            Objective("recall@20", True, config.patience),
        )
        return model

    def train_cold_start(self, retrieval: RetrievalModel) -> ColdStartModel | None:
        """The VAE head, stopped early by the recall of cold videos, or of all where too few users tell."""
        config = self.config.cold_start
        if not config.enabled or retrieval.candidate_tower.content is None:
            return None
        tf.keras.utils.set_random_seed(self.config.seed + 1)
        batches = replace(self.retrieval_batches, batch_size=config.batch_size)
        embeddings = retrieval.embed_catalogue()
        model = ColdStartModel(config, retrieval, self.content, embeddings, batches.steps_per_epoch)
        task = self._validation_task()
        asked = self._embed(retrieval, self.queries(task), embeddings)
        cold = self.dataset.interactions.train_counts == 0
        enough = (task.relevant[:, cold].sum(axis=1) > 0).sum() >= MIN_COLD_USERS
        rows = np.flatnonzero(cold) if enough else np.arange(len(cold))

        def validate() -> Record:
            generated = embeddings.copy()
            generated[rows] = model.embed_videos(rows)
            published = retrieval.publish(generated, _opening(task))
            return _validation_record(self._evaluate(task, asked, published), "cold_start" if enough else "retrieval")

        self._fit("cold_start", model, config, batches.epoch, validate, Objective("recall@20", True, config.patience))
        return model

    def train_ranking(self, retrieval: RetrievalModel, embeddings: NDArray[np.float32]) -> RankingModel:
        """The ranker, on events that retrieval has not learned from: of those it did, its scores know the outcome.

        A share of the users is held out of the validation part; their events stop the training early and calibrate it.
        """
        config = self.config.ranking
        tf.keras.utils.set_random_seed(self.config.seed + 2)
        model = RankingModel(config, self.dataset, retrieval, embeddings)
        interactions = self.dataset.interactions
        events = np.flatnonzero(interactions.part == self._validation_task().part)
        held_out = interactions.user[events] % round(1 / HELD_OUT_USERS) == 0
        training, holdout = (self._ranking_batches(events[rows], (Part.TRAIN,)) for rows in (~held_out, held_out))

        def validate() -> Record:
            return {"validation_loss": model.mean_loss(holdout)}

        self._fit(
            "ranking", model, config, training.epoch, validate, Objective("validation_loss", False, config.patience)
        )
        model.calibrate(holdout)
        return model

    def embed_videos(self, retrieval: RetrievalModel, cold_start: ColdStartModel | None) -> NDArray[np.float32]:
        """float32 `[num_videos, D]`, as published when the final part begins.

        Warm videos come from the candidate tower, cold ones from the head if there is one.
        """
        embeddings = retrieval.embed_catalogue()
        if cold_start is not None:
            cold = np.flatnonzero(self.dataset.interactions.train_counts == 0)
            embeddings[cold] = cold_start.embed_videos(cold)
        return retrieval.publish(embeddings, _opening(self.final_task()))

    def build_index(self, retrieval: RetrievalModel, embeddings: NDArray[np.float32]) -> tuple[Index, Metrics]:
        """The index, tuned by queries of the validation part."""
        task = self._validation_task()
        queries = self._embed(retrieval, self.queries(task), embeddings)
        with progress_bar("index", "videos") as progress:
            index, report = build_index(
                embeddings, self.config.index, queries=queries, seed=self.config.seed, progress=progress
            )
        figures = asdict(report)
        return index, {"recall_vs_exact@100": figures.pop("recall"), **figures}

    def evaluate(self, retrieval: RetrievalModel, ranking: RankingModel, embeddings: NDArray[np.float32]) -> Metrics:
        """Every number of metrics.json that is measured on the final part."""
        task = self.final_task()
        results = self._evaluate(task, self._embed(retrieval, self.queries(task), embeddings), embeddings)
        return {**results, "ranking": self._ranking_metrics(ranking, task), "baselines": self._baselines(task)}

    def evaluate_oracle(self) -> Metrics | None:
        """The best that can be reached, where the dataset is simulated and says so."""
        return evaluate_oracle(self.dataset.folder, self.final_task(), self.config.evaluation, self.config.seed)

    def final_task(self) -> EvaluationTask:
        """The requests of the part that the final numbers come from."""
        interactions = self.dataset.interactions
        return make_task(interactions, final_part(interactions), self.config.evaluation.max_users, self.config.seed)

    def queries(self, task: EvaluationTask) -> list[Query]:
        """The requests of a task, in batches."""
        length = self.config.retrieval.query.history_length
        log = HistoryLog.of(self.dataset.interactions, task.known, length)
        ends = np.searchsorted(log.rows, task.history_end)
        starts = range(0, len(task), QUERIES_PER_BATCH)
        return [
            log.before(
                *(
                    tf.constant(values[start : start + QUERIES_PER_BATCH])
                    for values in (task.users, ends, task.timestamp)
                )
            )
            for start in starts
        ]

    def _validation_task(self) -> EvaluationTask:
        part = Part.VALIDATION if len(self.dataset.interactions.rows(Part.VALIDATION)) else Part.TRAIN
        return make_task(self.dataset.interactions, part, self.config.evaluation.max_users, self.config.seed)

    def _embed(
        self, retrieval: RetrievalModel, queries: list[Query], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        table = tf.constant(embeddings)
        return np.concatenate([np.asarray(retrieval.embed_queries(query, table)) for query in queries])

    def _evaluate(
        self, task: EvaluationTask, queries: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> dict[str, Metrics]:
        return evaluate(
            lambda positions: queries[positions] @ embeddings.T, task, self.config.evaluation, self.config.seed
        )

    def _ranking_batches(self, events: NDArray[np.int64], known: tuple[Part, ...]) -> RankingBatches:
        config = self.config.ranking
        return RankingBatches(
            self.dataset.interactions,
            events,
            known,
            self.config.retrieval.query.history_length,
            config.batch_size,
            config.negatives_per_positive,
            self.config.seed,
        )

    def _ranking_metrics(self, ranking: RankingModel, task: EvaluationTask) -> Metrics:
        config, seed = self.config.evaluation, self.config.seed
        results: Metrics = {}
        events = np.flatnonzero(self.dataset.interactions.part == task.part)
        for name, predicted in ranking.predict_events(self._ranking_batches(events, task.known)).items():
            results |= metrics.probability_metrics(
                name, predicted.labels, predicted.probabilities, predicted.users, config.bootstrap_samples, seed
            )
            results[f"retrieval_{name}_auc"] = metrics.auc(predicted.labels, predicted.retrieval_scores)
            results[f"retrieval_{name}_auc_interval"] = metrics.auc_interval(
                predicted.labels, predicted.retrieval_scores, predicted.users, config.bootstrap_samples, seed
            )
        return results

    def _baselines(self, task: EvaluationTask) -> Metrics:
        config, interactions = self.config.evaluation, self.dataset.interactions
        results: Metrics = {}
        with progress_bar("baselines", "baselines") as progress:
            for done, name in enumerate(config.baselines):
                progress(done, len(config.baselines))
                results[name] = evaluate_baseline(name, interactions, self.content, task, config, self.config.seed)
        return results

    def _fit(
        self,
        stage: str,
        model: tf.keras.Model,
        config: Any,
        epoch_batches: Callable[[int], tf.data.Dataset],
        validate: Callable[[], Record],
        objective: Objective,
    ) -> None:
        """Trains a stage's model, or gives it the weights of the run that is resumed."""
        folder = self.run.folder / "checkpoints" / stage
        model.compile(
            optimizer=tf.keras.optimizers.Adam(config.learning_rate),
            steps_per_execution=getattr(config, "steps_per_execution", 1),
        )
        if self.run.finished(stage):
            restore_best(model, folder)
            return
        summary = tf.summary.create_file_writer(str(self.run.folder / "logs" / stage))
        with progress_bar(stage, "batches") as progress:
            self.run.stage(
                stage,
                lambda: {
                    "records": fit(model, epoch_batches, validate, objective, config.epochs, folder, progress, summary)
                },
            )


def _opening(task: EvaluationTask) -> int:
    """Unix seconds of the first request: when a part begins."""
    return int(task.timestamp.min(initial=np.iinfo(np.int64).max)) if len(task) else 0


def _validation_record(results: dict[str, Metrics], slice_name: str = "retrieval") -> Record:
    return {name: float(results[slice_name][name]) for name in ("recall@20", "ndcg@20")}


def fingerprint(config: TrainConfig, dataset: Dataset) -> str:
    """A digest of everything that decides the result of a run: configuration and data."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "resume", "export")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    log = dataset.interactions
    for array in (log.user, log.video, log.timestamp, log.part, *log.labels.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def clear_training(folder: Path) -> None:
    """Forgets the training of an earlier run; published models and cached features stay."""
    for name in ("checkpoints", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
