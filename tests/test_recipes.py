"""Recipes: what is chosen for which data, and that what the user gave stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from tfrec import recipes
from tfrec.config import QueryConfig, RetrievalConfig, TrainConfig
from tfrec.data.schema import Dataset, Interactions
from tfrec.errors import TfrecError
from tfrec.recipes import RECIPES, Facts, choose, with_recipe
from tfrec.train import as_yaml, parse_arguments

ROOT = Path(__file__).parents[1]
SPARSE = Facts(has_order=False, has_times=False, events_per_user=2, num_events=60_000, num_videos=7_000)


@pytest.mark.parametrize(
    ("facts", "recipe"),
    [
        (SPARSE, "graph"),
        (replace(SPARSE, has_order=True, has_times=True, events_per_user=5), "graph"),
        (replace(SPARSE, events_per_user=6), "plain"),
        (Facts(True, False, 96, 980_000, 3_400), "sequences"),
        (Facts(True, True, 65, 80_000, 1_700), "plain"),
        (Facts(True, True, 20, 1_000_000, 9_000), "plain"),
        (Facts(False, False, 96, 980_000, 3_400), "plain"),
    ],
)
def test_the_data_choose(facts: Facts, recipe: str) -> None:
    chosen, reason = choose(facts)
    assert chosen == recipe
    assert reason


def test_facts_of_a_log(sparse_dataset: Dataset) -> None:
    # Users 0 and 1 watched one video each in training, user 2 two; timestamps count from 1.
    assert Facts.of(sparse_dataset) == Facts(True, False, 1.0, 4, 3)


def test_options_that_were_given_stay(sparse_dataset: Dataset) -> None:
    given = parse_arguments(["--retrieval.epochs=15", "--retrieval.query.history_length=9"])  # 15 is the default
    config, line = with_recipe(given, sparse_dataset)
    assert (config.retrieval.epochs, config.retrieval.query.history_length) == (15, 9)
    assert (config.recipe, config.retrieval.query.encoder, config.retrieval.candidate.graph) == (
        "graph",
        "mean",
        "lightgcn",
    )
    assert not config.retrieval.trends, "timestamps are positions"
    assert line.startswith("graph: half of the users have at most 1 training events")
    assert "query.encoder mean" in line
    assert "epochs" not in line


def test_of_a_configuration_made_in_python_what_differs_is_given(sparse_dataset: Dataset) -> None:
    made = TrainConfig(retrieval=RetrievalConfig(query=QueryConfig(encoder="decay")))
    config, _ = with_recipe(made, sparse_dataset)
    assert (config.retrieval.query.encoder, config.retrieval.query.network) == ("decay", False)


def test_a_recipe_gives_way_to_options_that_it_cannot_be_mixed_with(sparse_dataset: Dataset) -> None:
    given = ["--retrieval.embedding_dim=16"]  # no four parts of equal width
    config, line = with_recipe(parse_arguments(given), sparse_dataset)
    assert (config.recipe, config.retrieval) == (
        "plain",
        RetrievalConfig(embedding_dim=16, trends=False, linear_dim=128),
    )
    assert "ensemble_size" in line
    with pytest.raises(TfrecError, match="ensemble_size"):
        with_recipe(parse_arguments([*given, "--recipe=graph"]), sparse_dataset)


def test_encoders_that_are_fine_tuned_keep_the_graph_away(sparse_dataset: Dataset) -> None:
    config, line = with_recipe(parse_arguments(["--features.text.training=top_layers"]), sparse_dataset)
    assert (config.recipe, config.retrieval.candidate.graph) == ("plain", "none")
    assert "graph does not go with the options given" in line


def test_a_linear_model_stands_beside_plain_towers_over_a_small_catalogue(
    sparse_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = parse_arguments(["--recipe=plain"])
    assert with_recipe(asked, sparse_dataset)[0].retrieval.linear_dim == 128
    assert with_recipe(parse_arguments([]), sparse_dataset)[0].retrieval.linear_dim == 0, "graph"
    monkeypatch.setattr(recipes, "SMALL_CATALOGUE", len(sparse_dataset.videos) - 1)
    assert with_recipe(asked, sparse_dataset)[0].retrieval.linear_dim == 0


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_holds_together_and_is_the_same_when_taken_again(name: str, sparse_dataset: Dataset) -> None:
    config, _ = with_recipe(parse_arguments([f"--recipe={name}"]), sparse_dataset)
    assert config.recipe == name
    assert with_recipe(config, sparse_dataset)[0].retrieval == config.retrieval


def test_what_was_resolved_is_read_back_and_stays(sparse_dataset: Dataset, tmp_path: Path) -> None:
    config, _ = with_recipe(parse_arguments(["--seed=3"]), sparse_dataset)
    (tmp_path / "config.yaml").write_bytes(as_yaml(config))
    again = parse_arguments([f"--config={tmp_path / 'config.yaml'}"])
    assert again == config
    assert with_recipe(replace(again, recipe="sequences"), sparse_dataset)[0].retrieval == config.retrieval


@pytest.mark.parametrize(("name", "file"), [("graph", "tiktok"), ("sequences", "ml-1m")])
def test_recipes_are_the_shipped_configurations(name: str, file: str) -> None:
    shipped = parse_arguments([f"--config={ROOT / 'pipelines' / 'configs' / file}.yaml"]).retrieval
    for path, value in RECIPES[name].items():
        assert attrgetter(path)(shipped) == value, path


@pytest.fixture
def sparse_dataset(make_dataset: Callable[..., Dataset], make_interactions: Callable[..., Interactions]) -> Dataset:
    return make_dataset(make_interactions([(0, 0, 1), (1, 1, 1), (2, 0, 1), (2, 2, 2)]))
