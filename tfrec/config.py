"""Configuration: one frozen dataclass per stage, nested in `TrainConfig`.

The docstrings below are what `python -m tfrec.train --help` prints. A value that cannot work is refused here, by
`__post_init__`, with what came and what was expected. This module imports nothing heavy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tfrec.errors import TfrecError

ColumnKind = Literal["categorical", "numeric", "text", "list"]
AudioDecoder = Literal["av", "tensorflow_io"]
QueryEncoder = Literal["attention", "transformer", "gru", "lstm", "decay", "mean"]
SEQUENCE_ENCODERS = ("transformer", "gru", "lstm")
"""Query encoders that read a history in order and can answer after each of its events."""

RetrievalObjective = Literal["recall@10", "recall@20", "ndcg@10", "ndcg@20", "hit_rate@10", "hit_rate@20", "mrr"]
Fusion = Literal["gated", "weighted", "concat", "attention"]
Graph = Literal["none", "lightgcn", "mmgcn"]
Loss = Literal["softmax", "gbce", "bpr"]
Calibration = Literal["platt", "isotonic"]
IndexKind = Literal["auto", "exact", "bfloat16", "scann", "portable"]
Storage = Literal["float32", "float16", "int8"]
EncoderTraining = Literal["frozen", "top_layers", "full"]
SamplingMode = Literal["uniform", "fixed_rate", "key_frames"]
Strategy = Literal["one_device", "mirrored", "multi_worker", "parameter_server"]
RecipeName = Literal["auto", "plain", "graph", "sequences"]
BaselineName = Literal[
    "popularity", "recent_popularity", "item_knn", "user_knn", "als", "bpr", "ease", "ease_content", "content_knn"
]


def _require(condition: bool, name: str, received: object, expected: str) -> None:
    if not condition:
        raise TfrecError(f"`{name}` must be {expected}. Received: {received!r}.")


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        _require(0 < getattr(owner, name) < math.inf, name, getattr(owner, name), "positive")


def _require_not_negative(owner: object, *names: str) -> None:
    for name in names:
        _require(0 <= getattr(owner, name) < math.inf, name, getattr(owner, name), "0 or more")


def _require_share(owner: object, *names: str) -> None:
    for name in names:
        _require(0 <= getattr(owner, name) < 1, name, getattr(owner, name), "at least 0 and less than 1")


@dataclass(frozen=True)
class DemoConfig:
    """The embedded demo dataset, used when no `data.folder` is given.

    Args:
        num_videos: videos rendered, with sound.
        num_users: simulated users.
        num_days: simulated days.
        seed: the same seed gives the same files.
    """

    num_videos: int = 400
    num_users: int = 1500
    num_days: int = 30
    seed: int = 7

    def __post_init__(self) -> None:
        _require_positive(self, "num_videos", "num_users", "num_days")
        _require_not_negative(self, "seed")


@dataclass(frozen=True)
class DataConfig:
    """The dataset folder and how to read it.

    Args:
        folder: dataset folder; without it the embedded demo dataset is used.
        columns: names in your files for the names of the contract, e.g. `{video_id: item, timestamp: ts}`.
        kinds: how to read a column, e.g. `{age: numeric, genres: list}`; what is not named is inferred.
        ignore: columns to leave out.
        validation_share: latest share of the interactions that validates, where there is no `split` column.
        test_share: share after that, for the final test.
        max_rejected: share of bad rows or files above which the run stops.
        min_category_count: rarer values of a categorical column count as unknown.
        cache: folder for the demo dataset.
    """

    folder: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, ColumnKind] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    validation_share: float = 0.1
    test_share: float = 0.1
    max_rejected: float = 0.01
    min_category_count: int = 1
    cache: Path = Path("runs/.cache")

    def __post_init__(self) -> None:
        _require_share(self, "validation_share", "test_share", "max_rejected")
        _require_not_negative(self, "min_category_count")
        total = self.validation_share + self.test_share
        _require(total < 1, "validation_share + test_share", total, "less than 1")


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a TF Hub BERT pair.

    Args:
        preprocessor: handle (URL or folder) of the preprocessing module; without it the project builds a small pair.
        encoder: handle of the encoder module.
        max_tokens: longer texts are cut.
        pooling: `pooled`: the vector the encoder calls pooled, if it has one; `mean`: mean over its tokens.
        batch_size: texts encoded at once.
        training: `frozen`: vectors are computed once and cached; `top_layers`, `full`: the encoder is fine-tuned with the towers.
        trainable_layers: transformer layers that `top_layers` trains, counted from the output.
    """

    preprocessor: str | None = None
    encoder: str | None = None
    max_tokens: int = 64
    pooling: Literal["pooled", "mean"] = "pooled"
    batch_size: int = 64
    training: EncoderTraining = "frozen"
    trainable_layers: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size", "trainable_layers")
        _require(self.max_tokens >= 3, "max_tokens", self.max_tokens, "3 or more: a beginning, a token and an end")
        _require(
            (self.preprocessor is None) == (self.encoder is None),
            "preprocessor, encoder",
            (self.preprocessor, self.encoder),
            "given both or neither",
        )


