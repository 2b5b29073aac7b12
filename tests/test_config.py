"""Every value that cannot work is refused by name, in one line."""

import dataclasses
import math
from pathlib import Path

import pytest

from tfrec import config as configuration
from tfrec.config import (
    AudioConfig,
    CandidateConfig,
    ColdStartConfig,
    DataConfig,
    EvaluationConfig,
    ExportConfig,
    FeaturesConfig,
    IndexConfig,
    QueryConfig,
    RankingConfig,
    RetrievalConfig,
    TextConfig,
    TrainConfig,
)
from tfrec.errors import TfrecError

CONFIGS = [kind for kind in vars(configuration).values() if dataclasses.is_dataclass(kind)]
NUMBERS = [(kind, field.name, field.type) for kind in CONFIGS for field in dataclasses.fields(kind)]
NUMBERS = [(kind, name, type_) for kind, name, type_ in NUMBERS if type_ in ("int", "float")]

FINE_TUNED = FeaturesConfig(text=TextConfig(training="full"))
OVER_A_GRAPH = RetrievalConfig(candidate=CandidateConfig(graph="lightgcn"))

BAD = [
    (DataConfig, {"validation_share": 1.0}, "validation_share"),
    (DataConfig, {"test_share": 1.2}, "test_share"),
    (DataConfig, {"validation_share": 0.5, "test_share": 0.5}, "validation_share + test_share"),
    (DataConfig, {"max_rejected": 1.0}, "max_rejected"),
    (TextConfig, {"encoder": "bert"}, "preprocessor, encoder"),
    (TextConfig, {"preprocessor": "bert"}, "preprocessor, encoder"),
    (TrainConfig, {"features": FINE_TUNED, "retrieval": OVER_A_GRAPH}, "retrieval.candidate.graph"),
    (AudioConfig, {"deltas": 3}, "deltas"),
    (AudioConfig, {"num_coefficients": 41, "num_mel_bands": 40}, "num_coefficients"),
    (AudioConfig, {"highest_hz": 8_001}, "lowest_hz, highest_hz"),
    (AudioConfig, {"lowest_hz": 8_000}, "lowest_hz, highest_hz"),
    (QueryConfig, {"num_heads": 0}, "num_heads"),
    (QueryConfig, {"half_life_days": 0.0}, "half_life_days"),
    (QueryConfig, {"age_bias": True}, "age_bias"),
    (QueryConfig, {"user_id_dropout": 1.0}, "user_id_dropout"),
    (CandidateConfig, {"id_dropout": 1.0}, "id_dropout"),
    (CandidateConfig, {"modality_dropout": 1.0}, "modality_dropout"),
    (CandidateConfig, {"audio_time_mask": 1.0}, "audio_time_mask"),
    (RetrievalConfig, {"temperature": 0.0}, "temperature"),
    (RetrievalConfig, {"gbce_calibration": 1.1}, "gbce_calibration"),
    (RetrievalConfig, {"training": "sequences"}, "query.encoder"),
    (
        RetrievalConfig,
        {"training": "sequences", "query": QueryConfig(encoder="gru"), "num_uniform_negatives": 0},
        "num_uniform_negatives",
    ),
    (RetrievalConfig, {"embedding_dim": 9, "query": QueryConfig(encoder="transformer")}, "embedding_dim"),
    (RetrievalConfig, {"epochs": 0}, "epochs"),
    (RetrievalConfig, {"dropout": 1.0}, "dropout"),
    (RetrievalConfig, {"embedding_dim": 1, "query": QueryConfig(num_heads=1)}, "embedding_dim"),
    (RetrievalConfig, {"embedding_dim": 10, "query": QueryConfig(num_heads=4)}, "embedding_dim"),
    (QueryConfig, {"dropout": 1.0}, "dropout"),
    (CandidateConfig, {"graph_layers": 0}, "graph_layers"),
    (CandidateConfig, {"graph_neighbours": -1}, "graph_neighbours"),
    (RetrievalConfig, {"user_exponent": 1.5}, "user_exponent"),
    (RetrievalConfig, {"min_examples_per_user": 0}, "min_examples_per_user"),
    (RetrievalConfig, {"training": "sets", "min_examples_per_user": 2}, "min_examples_per_user"),
    (RetrievalConfig, {"embedding_dim": 64, "ensemble_size": 4}, "ensemble_size"),
    (RankingConfig, {"hidden_units": []}, "hidden_units"),
    (RankingConfig, {"hidden_units": [64, 0]}, "hidden_units"),
    (RankingConfig, {"batch_size": 0}, "batch_size"),
    (ColdStartConfig, {"annealing_epochs": 0}, "annealing_epochs"),
    (ColdStartConfig, {"content_dim": -1}, "content_dim"),
    (ColdStartConfig, {"free_bits": -0.1}, "free_bits"),
    (ColdStartConfig, {"exploration_weight": -1.0}, "exploration_weight"),
    (ColdStartConfig, {"generation_share": 1.0}, "generation_share"),
    (IndexConfig, {"recall_target": 0.0}, "recall_target"),
    (IndexConfig, {"recall_target": 1.01}, "recall_target"),
    (EvaluationConfig, {"top_k": [10, 100]}, "top_k"),
    (EvaluationConfig, {"top_k": [0, 10, 20]}, "top_k"),
    (ExportConfig, {"max_k": 0}, "max_k"),
    (ExportConfig, {"max_k": 100, "num_candidates": 99}, "num_candidates"),
    (TrainConfig, {"seed": 1 << 31}, "seed"),
]


def refusal(kind: type, **values: object) -> str:
    with pytest.raises(TfrecError) as error:
        kind(**values)
    return str(error.value)


@pytest.mark.parametrize(("kind", "values", "name"), BAD, ids=lambda value: getattr(value, "__name__", str(value)))
def test_bad_values_are_refused_by_name(kind, values, name):
    message = refusal(kind, **values)
    assert message.startswith(f"`{name}` must be ")
    assert "Received: " in message
    assert "\n" not in message


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, _ in NUMBERS])
def test_no_number_may_be_negative(kind, name):
    assert refusal(kind, **{name: -1}).startswith(f"`{name}` must be ")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, type_ in NUMBERS if type_ == "float"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_are_finite(kind, name, value):
    assert f"`{name}" in refusal(kind, **{name: value})


def test_message_shows_what_came_and_what_was_expected():
    assert refusal(ExportConfig, num_candidates=50) == "`num_candidates` must be at least max_k (100). Received: 50."


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DataConfig, {"validation_share": 0.0, "test_share": 0.0, "max_rejected": 0.0}),
        (TextConfig, {"preprocessor": "a", "encoder": "b"}),
        (RetrievalConfig, {"embedding_dim": 9, "query": QueryConfig(encoder="gru", num_heads=2)}),
        (RetrievalConfig, {"num_uniform_negatives": 0, "dropout": 0.0}),
        (RankingConfig, {"num_cross_layers": 0, "negatives_per_positive": 0}),
        (IndexConfig, {"recall_target": 1.0}),
        (ExportConfig, {"max_k": 7, "num_candidates": 7, "warmup_requests": 0}),
    ],
)
def test_edges_are_allowed(kind, values):
    assert {name: getattr(kind(**values), name) for name in values} == values


def test_defaults_hold_and_cannot_be_changed():
    config = TrainConfig()
    assert config.data.folder is None
    assert config.data.cache == Path("runs/.cache")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2
