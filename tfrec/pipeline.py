"""The stages of `python -m tfrec.train`, and what they hand to each other.

What can be had again quickly (the dataset, cached features, embeddings) is computed anew when a run is resumed; what cost
training is kept in checkpoints (see `models/training.py`). A stage that was finished is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import EvaluationConfig, IndexKind, TrainConfig
from tfrec.console import console, progress_bar
from tfrec.data.input_pipeline import HistoryLog, Query, RankingBatches, RetrievalBatches
from tfrec.data.schema import Dataset, Part
from tfrec.data.sequences import SequenceBatches
from tfrec.data.sets import SetBatches
from tfrec.distribution import ONE_DEVICE, Distribution
from tfrec.encoders.hub import module_version
from tfrec.errors import TfrecError
from tfrec.evaluation import metrics
from tfrec.evaluation.content import category_accuracy, category_column
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, final_part, make_task
from tfrec.evaluation.examples import SLATE_SHOWN, ExampleSlates
from tfrec.evaluation.ranking import InnerProducts
from tfrec.evaluation.references import evaluate_baseline, evaluate_oracle
from tfrec.evaluation.report import ExampleSlate
from tfrec.export.log_requests import task_requests
from tfrec.export.publish import Export, publish, write_serving_config
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.export.text_search import TextSearch
from tfrec.export.versions import release_version
from tfrec.export.video_encoder import Encoders, VideoEncoder
from tfrec.export.warmup import recommender_calls
from tfrec.features.content import ContentFeatures
from tfrec.features.frames import stored_frames
from tfrec.features.modules import image_encoder, module_checksums, text_encoder
from tfrec.features.similarity import content_directions
from tfrec.features.tuning import TunableEncoder, TunableFrames, TunableTexts, save_tuned
from tfrec.index.base import Index
from tfrec.index.tune import build_index
from tfrec.models.baselines import ContentKNN
from tfrec.models.cold_start import ColdStartModel
from tfrec.models.cold_videos import CONTENT_SHARES, ColdVideos
from tfrec.models.content_block import ContentBlock
from tfrec.models.distilled_ranking import DistilledRanker
from tfrec.models.fine_tuning import FineTunedRetrieval
from tfrec.models.linear_factors import Factors, linear_models
from tfrec.models.negatives import POOL_PER_HARD_NEGATIVE
from tfrec.models.optimizer import Adam
from tfrec.models.ranker import Ranker
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.models.sequence_retrieval import SequenceRetrievalModel
from tfrec.models.set_retrieval import SetRetrievalModel
from tfrec.models.training import Objective, Record, fit, restore_best
from tfrec.run import RunFolder, atomic_file, new_folder
from tfrec.towers.space import Layout, Tables, block_scale

QUERIES_PER_BATCH = 1024
STOCK, NATIVE, VIDEO_ENCODER = "recommender", "recommender_scann", "video_encoder"
"""The published models: stock ops only, over the native ScaNN op, and what embeds new videos."""

COLD_APPEALS = tuple(np.arange(-2.0, 6.1, 0.5).tolist())
"""Tried; in units of logits, so 1 makes a video e times as likely."""

MAX_TUNING_USERS = 2000
"""Users of the validation part that choose among them."""

RECENCY_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Tried: of the logarithm of recent counts."""

POPULARITY_WEIGHTS = (0.0, -0.25, -0.5)
"""Tried in their place where there is no lately: of the logarithm of all counts. Some of what was popular has passed."""

LINEAR_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
"""Tried: of a linear model, whose scores vary as much as the towers' at 1."""

SLATES_PER_CALL = 64

MIN_COLD_USERS = 30
"""Users with a cold positive from which on cold recall decides: when training of the head stops, and how much content counts."""

SIMULATED_COLD_SHARE = 0.1
"""Of the warm videos, taken for cold where fewer users tell."""

FINE_TUNING = "fine_tuning"

DISTILLATION = "distillation"

ONLY_UNIFORM_NEGATIVES: dict[str, Any] = {
    "training": "events",
    "num_popular_negatives": 0,
    "num_hard_negatives": 0,
    "queue_size": 0,
    "frequency": "exact",
}
"""Of retrieval while encoders are fine-tuned: every candidate goes through them."""

SEEDS = "seeds"
"""Folder of the runs with further seeds."""

TRAINED = ("retrieval", FINE_TUNING, "cold_start", "ranking", DISTILLATION)
"""Stages with learning curves."""

NOT_OF_THE_RESULT = ("output", "resume", "recipe", "given", "export", "distribution")
"""Options that a resumed run may have others of: what it learns does not depend on them."""

RETRIEVAL_MODELS: Mapping[str, type[RetrievalModel]] = {
    "events": RetrievalModel,
    "sequences": SequenceRetrievalModel,
    "sets": SetRetrievalModel,
}
"""By `retrieval.training`."""

Metrics = dict[str, Any]

AnyModel = TypeVar("AnyModel", bound=tf.keras.Model)


class Use(IntEnum):
    """What the ranker uses an event of the validation part for."""

    TRAINING = 0
    HOLDOUT = 1
    MEASURING = 2