@dataclass(frozen=True)
class ImageConfig:
    """The frame encoder: a TF Hub image feature vector.

    Args:
        encoder: handle (URL or folder) of the module; without it the project builds a small CNN.
        image_size: height and width of a frame in pixels.
        num_frames: most frames taken per video.
        sampling: which: `uniform` over its length, `fixed_rate` (an even choice of more than `num_frames`), or `key_frames`
            (the middle of each scene; needs every frame of the video decoded).
        frames_per_second: of `fixed_rate`.
        batch_size: frames encoded at once.
        training: `frozen`: vectors are computed once and cached; `top_layers`, `full`: the encoder is fine-tuned with the towers.
        trainable_layers: blocks of layers that `top_layers` trains, counted from the output.
    """

    encoder: str | None = None
    image_size: int = 96
    num_frames: int = 8
    sampling: SamplingMode = "uniform"
    frames_per_second: float = 1.0
    batch_size: int = 32
    training: EncoderTraining = "frozen"
    trainable_layers: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "num_frames", "frames_per_second", "batch_size", "trainable_layers")


@dataclass(frozen=True)
class AudioConfig:
    """MFCC of the sound track.

    Args:
        sample_rate_hz: rate to which sound is resampled.
        num_coefficients: MFCC kept per window.
        window_samples: samples per window (a power of two is fastest).
        hop_samples: samples between windows.
        max_seconds: longer sound tracks are cut.
        num_steps: length in time of the stored MFCC sequence; windows are averaged down to it.
        num_mel_bands: mel bands that the coefficients are made of.
        lowest_hz: where the lowest band begins.
        highest_hz: where the highest band ends; 0 means half the sample rate.
        top_db: dynamic range in decibels below a sound's loudest.
        deltas: derivatives kept beside the coefficients: 0, 1 (how they change) or 2 (and how that changes).
        decoder: of plain sound files (wav, flac, mp3, ogg): `av` (faster), or `tensorflow_io`, and `av` where that fails.
    """

    sample_rate_hz: int = 16_000
    num_coefficients: int = 40
    window_samples: int = 2048
    hop_samples: int = 512
    max_seconds: float = 30.0
    num_steps: int = 32
    num_mel_bands: int = 128
    lowest_hz: float = 0.0
    highest_hz: float = 0.0
    top_db: float = 80.0
    deltas: int = 0
    decoder: AudioDecoder = "av"

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "sample_rate_hz",
            "num_coefficients",
            "window_samples",
            "hop_samples",
            "max_seconds",
            "num_steps",
            "num_mel_bands",
            "top_db",
        )
        _require_not_negative(self, "lowest_hz", "highest_hz")
        _require(self.deltas in (0, 1, 2), "deltas", self.deltas, "0, 1 or 2")
        bands = f"at most num_mel_bands ({self.num_mel_bands})"
        _require(self.num_coefficients <= self.num_mel_bands, "num_coefficients", self.num_coefficients, bands)
        half = self.sample_rate_hz / 2
        edges = (self.lowest_hz, self.highest_hz)
        ascending = self.lowest_hz < (self.highest_hz or half) <= half
        _require(ascending, "lowest_hz, highest_hz", edges, f"ascending and at most half the sample rate ({half:g})")

    @property
    def dim(self) -> int:
        """Numbers per step: the coefficients and their deltas."""
        return self.num_coefficients * (1 + self.deltas)


@dataclass(frozen=True)
class FeaturesConfig:
    """Content features: which encoders read the raw media and texts.

    Args:
        text: BERT pair for title, tags and prompt.
        image: CNN over frames.
        audio: MFCC.
        workers: processes that decode media; 0 means one per core.
        file_timeout_seconds: a file that takes longer is rejected.
        cache: folder of the feature cache; default `<output>/features`.
    """

    text: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    workers: int = 0
    file_timeout_seconds: float = 60.0
    cache: Path | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "file_timeout_seconds")
        _require_not_negative(self, "workers")

    @property
    def fine_tuned(self) -> tuple[str, ...]:
        """Modalities whose encoder is trained with the towers."""
        training = {"text": self.text.training, "video": self.image.training}
        return tuple(name for name, mode in training.items() if mode != "frozen")


@dataclass(frozen=True)
class QueryConfig:
    """The query tower.

    Args:
        encoder: how the history becomes one vector: pooled by `attention` (time-aware), `decay` (exponential) or `mean`; or
            read in order by a `transformer` (causal self-attention), `gru` or `lstm`, which a log without times averages.
        history_length: most recent events used.
        num_heads: attention heads, of `attention` and `transformer`.
        num_blocks: blocks of the `transformer`.
        hidden_units: width inside its feed-forward networks.
        age_bias: whether its attention weighs events by their age besides their distance.
        half_life_days: half-life of an event's weight, for `decay`; learned from this start.
        user_ids: whether known users have an embedding of their own beside their history.
        event_kinds: whether click, finish and like embed differently (the served signature carries no kinds).
        user_id_dropout: share of training queries that see no user id, so that unknown users work.
        network: whether a network over history, user and their side columns refines the query; without it, as suits logs
            with few events per user, it is the pooled history alone.
        dropout: dropout of the finished query embedding.
    """

    encoder: QueryEncoder = "attention"
    history_length: int = 50
    num_heads: int = 2
    num_blocks: int = 2
    hidden_units: int = 128
    age_bias: bool = False
    half_life_days: float = 7.0
    user_ids: bool = True
    event_kinds: bool = False
    user_id_dropout: float = 0.5
    network: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(self, "history_length", "num_heads", "num_blocks", "hidden_units", "half_life_days")
        _require_share(self, "user_id_dropout", "dropout")
        reads_ages = self.encoder == "transformer" or not self.age_bias
        _require(reads_ages, "age_bias", self.age_bias, f"false with the encoder {self.encoder}; `transformer` has one")


@dataclass(frozen=True)
class CandidateConfig:
    """The candidate tower.

    Args:
        use_content: whether content features go in, through trained adapters.
        id_dropout: share of training candidates that see no video id, so that content alone carries them.
        modality_dropout: chance with which a modality is hidden in training.
        adapter_units: width of each modality's adapter.
        fusion: how the modalities of a video become one vector: `gated` (sum through gates), `weighted` (learned softmax
            weights), `concat` (side by side, then dense) or `attention` (across modalities); see docs/towers.md.
        alignment_weight: weight of the loss that makes the modalities of one video agree.
        frame_pooling: how frames become one vector after their convolution over time: `attention` (learned weights) or `mean`.
        audio_tower: `convolution` over time, or an adapter over `statistics` (mean and deviation).
        audio_time_mask: widest stretch of a sound that is hidden in training, as a share of it (SpecAugment).
        audio_coefficient_mask: widest stretch of its coefficients that is hidden in training, as a share of them.
        graph: whether embeddings take in what their neighbours hold, videos that the same users watched: `none`,
            `lightgcn` (ids) or `mmgcn` (each modality besides); see docs/graph.md.
        graph_layers: hops.
        graph_max_events: training events of a user that the graph holds, drawn at random; 0 takes all.
        graph_neighbours: most similar videos by content that a video takes in; 0 none.
        graph_modalities: what "similar" is judged by; all modalities where none is named.
        graph_content_weight: weight of their mean.
        separate_history: whether a video in a history is embedded by a tower of its own.
    """

    use_content: bool = True
    id_dropout: float = 0.2
    modality_dropout: float = 0.0
    adapter_units: int = 64
    fusion: Fusion = "gated"
    alignment_weight: float = 0.0
    frame_pooling: Literal["attention", "mean"] = "attention"
    audio_tower: Literal["convolution", "statistics"] = "convolution"
    audio_time_mask: float = 0.0
    audio_coefficient_mask: float = 0.0
    graph: Graph = "none"
    graph_layers: int = 2
    graph_max_events: int = 0
    graph_neighbours: int = 0
    graph_modalities: list[str] = field(default_factory=list)
    graph_content_weight: float = 0.5
    separate_history: bool = False

    def __post_init__(self) -> None:
        _require_positive(self, "adapter_units", "graph_layers")
        _require_share(self, "id_dropout", "modality_dropout", "audio_time_mask", "audio_coefficient_mask")
        _require_not_negative(self, "alignment_weight", "graph_max_events", "graph_neighbours", "graph_content_weight")