@dataclass(frozen=True)
class Stages:
    """One run, stage by stage; each stage takes what the earlier ones returned.

    Args:
        config: of the run.
        run: its folder.
        dataset: read and split.
        content: content features of the catalogue.
        tuned: folders of the encoders that `fine_tune` trained, by modality.
        distribution: on what retrieval and ranking are trained; everything else runs on one device of this worker.
    """

    config: TrainConfig
    run: RunFolder
    dataset: Dataset
    content: ContentFeatures
    tuned: Mapping[str, Path] = field(default_factory=dict)
    distribution: Distribution = ONE_DEVICE

    def __post_init__(self) -> None:
        for stage in ("retrieval", "ranking"):
            self.distribution.check_batch_size(f"{stage}.batch_size", getattr(self.config, stage).batch_size)
        for task in (self._validation_task(), self.final_task()):
            if not len(task):
                raise TfrecError(
                    f"No user has a positive event in the {task.part.name.lower()} part with a video that is new to them, so "
                    "nothing can be measured. Hold out more: `split`, --data.validation_share, --data.test_share."
                )

    @cached_property
    def retrieval_batches(self) -> RetrievalBatches:
        """The training stream of cold start, and of retrieval where it learns from events."""
        config = self.config.retrieval
        return RetrievalBatches(
            self.dataset.interactions,
            config.query.history_length,
            config.batch_size,
            config.num_uniform_negatives,
            config.max_examples_per_user,
            self.config.seed,
            max_positives=RetrievalBatches.max_positives if config.mask_positives or config.num_hard_negatives else 0,
            user_exponent=config.user_exponent,
            min_examples_per_user=config.min_examples_per_user,
            num_popular_negatives=config.num_popular_negatives,
            pool_size=POOL_PER_HARD_NEGATIVE * config.num_hard_negatives,
        )

    @cached_property
    def _retrieval_stream(self) -> RetrievalBatches | SequenceBatches | SetBatches:
        """The training stream of retrieval."""
        config = self.config.retrieval
        if config.training == "events":
            return self.retrieval_batches
        kind = SequenceBatches if config.training == "sequences" else SetBatches
        length, negatives = config.query.history_length, config.num_uniform_negatives
        return kind(self.dataset.interactions, length, config.batch_size, negatives, self.config.seed)

    def train_retrieval(self) -> RetrievalModel:
        """Two towers, stopped early by a metric on the validation part."""
        config = self.config.retrieval
        linear = self._linear_models()  # a catalogue too large for them is refused before training
        tf.keras.utils.set_random_seed(self.config.seed)
        with self.distribution.scope():
            model = self._untrained_retrieval()
        self._fit(
            "retrieval",
            model,
            config,
            self._retrieval_stream.epoch,
            partial(self.validate, model),
            Objective(config.objective, True, config.patience),
            self.distribution,
        )
        model = self._on_one_device("retrieval", model, self._untrained_retrieval, self._retrieval_stream.epoch)
        return self._blended(model, linear)

    def validate(self, retrieval: RetrievalModel) -> Record:
        """Recall@20, NDCG@20 and `retrieval.objective` on the validation part, what stands beside the towers included."""
        task, queries = self._validation_requests
        tables = retrieval.tables(retrieval.publish(retrieval.embed_catalogue(), _opening(task)))
        results = self._evaluate(task, self._embed(retrieval, queries, tables), tables)
        return _validation_record(results, {self.config.retrieval.objective})

    @cached_property
    def _validation_requests(self) -> tuple[EvaluationTask, list[Query]]:
        task = self._validation_task()
        return task, self.queries(task)

    def _linear_models(self) -> dict[str, Factors]:
        dim = self.config.retrieval.linear_dim
        return linear_models(self.dataset.interactions, dim, self.config.seed) if dim else {}

    def _blended(self, retrieval: RetrievalModel, linear: Mapping[str, Factors]) -> RetrievalModel:
        """With as much of what is watched lately, and of one of the linear models, as finds most in the validation part.

        In a log without times, with less of what was popular in place of what is watched lately.

        Training cannot tell how much: of its events, a video's learned appeal knows what came after, and a linear model the
        event itself.
        """
        recent = retrieval.appeal.recent()
        task = make_task(self.dataset.interactions, self._validation_part, MAX_TUNING_USERS, self.config.seed)
        queries, learned = self.queries(task), retrieval.publish(retrieval.embed_catalogue(), _opening(task))

        def asked_with(factors: Factors | None) -> tuple[Tables, NDArray[np.float32]]:
            retrieval.linear = factors
            tables = retrieval.tables(learned)
            return tables, self._embed(retrieval, queries, tables)

        def recall_with(tables: Tables, asked: NDArray[np.float32], recency: float, scale: float = 1.0) -> float:
            videos = tables.videos.copy()
            videos[:, -1] += recency * recent
            videos[:, : tables.layout.block_dim] *= scale
            return self._recall(task, asked, tables.with_videos(videos), "retrieval")

        plain = asked_with(None)
        weights = RECENCY_WEIGHTS if retrieval.appeal.has_trends else POPULARITY_WEIGHTS
        recency = max(weights, key=lambda weight: (recall_with(*plain, weight), -abs(weight)))
        best, told, chosen = recall_with(*plain, recency), "none", None
        for name, factors in linear.items():
            tables, asked = asked_with(factors)
            unit = block_scale(asked, learned, factors.offered)
            for weight in LINEAR_WEIGHTS:
                if (recall := recall_with(tables, asked, recency, weight * unit)) > best:
                    best, told, chosen = recall, f"{weight:g} ({name})", factors.scaled(weight * unit)
        retrieval.appeal.recency, retrieval.linear = recency, chosen
        recent_or_all = "recency" if retrieval.appeal.has_trends else "popularity"
        console.print(f"  beside what was learned: {recent_or_all} {recency:g}, linear model {told}")
        return retrieval

    def _on_one_device(
        self,
        stage: str,
        model: AnyModel,
        make: Callable[[], AnyModel],
        epoch_batches: Callable[[int], tf.data.Dataset],
    ) -> AnyModel:
        """A trained model without the strategy it was trained under, which is nothing for other stages to deal with."""
        if self.distribution.strategy is None:
            return model
        return self._restored(stage, make, epoch_batches)

    def _restored(
        self, stage: str, make: Callable[[], AnyModel], epoch_batches: Callable[[int], tf.data.Dataset]
    ) -> AnyModel:
        """The trained model of a stage, made anew."""
        model = make()
        # All of its variables are made here: a later stage's strategy would take those that are missing for its own.
        model.compute_loss(next(iter(epoch_batches(0))))
        restore_best(model, self.run.folder / "checkpoints" / stage)
        return model

    def fine_tune(self, retrieval: RetrievalModel) -> tuple[Stages, RetrievalModel]:
        """Trains content encoders together with the towers, where the configuration says so.

        Args:
            retrieval: trained over frozen features.

        Returns:
            The stages with content features by the trained encoders, and the retrieval model over them; those given where
            that did not raise the metric on the validation part.
        """
        encoders = self._tunable_encoders() if retrieval.candidate_tower.content else {}
        if not encoders:
            console.print("  no content that could be fine-tuned")
            return self, retrieval
        model = self._train_encoders(encoders)
        objective = self.config.retrieval.objective
        before, after = (
            max(float(record[objective]) for record in self.run.result(stage)["records"])
            for stage in ("retrieval", FINE_TUNING)
        )
        if after <= before:
            console.print(f"  the frozen encoders stay: {objective} is {before:.4f} with them, {after:.4f} without")
            return self, retrieval
        folders, versions = {}, {}
        for name, encoder in encoders.items():
            folders[name] = self.run.folder / "features" / "encoders" / name
            with new_folder(folders[name], replace=True) as scratch:
                save_tuned(encoder, scratch)
            versions[name] = f"{self.content.encoders[name]}-tuned-{module_version(str(folders[name]))[:12]}"
        tuned = replace(self, content=model.tuned_content(self.content, versions), tuned=folders)
        retrieval = tuned._untrained_retrieval()
        retrieval.compute_loss(next(iter(self._retrieval_stream.epoch(0))))
        restore_best(retrieval, self.run.folder / "checkpoints" / FINE_TUNING)
        return tuned, tuned._blended(retrieval, tuned._linear_models())

    def _untrained_retrieval(self) -> RetrievalModel:
        config = self.config.retrieval
        return RETRIEVAL_MODELS[config.training](config, self.dataset, self.content, self.retrieval_batches)

    def _train_encoders(self, encoders: Mapping[str, TunableEncoder]) -> FineTunedRetrieval:
        config = self.config.fine_tuning
        tf.keras.utils.set_random_seed(self.config.seed + 3)
        sizes = {
            name: getattr(config, name) for name in ("batch_size", "num_uniform_negatives", "max_examples_per_user")
        }
        batches = replace(self.retrieval_batches, **sizes, num_popular_negatives=0, pool_size=0)
        rate = _learning_rate(config.encoder_learning_rate, config.epochs, batches.steps_per_epoch)
        model = FineTunedRetrieval(
            replace(self.config.retrieval, **(ONLY_UNIFORM_NEGATIVES | sizes)),
            self.dataset,
            self.content,
            batches,
            encoders,
            rate,
        )
        model.compute_loss(next(iter(batches.epoch(0))))  # every variable must exist before it is restored
        restore_best(model, self.run.folder / "checkpoints" / "retrieval")

        def validate() -> Record:
            model.refresh()
            return self.validate(model)

        objective = Objective(self.config.retrieval.objective, True, config.patience)
        self._fit(FINE_TUNING, model, config, batches.epoch, validate, objective)
        return model

    def _tunable_encoders(self) -> dict[str, TunableEncoder]:
        """The encoders to train, of modalities that the catalogue has."""
        config, videos, cache = self.config.features, self.dataset.videos, self._feature_cache
        encoders: dict[str, TunableEncoder] = {}
        wanted = set(config.fine_tuned).intersection(self.content.modalities) - set(videos.content)
        if "text" in wanted:
            encoders["text"] = TunableTexts(text_encoder(config.text, cache, list), list(videos.texts), config.text)
        if "video" in wanted:
            has_frames = self.content.modalities["video"].lengths > 0
            media = {row: source for row, source in videos.media.items() if has_frames[row]}
            with progress_bar("frames", "videos") as progress:
                frames, lengths = stored_frames(media, len(videos), config, cache, progress)
            image = image_encoder(config.image, cache, lambda: frames[:0])
            assert image is not None, "the frames were encoded by it"
            encoders["video"] = TunableFrames(image, frames, lengths, config.image)
        return encoders

    def train_cold_start(self, retrieval: RetrievalModel) -> ColdVideos | None:
        """The VAE head, stopped early by the recall of cold videos, or of all where too few users tell; with content beside."""
        config = self.config.cold_start
        if not config.enabled or retrieval.candidate_tower.content is None:
            return None
        tf.keras.utils.set_random_seed(self.config.seed + 1)
        batches = replace(self.retrieval_batches, batch_size=config.batch_size)
        embeddings = retrieval.embed_catalogue()
        model = ColdStartModel(config, retrieval, self.content, embeddings, batches.steps_per_epoch)
        task = self._validation_task()
        learned = Tables(embeddings, retrieval.history_embeddings(embeddings))
        asked = self._embed(retrieval, self.queries(task), learned)
        cold = self.dataset.interactions.train_counts == 0
        enough = len(_cold_users(task)) >= MIN_COLD_USERS
        rows = np.flatnonzero(cold) if enough else np.arange(len(cold))

        def validate() -> Record:
            generated = embeddings.copy()
            generated[rows] = model.embed_videos(rows)
            published = retrieval.publish(generated, _opening(task))
            results = self._evaluate(task, asked, Tables(published, published))
            return _validation_record(results, slice_name="cold_start" if enough else "retrieval")

        self._fit("cold_start", model, config, batches.epoch, validate, Objective("recall@20", True, config.patience))
        alone = ColdVideos(model, linear_dim=0 if retrieval.linear is None else retrieval.linear.dim)
        if config.calibrate_norms and cold.any():
            alone = replace(
                alone, taste_scale=_taste_scale(embeddings[~cold], model.embed_videos(np.flatnonzero(cold)))
            )
        chosen = self._with_content(retrieval, alone) if config.content_dim else alone
        return replace(chosen, exploration_weight=config.exploration_weight)

    def _with_content(self, retrieval: RetrievalModel, alone: ColdVideos) -> ColdVideos:
        """The head with content beside it: those modalities, and as much, as find most cold videos in the validation part."""
        task = self._cold_task()
        if len(_cold_users(task)) < MIN_COLD_USERS:
            return alone
        choices = [
            settings.get("modalities", list(self.content.modalities)) for settings in ContentKNN.settings(self.content)
        ]
        blends = [measured for names in choices for measured in self._blends(retrieval, alone, names, task)]
        best = max(blends, key=lambda measured: (measured[0], -measured[1].content_share))[1]
        return best if best.content_share else alone

    def _blends(
        self, retrieval: RetrievalModel, alone: ColdVideos, names: Sequence[str], task: EvaluationTask
    ) -> list[tuple[float, ColdVideos]]:
        """Recall of the task's cold videos with every share of the content of some modalities."""
        block = ContentBlock(self.content, names, self.config.cold_start.content_dim)
        cold = np.flatnonzero(task.train_counts == 0)
        beside = replace(alone, block=block)
        tables = self._unpublished(retrieval, beside, cold)
        asked = self._embed(retrieval, self.queries(task), tables)
        generated = tables.layout.learned(tables.videos)[cold]
        scale = block_scale(asked, generated, block.catalogue[cold])

        def measured(share: float) -> tuple[float, ColdVideos]:
            blend = replace(beside, content_share=share, content_scale=scale, level=float(generated[:, -1].mean()))
            videos = tables.videos.copy()
            videos[cold] = blend.embed_videos(cold)
            blended = tables.with_videos(retrieval.publish(videos, _opening(task)))
            return self._recall(task, asked, blended, "cold_start"), blend

        return [measured(share) for share in CONTENT_SHARES]

    def _cold_task(self) -> EvaluationTask:
        """Requests of the validation part that only cold videos answer, or warm ones taken for cold where too few do."""
        task = self._validation_task()
        if len(_cold_users(task)) < MIN_COLD_USERS:
            draw = np.random.default_rng(self.config.seed)
            taken = draw.random(len(task.train_counts)) < SIMULATED_COLD_SHARE
            task = replace(task, train_counts=np.where(taken, 0, np.maximum(task.train_counts, 1)))
        return task.only(_cold_users(task)[:MAX_TUNING_USERS])

    def train_ranking(self, retrieval: RetrievalModel, tables: Tables) -> Ranker:
        """The ranker, on events that retrieval has not learned from: of those it did, its scores know the outcome.

        Where the configuration says so, a small one that has learned from it.
        """
        config = self.config.ranking
        tf.keras.utils.set_random_seed(self.config.seed + 2)

        def make(retrieval: RetrievalModel) -> RankingModel:
            return RankingModel(config, self.dataset, retrieval, tables.videos, tables.history)

        with self.distribution.scope():
            asked = retrieval
            if self.distribution.is_remote:
                asked = self._restored("retrieval", self._untrained_retrieval, self._retrieval_stream.epoch)
            model = make(asked)
        events = self._ranking_events()
        training = self._ranking_batches(events[Use.TRAINING], (Part.TRAIN,))
        holdout = self._ranking_batches(events[Use.HOLDOUT], (Part.TRAIN,))

        def validate() -> Record:
            return {"validation_loss": model.mean_loss(holdout)}

        objective = Objective("validation_loss", False, config.patience)
        self._fit("ranking", model, config, training.epoch, validate, objective, self.distribution)
        model = self._on_one_device("ranking", model, partial(make, retrieval), training.epoch)
        model.calibrate(holdout)
        if not config.distilled_units or not self.distribution.is_chief:
            return model
        tf.keras.utils.set_random_seed(self.config.seed + 4)
        small = DistilledRanker(config, self.dataset, model, retrieval)

        def validate_small() -> Record:
            return {"validation_loss": small.mean_loss(holdout)}

        self._fit(DISTILLATION, small, config, training.epoch, validate_small, objective)
        small.calibrate(holdout)
        return small

    def embed_videos(self, retrieval: RetrievalModel, cold_videos: ColdVideos | None) -> Tables:
        """Embeddings of the catalogue, as published when the final part begins.

        Warm videos come from the candidate tower, cold ones from `cold_videos` if there is such a thing.
        """
        cold = np.flatnonzero(self.dataset.interactions.train_counts == 0)
        tables = calm = self._unpublished(retrieval, cold_videos, cold)
        if cold_videos is not None and cold_videos.exploration_weight:
            calm = self._unpublished(retrieval, replace(cold_videos, exploration_weight=0.0), cold)
        tables.videos[cold, -1] += self._cold_appeal(retrieval, calm, cold)
        tables = tables.with_videos(retrieval.publish(tables.videos, _opening(self.final_task())))
        if self.distribution.num_workers > 1:
            # Written twice only where they are two, so that all workers make the same variables of them.
            history = {} if tables.history is tables.videos else {"history": tables.history}
            with atomic_file(self._tables_file) as file:
                np.savez(file, videos=tables.videos, block_dim=tables.layout.block_dim, **history)
            self.distribution.wait_for_chief()
        return tables

    def read_tables(self) -> Tables:
        """What the chief's `embed_videos` returned, in a worker that waits for it."""
        self.distribution.wait_for_chief()
        with np.load(self._tables_file) as stored:
            videos = stored["videos"]
            history = stored.get("history", videos)
            return Tables(videos, history, Layout(int(stored["block_dim"])))

    @property
    def _tables_file(self) -> Path:
        return self.run.folder / "checkpoints" / "tables.npz"

    def _unpublished(
        self, retrieval: RetrievalModel, cold_videos: ColdVideos | None, cold: NDArray[np.int64]
    ) -> Tables:
        """Embeddings of the catalogue but for what changes with time, and for `_cold_appeal`."""
        embeddings = retrieval.embed_catalogue()
        if cold_videos is None:
            return retrieval.tables(embeddings)
        generated, block = cold_videos.embed_videos(cold), cold_videos.block
        if block is None:
            embeddings[cold] = cold_videos.layout.learned(generated)
            return retrieval.tables(embeddings)
        embeddings[cold] = cold_videos.head.embed_videos(cold)
        tables = retrieval.tables(embeddings).with_block(np.zeros_like(block.catalogue), block.catalogue)
        tables.videos[cold] = generated
        return tables

    def _cold_appeal(self, retrieval: RetrievalModel, tables: Tables, cold: NDArray[np.int64]) -> float:
        """What to add to the scores of all cold videos, so that they neither flood the slates nor vanish from them.

        The one number that training cannot tell, since it has no cold videos: chosen by recall@20 over the whole catalogue in
        the validation part, where some videos are cold too. Warm videos keep their order.
        """
        task = make_task(self.dataset.interactions, self._validation_part, MAX_TUNING_USERS, self.config.seed)
        if not len(task) or not task.relevant[:, cold].nnz:
            return 0.0
        asked = self._embed(retrieval, self.queries(task), tables)
        published = retrieval.publish(tables.videos, _opening(task))

        def recall_with(appeal: float) -> float:
            shifted = published.copy()
            shifted[cold, -1] += appeal
            return self._recall(task, asked, tables.with_videos(shifted), "retrieval")

        return max(COLD_APPEALS, key=lambda appeal: (recall_with(appeal), -abs(appeal)))

    def build_index(self, retrieval: RetrievalModel, tables: Tables, kind: IndexKind) -> tuple[Index, Metrics]:
        """An index, tuned by queries of the validation part."""
        task = make_task(self.dataset.interactions, self._validation_part, MAX_TUNING_USERS, self.config.seed)
        queries = self._embed(retrieval, self.queries(task), tables)
        config = replace(self.config.index, kind=kind)
        with progress_bar("index", "videos") as progress:
            num_results = self.config.export.num_candidates + 1
            index, report = build_index(
                tables.videos,
                config,
                queries=queries,
                num_results=num_results,
                seed=self.config.seed,
                progress=progress,
            )
        figures = asdict(report)
        return index, {"recall_vs_exact@100": figures.pop("recall"), **figures}

    def evaluate(self, retrieval: RetrievalModel, ranking: Ranker, tables: Tables) -> Metrics:
        """Every number of metrics.json that is measured on the final part."""
        task, results = self.final_task(), self.evaluate_models(retrieval, ranking, tables)
        oracle = evaluate_oracle(self.dataset.folder, task, self.config.evaluation, self.config.seed)
        return {
            **results,
            "baselines": self._baselines(task),
            **({"oracle": oracle} if oracle else {}),
            **self._content_quality(),
        }

    def evaluate_models(self, retrieval: RetrievalModel, ranking: Ranker, tables: Tables) -> Metrics:
        """Retrieval and ranking on the final part, without what they are held against."""
        return {
            **self.evaluate_retrieval(retrieval, tables),
            "ranking": self._ranking_metrics(ranking, self.final_task()),
        }

    def with_seed(self, seed: int) -> Stages:
        """The same run with another seed, in a folder of its own below this one's, over the same features."""
        folder = self.run.folder / SEEDS / str(seed)
        features = replace(self.config.features, cache=self._feature_cache)
        config = replace(self.config, output=folder, seed=seed, features=features)
        digest = fingerprint(replace(self.config, seed=seed), self.dataset, self.content)
        run = RunFolder(folder, digest, config.resume)
        return Stages(config, run, self.dataset, self.content, distribution=self.distribution)

    def _content_quality(self) -> Metrics:
        """How well content features know the categories, where the catalogue has such a column."""
        category = category_column(self.dataset.videos.columns.categorical, self.config.evaluation.category_column)
        if category is None or not self.content:
            return {}
        return {"content_quality": category_accuracy(self.content, category)}

    def evaluate_retrieval(self, retrieval: RetrievalModel, tables: Tables) -> Metrics:
        """The whole catalogue, warm and cold videos ranked on the final part, as `tfrec.evaluation.evaluate.evaluate` has it."""
        task = self.final_task()
        return self._evaluate(task, self._embed(retrieval, self.queries(task), tables), tables)

    def recommender(
        self, retrieval: RetrievalModel, ranking: Ranker, index: Index, cold_videos: ColdVideos | None
    ) -> Recommender:
        """What is exported, over an index."""
        interactions = self.dataset.interactions
        return Recommender(
            ServingModel(
                user_ids=self.dataset.users.ids,
                video_ids=self.dataset.videos.ids,
                query_tower=retrieval.query_tower,
                video_embeddings=ranking.video_embeddings,
                history_embeddings=ranking.history_embeddings,
                is_cold=interactions.train_counts == 0,
                ranking=ranking,
                index=index,
                history_length=self.config.retrieval.query.history_length,
                log_end=int(interactions.timestamp.max()),
                temperature=self.config.retrieval.temperature,
                config=self.config.export,
                text_search=self._text_search(),
                safety=self.dataset.videos.safety,
                content_directions=self._content_directions,
                created_at=self.dataset.videos.created_at if self.dataset.videos.created_at.any() else None,
                layout=ranking.layout,
                cold_weight=1.0 if cold_videos is None else 1 - cold_videos.content_share,
            )
        )

    @cached_property
    def _content_directions(self) -> NDArray[np.float16] | None:
        return content_directions(self.content) if self.content else None

    def _text_search(self) -> TextSearch | None:
        text = self.content.modalities.get("text")
        if text is None or not self.dataset.videos.has_text:
            return None
        texts = sorted({*self.dataset.videos.texts, *self.dataset.videos.prompts} - {""})
        tuned = self.tuned.get("text")
        encoder = text_encoder(self.config.features.text, self._feature_cache, lambda: texts, tuned)
        search = TextSearch(encoder, text.values)
        return None if search.foreign_ops else search  # one signature must not keep servers from loading the others

    def video_encoder(
        self, retrieval: RetrievalModel, cold_videos: ColdVideos | None, tables: Tables
    ) -> VideoEncoder | None:
        """What embeds videos that are in no catalogue yet; None, and a word why, where nothing can.

        Args:
            retrieval: trained.
            cold_videos: what embeds them, if there is such a thing.
            tables: of `embed_videos`, in whose space it embeds.
        """
        features = self.config.features
        encoders = Encoders.of(self.dataset.videos, self.content, features, self._feature_cache, self.tuned)
        if cold_videos is None or encoders is None:
            lacking = "there is no cold-start head" if cold_videos is None else "no text, media or generation metadata"
            console.print(f"  no {VIDEO_ENCODER} is published: {lacking}")
            return None
        shift, now = self._cold_shift(retrieval, cold_videos, tables), _opening(self.final_task())

        def appeal(created_at: tf.Tensor) -> tf.Tensor:
            return retrieval.appeal.of_unwatched(created_at, now) + shift

        video_encoder = VideoEncoder(cold_videos, self.content, encoders, self.dataset.videos, appeal, now)
        if video_encoder.foreign_ops:
            lacked = ", ".join(sorted(video_encoder.foreign_ops))
            console.print(f"  no {VIDEO_ENCODER} is published: stock servers lack ops of its encoders ({lacked})")
            return None
        return video_encoder

    def _cold_shift(self, retrieval: RetrievalModel, cold_videos: ColdVideos, tables: Tables) -> float:
        """`_cold_appeal` as it is in the embeddings, 0 where no video is cold."""
        cold = np.flatnonzero(self.dataset.interactions.train_counts == 0)[:1]
        generated = np.zeros_like(tables.videos)
        generated[cold] = cold_videos.embed_videos(cold)
        published = retrieval.publish(generated, _opening(self.final_task()))
        return float((tables.videos[cold, -1] - published[cold, -1]).sum())

    def publish(
        self, recommenders: Mapping[str, Recommender], video_encoder: VideoEncoder | None = None
    ) -> dict[str, int]:
        """Exports the models as one release, each checked before it appears.

        A run that is resumed publishes what it has not published yet, or all where `export` has changed since.

        Returns:
            The version of each model.
        """
        config, models = self.config.export, self.run.folder / "models"
        exports = {name: self._export(recommender) for name, recommender in recommenders.items()}
        if video_encoder is not None:
            calls = video_encoder.warmup_calls(self.dataset.videos, config.warmup_requests)
            exports[VIDEO_ENCODER] = Export(video_encoder.save, video_encoder.call, calls)
        release = f"{self.run.id}-{_digest(asdict(config))[:8]}"
        version = release_version(models, exports, release)
        published = {
            name: publish(
                partial(export.write, name),
                models,
                name,
                config.keep_versions,
                stock=name != NATIVE,
                expected=export.answers(),
                release=release,
                at_least=version,
            )
            for name, export in exports.items()
        }
        console.print(f"  published {', '.join(f'{name} {version}' for name, version in published.items())}")
        details = {
            "encoders": dict(self.content.encoders),
            "modules": module_checksums(self.config.features, self._feature_cache, self.content.encoders, self.tuned),
            "fingerprint": fingerprint(self.config, self.dataset, self.content),
        }
        write_serving_config(models, [name for name in published if name != NATIVE], details)
        return published

    def _export(self, recommender: Recommender) -> Export:
        config, signatures = self.config.export, recommender.functions.keys()
        k = min(10, config.max_k)
        calls = recommender_calls(self.dataset, self.final_task(), signatures, config.warmup_requests, k)
        return Export(partial(save_recommender, recommender), recommender.call, calls)

    def evaluate_slates(self, recommender: Recommender) -> Metrics:
        """What users are shown in the end: recall of the slates that `recommend` answers, ranking included."""
        task = make_task(self.dataset.interactions, self.final_task().part, MAX_TUNING_USERS, self.config.seed)
        k = min(20, self.config.export.max_k)
        row_of = {video_id.encode(): row for row, video_id in enumerate(self.dataset.videos.ids)} | {b"": -1}
        shown = np.full((len(task), k), -1, np.int32)
        for start in range(0, len(task), SLATES_PER_CALL):
            positions = np.arange(start, min(start + SLATES_PER_CALL, len(task)))
            answer = recommender.call("recommend", task_requests(self.dataset, task, positions, k))["video_id"]
            shown[positions] = np.vectorize(row_of.__getitem__, otypes=[np.int32])(answer)
        hits, num_relevant = metrics.hits(shown, task.relevant), np.diff(task.relevant.indptr)
        cold = (task.train_counts == 0)[np.maximum(shown, 0)] & (shown >= 0)
        results = {
            f"recall@{k}": float(metrics.recall(hits, num_relevant, k).mean()),
            f"ndcg@{k}": float(metrics.ndcg(hits, num_relevant, k).mean()),
            f"cold_share@{k}": float(cold.sum() / max((shown >= 0).sum(), 1)),
            "users": len(task),
        }
        if self._content_directions is not None:
            alike = metrics.intra_list_similarity(shown, self._content_directions)
            results[f"intra_list_similarity@{k}"] = float(alike.mean())
        return results

    def example_slates(self, recommender: Recommender) -> list[ExampleSlate]:
        """What the recommender shows some users of the final part."""
        task = self.final_task()
        draw = np.random.default_rng(self.config.seed)
        count = min(self.config.evaluation.num_example_slates, len(task))
        positions = np.sort(draw.choice(len(task), count, replace=False))
        requests = task_requests(self.dataset, task, positions, min(SLATE_SHOWN, self.config.export.max_k))
        return ExampleSlates(self.dataset, task).make(positions, requests, recommender.call("recommend", requests))

    def dataset_metrics(self) -> Metrics:
        """What metrics.json says of the data."""
        part = self.final_task().part.name.lower()
        note = (
            f"Early stopping, and the weights of what stands beside the learned score, saw the {part} part that the figures "
            "come from: the split has no other one held out."
        )
        summary = {**self.dataset.summary, "evaluated_on": part, "rejects": self.dataset.rejects.counts()}
        return {**summary, "note": note} if self.final_task().part == self._validation_part else summary

    def curves(self) -> dict[str, list[Record]]:
        """Records of the epochs, by stage."""
        return {name: self.run.result(name)["records"] for name in TRAINED if self.run.finished(name)}

    def examples_per_second(self) -> float:
        """Training examples of retrieval per second, without validation, and without the first epoch, which traces."""
        records = self.run.result("retrieval")["records"]
        seconds = [record["seconds"] for record in records[1:] or records]
        return len(seconds) * self._retrieval_stream.num_examples / sum(seconds)

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

    @property
    def _feature_cache(self) -> Path:
        return self.config.features.cache or self.run.folder / "features"

    @property
    def _validation_part(self) -> Part:
        """Validation; the test part where a predefined split has no validation part."""
        return Part.VALIDATION if len(self.dataset.interactions.rows(Part.VALIDATION)) else Part.TEST

    def _validation_task(self) -> EvaluationTask:
        max_users = self.config.evaluation.max_users
        return make_task(self.dataset.interactions, self._validation_part, max_users, self.config.seed)

    def _embed(self, retrieval: RetrievalModel, queries: list[Query], tables: Tables) -> NDArray[np.float32]:
        table = tf.constant(tables.history)
        return np.concatenate([np.asarray(retrieval.embed_queries(query, table)) for query in queries])

    def _evaluate(self, task: EvaluationTask, queries: NDArray[np.float32], tables: Tables) -> dict[str, Metrics]:
        scores = InnerProducts(queries, tables.videos, tables.layout)
        return evaluate(scores, task, self.config.evaluation, self.config.seed)

    def _recall(self, task: EvaluationTask, queries: NDArray[np.float32], tables: Tables, slice_name: str) -> float:
        """Recall@20 without all that a report wants besides."""
        scores = InnerProducts(queries, tables.videos, tables.layout)
        results = evaluate(scores, task, EvaluationConfig(top_k=[10, 20], bootstrap_samples=1))
        return float(results[slice_name]["recall@20"])

    def _ranking_events(self) -> dict[Use, NDArray[np.int64]]:
        """Numbers of the validation part's events, by what the ranker uses them for.

        One user in five is held out to stop the training early and to calibrate it. Where there is no test part, another one
        in five is held out to measure it.
        """
        interactions = self.dataset.interactions
        events = np.flatnonzero(interactions.part == self._validation_part)
        group = interactions.user[events] % 5
        use = np.select([group == 0, group == 1], [Use.HOLDOUT, Use.MEASURING], Use.TRAINING)
        if self.final_task().part != self._validation_part:
            use[use == Use.MEASURING] = Use.TRAINING
        return {kind: events[use == kind] for kind in Use}

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

    def _ranking_metrics(self, ranking: Ranker, task: EvaluationTask) -> Metrics:
        config, seed = self.config.evaluation, self.config.seed
        results: Metrics = {}
        events = np.flatnonzero(self.dataset.interactions.part == task.part)
        if task.part == self._validation_part:
            events = self._ranking_events()[Use.MEASURING]
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
        epoch_batches: Callable[..., tf.data.Dataset],
        validate: Callable[[], Record],
        objective: Objective,
        distribution: Distribution = ONE_DEVICE,
    ) -> None:
        """Trains a stage's model, or gives it the weights of the run that is resumed."""
        folder = self.run.folder / "checkpoints" / stage
        rate = _learning_rate(config.learning_rate, config.epochs, int(epoch_batches(0).cardinality()))
        # In a loop inside a graph, TensorFlow takes it for an error when sparse gradients change their number of rows.
        steps = 1 if distribution.strategy else getattr(config, "steps_per_execution", 1)
        model.acceleration = self.config.acceleration
        with distribution.scope():
            optimizer = tf.keras.optimizers.Adam(rate) if distribution.strategy else Adam(rate)
            model.compile(optimizer=optimizer, steps_per_execution=steps)
        if self.run.finished(stage):
            console.print(f"  {stage.replace('_', ' ')} trained before")
            restore_best(model, folder)
            return
        if self.config.acceleration.xla:
            with distribution.scope():
                model.compute_loss(next(iter(epoch_batches(0))))  # no layer can be built inside what XLA compiles
        summary = tf.summary.create_file_writer(str(distribution.writable(self.run.folder / "logs" / stage)))
        with progress_bar(stage, "batches") as progress:

            def work() -> dict[str, Any]:
                epochs = config.epochs
                return {
                    "records": fit(
                        model, epoch_batches, validate, objective, epochs, folder, progress, summary, distribution
                    )
                }

            self.run.stage(stage, work)