@dataclass(frozen=True)
class RetrievalConfig:
    """Two-tower retrieval.

    Args:
        embedding_dim: width of query and candidate embeddings.
        query: the query tower.
        candidate: the candidate tower.
        training: `events`: an example is an event and its history, the other events of the batch are negatives too;
            `sequences`: an example is a run of up to `query.history_length` events of a user, each of them a target, for the
            encoders that read a history in order; `sets`: an example is a user, of whose videos one half, drawn each epoch,
            foretells the other, for logs without times and encoders that pool. Then `batch_size` counts users.
        ensemble_size: parts that the embedding is cut into, each trained to rank on its own; the score is their mean.
        loss: `softmax`: cross-entropy of the target among the negatives; `gbce`: binary cross-entropy with many negatives
            (Petrov and Macdonald, RecSys 2023); `bpr`: pairs of the target and each negative (Rendle et al., UAI 2009).
        mask_positives: of `training: events`, whether the user's other positives are no negatives. In `sequences` they are
            negatives; in `sets` what is history is none, and the other targets share the likelihood.
        gbce_calibration: of `gbce`: at 0 its scores are those of plain binary cross-entropy, at 1 as if it had had all
            videos for negatives.
        trends: whether a video's appeal follows how much it was watched lately and how new it is; off where the
            timestamps are no times but positions. Without, popularity may count less than in training (docs/recipes.md).
        num_uniform_negatives: uniform negatives from the catalogue, shared by the batch; all warm videos, where these are
            not more.
        num_popular_negatives: further ones, drawn by the counts of videos to the power .75.
        num_hard_negatives: further ones: what the model takes for likeliest of eight times as many uniform draws.
        queue_size: targets of earlier batches that are negatives too, by their embeddings of then (cross-batch memory). These
            three are for `training: events`, where negatives are a sample.
        linear_dim: width of the factors of a linear model from videos to videos (EASE or item-kNN) that stands beside the
            towers, where it finds more in the validation part; 0: without. For catalogues of at most 20,000 watched videos.
        temperature: divides the scores in the softmax.
        log_q_correction: whether the bias of in-batch negatives is corrected (Yi et al., RecSys 2019).
        frequency: of targets, for the correction: `exact`, counted, or `streaming`, followed while batches go by.
        dropout: dropout inside the towers.
        learning_rate: peak learning rate of Adam.
        weight_decay: L2 penalty on the embedding tables.
        batch_size: positives per step; sequences, where it trains on these.
        max_examples_per_user: positives that an epoch takes from one user; 0 takes all.
        user_exponent: an epoch takes so many of a user's n positives: n to this power.
        min_examples_per_user: users with fewer positives are no examples (where all have fewer, those with the most are). In a
            log without times, 2 leaves out queries without a history, which teach popularity alone.
        epochs: most epochs.
        patience: epochs without a better validation metric before training stops.
        objective: that metric.
        steps_per_execution: steps per call into the graph.
    """

    embedding_dim: int = 64
    query: QueryConfig = field(default_factory=QueryConfig)
    candidate: CandidateConfig = field(default_factory=CandidateConfig)
    training: Literal["events", "sequences", "sets"] = "events"
    ensemble_size: int = 1
    loss: Loss = "softmax"
    mask_positives: bool = True
    gbce_calibration: float = 0.75
    trends: bool = True
    num_uniform_negatives: int = 8192
    num_popular_negatives: int = 0
    num_hard_negatives: int = 0
    queue_size: int = 0
    linear_dim: int = 0
    temperature: float = 1.0
    log_q_correction: bool = True
    frequency: Literal["exact", "streaming"] = "exact"
    dropout: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    batch_size: int = 1024
    max_examples_per_user: int = 0
    user_exponent: float = 1.0
    min_examples_per_user: int = 1
    epochs: int = 15
    patience: int = 4
    objective: RetrievalObjective = "recall@20"
    steps_per_execution: int = 16

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "embedding_dim",
            "ensemble_size",
            "temperature",
            "learning_rate",
            "batch_size",
            "min_examples_per_user",
            "epochs",
            "patience",
            "steps_per_execution",
        )
        _require_share(self, "dropout")
        _require_not_negative(self, "num_uniform_negatives", "max_examples_per_user", "weight_decay", "linear_dim")
        _require(0 <= self.gbce_calibration <= 1, "gbce_calibration", self.gbce_calibration, "from 0 to 1")
        if self.training == "sequences":
            encoders = f"one of {', '.join(SEQUENCE_ENCODERS)} where `training` is sequences"
            _require(self.query.encoder in SEQUENCE_ENCODERS, "query.encoder", self.query.encoder, encoders)
            _require_positive(self, "num_uniform_negatives")
            separate = self.candidate.separate_history
            _require(not separate, "candidate.separate_history", separate, "off where `training` is sequences")
        further = ("num_popular_negatives", "num_hard_negatives", "queue_size")
        _require_not_negative(self, *further)
        if self.training != "events":
            for name in further:
                _require(not getattr(self, name), name, getattr(self, name), "0 unless `training` is events")
            _require(self.frequency == "exact", "frequency", self.frequency, "exact unless `training` is events")
            least = self.min_examples_per_user
            _require(least == 1, "min_examples_per_user", least, "1 unless `training` is events")
        if self.training == "sets":
            pools = "one that pools where `training` is sets"
            _require(self.query.encoder not in SEQUENCE_ENCODERS, "query.encoder", self.query.encoder, pools)
            _require(self.loss == "softmax", "loss", self.loss, "softmax where `training` is sets")
            _require(
                not self.query.event_kinds, "query.event_kinds", self.query.event_kinds, "off where `training` is sets"
            )
            every = "1, and `max_examples_per_user` 0, where `training` is sets: an example is a user"
            whole = self.user_exponent == 1 and not self.max_examples_per_user
            _require(whole, "user_exponent", self.user_exponent, every)
        _require(0 <= self.user_exponent <= 1, "user_exponent", self.user_exponent, "from 0 to 1")
        divisor = f"a divisor of embedding_dim - 1 ({self.embedding_dim - 1})"
        _require((self.embedding_dim - 1) % self.ensemble_size == 0, "ensemble_size", self.ensemble_size, divisor)
        pooled = self.ensemble_size == 1 or self.query.encoder not in SEQUENCE_ENCODERS
        _require(pooled, "ensemble_size", self.ensemble_size, f"1 with the encoder {self.query.encoder}")
        heads = self.query.num_heads if self.query.encoder in ("attention", "transformer") else 1
        _require(
            self.embedding_dim > 1 and self.embedding_dim % heads == 0,
            "embedding_dim",
            self.embedding_dim,
            f"at least 2 and a multiple of query.num_heads ({heads})",
        )


@dataclass(frozen=True)
class FineTuningConfig:
    """Training of the content encoders together with the towers, after retrieval; for `features.*.training` other than frozen.

    Every candidate of a step goes through the encoders with gradients, so a step has few: at most `batch_size` targets and
    `num_uniform_negatives` others.

    Args:
        learning_rate: peak learning rate of Adam for the towers.
        encoder_learning_rate: the same for the encoders.
        batch_size: positives per step.
        num_uniform_negatives: uniform negatives from the catalogue, shared by the batch, besides the batch itself.
        max_examples_per_user: positives that an epoch takes from one user, other ones each epoch; 0 takes all.
        epochs: most epochs.
        patience: epochs without a better validation metric (`retrieval.objective`) before training stops.
    """

    learning_rate: float = 3e-4
    encoder_learning_rate: float = 3e-5
    batch_size: int = 128
    num_uniform_negatives: int = 128
    max_examples_per_user: int = 0
    epochs: int = 3
    patience: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "encoder_learning_rate", "batch_size", "epochs", "patience")
        _require_not_negative(self, "num_uniform_negatives", "max_examples_per_user")


@dataclass(frozen=True)
class RankingConfig:
    """Multi-task ranking.

    Args:
        network: whether the model learns from all features; without, it is a weighted sum of the scores of retrieval and of the
            linear model, for logs that cannot teach more.
        hidden_units: widths of the shared network.
        num_cross_layers: explicit feature crosses (DCN-v2).
        negatives_per_positive: sampled negatives where the log holds positives only.
        linear_dim: width of the factors of a linear model from videos to videos (EASE), whose score is a feature; 0: without.
        num_experts: networks of these widths that each task weighs by a gate of its own (MMoE); 0: one that all share.
        position_bias: whether training takes account of the `position` at which the log says that a video was shown.
        calibration: of the probabilities: `platt` (a line on the logits), or `isotonic` after it (a rising curve).
        distilled_units: widths of a small ranker that learns from the trained one and is published in its place; none keeps it.
        dropout: dropout inside the network.
        learning_rate: learning rate of Adam.
        batch_size: events per step.
        epochs: most epochs.
        patience: epochs without a better validation loss before training stops.
    """

    network: bool = True
    hidden_units: list[int] = field(default_factory=lambda: [128, 64])
    num_cross_layers: int = 2
    negatives_per_positive: int = 4
    linear_dim: int = 0
    num_experts: int = 0
    position_bias: bool = False
    calibration: Calibration = "platt"
    distilled_units: list[int] = field(default_factory=list)
    dropout: float = 0.3
    learning_rate: float = 1e-3
    batch_size: int = 256
    epochs: int = 30
    patience: int = 4

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "batch_size", "epochs", "patience")
        _require_share(self, "dropout")
        _require_not_negative(self, "num_cross_layers", "negatives_per_positive", "linear_dim", "num_experts")
        widths = "a list of positive widths"
        _require(min(self.distilled_units, default=1) > 0, "distilled_units", self.distilled_units, widths)
        _require(
            len(self.hidden_units) > 0 and min(self.hidden_units) > 0,
            "hidden_units",
            self.hidden_units,
            "a list of at least one width, each positive",
        )