def _cold_users(task: EvaluationTask) -> NDArray[np.int64]:
    """Positions in the task of the users with a relevant cold video."""
    return np.flatnonzero(task.relevant @ (task.train_counts == 0))


def _taste_scale(warm: NDArray[np.float32], generated: NDArray[np.float32]) -> float:
    """Median length of the tastes of warm videos over that of generated ones; both float32 `[n, D]`."""
    lengths = [float(np.median(np.linalg.norm(table[:, :-1], axis=1))) for table in (warm, generated)]
    return lengths[0] / max(lengths[1], 1e-6)


def _opening(task: EvaluationTask) -> int:
    """Unix seconds of the first request: when a part begins."""
    return int(task.timestamp.min(initial=np.iinfo(np.int64).max)) if len(task) else 0


def _validation_record(
    results: dict[str, Metrics], names: Set[str] = frozenset(), slice_name: str = "retrieval"
) -> Record:
    return {name: float(results[slice_name][name]) for name in sorted({"recall@20", "ndcg@20"} | names)}


def _learning_rate(
    peak: float, epochs: int, steps_per_epoch: int
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """From the peak down to nothing along a cosine over all epochs (Loshchilov and Hutter, ICLR 2017)."""
    return tf.keras.optimizers.schedules.CosineDecay(peak, epochs * steps_per_epoch)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(config: TrainConfig, dataset: Dataset, content: ContentFeatures) -> str:
    """A digest of everything that decides the result of a run: configuration, data and encoders."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_OF_THE_RESULT}
    log, videos = dataset.interactions, dataset.videos
    names = [*dataset.users.ids, *videos.ids, *videos.texts]
    digest = hashlib.sha256(json.dumps([settings, dict(content.encoders), names], sort_keys=True, default=str).encode())
    positions = [] if log.position is None else [log.position]
    for array in (log.user, log.video, log.timestamp, log.part, *log.labels.values(), *positions):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def clear_training(folder: Path) -> None:
    """Forgets the training of an earlier run; published models and cached features stay."""
    for name in ("checkpoints", "logs", SEEDS):
        shutil.rmtree(folder / name, ignore_errors=True)