@dataclass(frozen=True)
class ColdStartConfig:
    """The VAE head that gives videos nobody has watched an embedding.

    Args:
        enabled: without it cold videos are embedded by the candidate tower, their id unknown.
        content_dim: width of the content block, in which cold videos are compared with what was watched by content itself, as
            content-kNN does; 0 leaves it out, and so does a run where it finds no more of them.
        hidden_units: width of encoder and decoder.
        kl_weight: weight of the KL term after annealing.
        annealing_epochs: epochs over which the KL weight rises from 0.
        free_bits: nats that each dimension of the latent may hold on average before the KL term counts it (Kingma et al.,
            NeurIPS 2016).
        generation_prior: whether the KL term draws the latents of generated videos towards what their generation metadata
            tell, a learned normal distribution, and not towards the standard one.
        calibrate_norms: whether cold videos' tastes are scaled to the median length of warm ones'.
        exploration_weight: what one standard deviation of a cold video's latent, mean over its dimensions, adds to its appeal.
        reconstruction_weight: weight of the content reconstruction.
        alignment_weight: weight of the distance to the collaborative embedding.
        generation_share: share of the videos that training shows by their generation metadata alone, as before rendering.
        dropout: input dropout.
        learning_rate: learning rate of Adam.
        batch_size: positives per step.
        epochs: most epochs.
        patience: epochs without a better validation recall before training stops.
    """

    enabled: bool = True
    content_dim: int = 64
    hidden_units: int = 256
    kl_weight: float = 1e-3
    annealing_epochs: int = 5
    free_bits: float = 0.0
    generation_prior: bool = False
    calibrate_norms: bool = False
    exploration_weight: float = 0.0
    reconstruction_weight: float = 0.1
    alignment_weight: float = 0.1
    generation_share: float = 0.1
    dropout: float = 0.1
    learning_rate: float = 1e-3
    batch_size: int = 1024
    epochs: int = 30
    patience: int = 5

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "hidden_units",
            "annealing_epochs",
            "learning_rate",
            "batch_size",
            "epochs",
            "patience",
        )
        _require_share(self, "dropout", "generation_share")
        _require_not_negative(
            self,
            "content_dim",
            "kl_weight",
            "free_bits",
            "exploration_weight",
            "reconstruction_weight",
            "alignment_weight",
        )


@dataclass(frozen=True)
class IndexConfig:
    """The nearest-neighbour index.

    Args:
        kind: `exact`, `bfloat16` (exact, for servers with GPUs), `scann` (native op), `portable` (its tree as stock ops),
            `auto`: exact up to `exact_below` videos, portable above.
        exact_below: catalogue size up to which `auto` searches exactly.
        recall_target: recall@100 against exact search that the number of searched leaves is chosen for.
        num_leaves: leaves of the tree; 0 chooses from the catalogue size.
        leaves_to_search: leaves searched; 0 chooses from `recall_target`.
        storage: type of the vectors in a `portable` index; what it finds by rounded ones is scored again exactly.
    """

    kind: IndexKind = "auto"
    exact_below: int = 20_000
    recall_target: float = 0.95
    num_leaves: int = 0
    leaves_to_search: int = 0
    storage: Storage = "float32"

    def __post_init__(self) -> None:
        _require(0 < self.recall_target <= 1, "recall_target", self.recall_target, "above 0 and at most 1")
        _require_not_negative(self, "exact_below", "num_leaves", "leaves_to_search")


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation over the whole catalogue, and the baselines.

    Args:
        top_k: cut-offs of recall, NDCG, hit rate and coverage.
        baselines: fitted on the same split in the same run, their settings chosen on the validation part.
        bootstrap_samples: resamples of the users for the 95 % intervals.
        num_seeds: runs that mean and deviation are told of: `seed` and those after it. Further ones train all models anew and
            are measured, not published.
        max_users: users evaluated at most, drawn by the seed; 0 means all.
        num_example_slates: slates shown in the report.
        category_column: column of videos.csv by which the report tells how well content features know a video; without
            such a categorical column it leaves that out.
    """

    top_k: list[int] = field(default_factory=lambda: [10, 20, 100])
    baselines: list[BaselineName] = field(default_factory=lambda: list(get_args(BaselineName)))
    bootstrap_samples: int = 1000
    num_seeds: int = 1
    max_users: int = 0
    num_example_slates: int = 6
    category_column: str = "category"

    def __post_init__(self) -> None:
        wanted = {10, 20} <= set(self.top_k) and min(self.top_k) > 0
        _require(wanted, "top_k", self.top_k, "a list of positive cut-offs with 10 and 20 in it")
        _require_positive(self, "num_seeds")
        _require_not_negative(self, "bootstrap_samples", "max_users", "num_example_slates")


@dataclass(frozen=True)
class ExportConfig:
    """What is published for TensorFlow Serving.

    Args:
        max_k: slots a `recommend` call can ask for.
        num_candidates: videos retrieved and ranked for a slate.
        click_weight: weight of the click probability in the final score.
        finish_weight: weight of the finish probability.
        like_weight: weight of the like probability.
        freshness_weight: weight of freshness, which is 1 for a new video and halves every `freshness_half_life_days`; 0 for
            one whose `created_at` is unknown.
        freshness_half_life_days: of freshness.
        min_safety: videos whose `safety` is less are not shown, unless a request asks for another threshold.
        retrieval_exponent: the final score is the weighted sum of the probabilities (worth showing) times the retrieval
            softmax (likely to be watched next) to this power; 0 leaves retrieval out.
        diversity: share of a slot that is given for being unlike the rest of the slate, from 0 (score alone) to 1.
        max_similarity: two videos whose contents have a larger cosine are never in one slate; 1 allows duplicates.
        keep_versions: published versions kept, not counting those that were rolled back.
        warmup_requests: recorded requests that warm a loaded version up.
    """

    max_k: int = 100
    num_candidates: int = 500
    click_weight: float = 1.0
    finish_weight: float = 0.5
    like_weight: float = 0.5
    freshness_weight: float = 0.0
    freshness_half_life_days: float = 7.0
    min_safety: float = 0.0
    retrieval_exponent: float = 1.0
    diversity: float = 0.0
    max_similarity: float = 0.95
    keep_versions: int = 3
    warmup_requests: int = 12

    def __post_init__(self) -> None:
        _require_positive(self, "max_k", "num_candidates", "freshness_half_life_days", "keep_versions")
        _require(0 <= self.diversity <= 1, "diversity", self.diversity, "between 0 and 1")
        _require(0 < self.max_similarity <= 1, "max_similarity", self.max_similarity, "above 0 and at most 1")
        _require(0 <= self.min_safety <= 1, "min_safety", self.min_safety, "between 0 and 1")
        weights = (self.click_weight, self.finish_weight, self.like_weight)
        _require(max(weights) > 0, "click_weight, finish_weight, like_weight", weights, "above 0, one of them at least")
        _require_not_negative(self, "click_weight", "finish_weight", "like_weight", "freshness_weight")
        _require_not_negative(self, "retrieval_exponent", "warmup_requests")
        _require(
            self.num_candidates >= self.max_k,
            "num_candidates",
            self.num_candidates,
            f"at least max_k ({self.max_k})",
        )


@dataclass(frozen=True)
class DistributionConfig:
    """On what retrieval and ranking are trained; see docs/scaling.md. `--strategy` stands for `--distribution.strategy`.

    Args:
        strategy: `one_device`; `mirrored`, all GPUs of this machine; `multi_worker`, all workers that the environment variable
            `TF_CONFIG` names, in step; `parameter_server`, its workers each at their own pace, on tables that lie on its
            parameter servers. The last two are chosen by themselves where `TF_CONFIG` names several workers, or servers.
    """

    strategy: Strategy = "one_device"


@dataclass(frozen=True)
class AccelerationConfig:
    """How the training steps of retrieval and ranking are computed; docs/scaling.md has what it gains.

    Args:
        mixed_precision: products of layers in bfloat16, everything else in float32; for processors with such instructions.
        xla: what has the same shapes in every step is compiled: networks over histories, the ranker.
    """

    mixed_precision: bool = False
    xla: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Trains, evaluates and publishes a video recommender from a dataset folder.

    Args:
        output: folder of the run; default `runs/<dataset name>`.
        seed: the same seed on the same machine gives the same result, on CPUs.
        resume: continue a run that was stopped.
        recipe: options of retrieval that were not given are those of `plain` (the defaults), `graph` (users with few events),
            `sequences` (long histories in order), or `auto`: of what the data call for (docs/recipes.md).
        given: names of the options that were given, so that no recipe changes them; None: those that differ from the defaults.
        data: the dataset.
        demo: the embedded demo dataset.
        features: content features.
        retrieval: two-tower retrieval.
        fine_tuning: content encoders trained with the towers.
        ranking: multi-task ranking.
        cold_start: embeddings for new videos.
        index: nearest-neighbour index.
        evaluation: metrics and baselines.
        export: SavedModels.
        distribution: devices and workers that train.
        acceleration: how they compute.
    """

    output: Path | None = None
    seed: int = 1
    resume: bool = False
    recipe: RecipeName = "auto"
    given: frozenset[str] | None = field(default=None, compare=False)
    data: DataConfig = field(default_factory=DataConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    acceleration: AccelerationConfig = field(default_factory=AccelerationConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 1 << 31, "seed", self.seed, "at least 0 and less than 2 ** 31")
        graph = self.retrieval.candidate.graph
        if self.features.fine_tuned:
            _require(graph == "none", "retrieval.candidate.graph", graph, "none where an encoder is fine-tuned")
