"""The search for hyper-parameters, on a small log that it really trains on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tensorflow.python.framework.config import disable_op_determinism

from tfrec.errors import TfrecError
from tfrec.train import open_stages, parse_arguments
from tfrec.tuning import Search, read_space

SPACE = {
    "retrieval.learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
    "retrieval.embedding_dim": CategoricalDistribution((8, 16)),
}


@pytest.fixture(scope="module", autouse=True)
def _determinism_ends_here() -> Iterator[None]:
    """Training makes the whole process deterministic, which other tests need not be."""
    yield
    disable_op_determinism()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a quick training on two clusters of users and videos."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    rows = [
        (user, 2 * video + user % 2, day) for user in range(30) for day, video in enumerate(draw.permutation(15)[:8])
    ]
    lines = [f"u{user},v{video},{86_400 * (1 + day)}" for user, video, day in rows]
    (folder / "interactions.csv").write_text("\n".join(["user_id,video_id,timestamp", *lines]))
    options = {"epochs": 2, "batch_size": 32, "num_uniform_negatives": 64, "embedding_dim": 8, "query.encoder": "mean"}
    return [f"--data={folder}", *(f"--retrieval.{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="module")
def searched(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, Path]:
    """A search that was stopped after one trial, with a second under way, and went on to two."""
    output = tmp_path_factory.mktemp("search")
    search = Search(arguments, SPACE, output)
    search.run(1)
    study = optuna.load_study(study_name="tfrec", storage=f"sqlite:///{output / 'study.db'}")
    (output / "trials" / str(study.ask(SPACE).number)).mkdir()
    again = Search(arguments, SPACE, output)
    again.run(2)
    return again, output


def test_tries_the_given_configuration_first(searched: tuple[Search, Path]) -> None:
    trials = _trials(searched[1])
    assert trials[0]["params_retrieval.embedding_dim"] == "8"
    assert float(trials[0]["params_retrieval.learning_rate"]) == pytest.approx(3e-3)


def test_goes_on_where_it_was_stopped(searched: tuple[Search, Path]) -> None:
    states = [trial["state"] for trial in _trials(searched[1])]
    assert states[1] == "FAIL"  # what was under way when it stopped
    assert len(states) == 3
    assert {"COMPLETE", "PRUNED"} >= {states[0], states[2]}


def test_leaves_the_best_configuration_ready_to_be_trained(searched: tuple[Search, Path], arguments: list[str]) -> None:
    output = searched[1]
    best = max((trial for trial in _trials(output) if trial["state"] == "COMPLETE"), key=lambda t: float(t["value"]))
    config = parse_arguments([f"--config={output / 'best.yaml'}"])
    assert config.retrieval.learning_rate == float(best["params_retrieval.learning_rate"])
    assert config.retrieval.batch_size == 32
    assert config.output is None


def test_the_given_configuration_is_tried_where_its_trial_was_stopped(arguments: list[str], tmp_path: Path) -> None:
    search = Search(arguments, SPACE, tmp_path)
    base = open_stages(search.config)
    stopped = search._study(base)
    stopped.enqueue_trial(search._given_values(base.config))
    stopped.ask(SPACE)  # killed during its first trial
    base.run.close()
    assert search.run(1).params["retrieval.learning_rate"] == pytest.approx(3e-3)


def test_values_what_stands_beside_the_towers_too(arguments: list[str], tmp_path: Path) -> None:
    """Towers of one epoch at no rate of learning know nothing; a linear model tells the clusters apart."""
    lame = [*arguments, "--retrieval.epochs=1", "--retrieval.learning_rate=1e-9", "--retrieval.objective=ndcg@10"]
    space = {"retrieval.linear_dim": CategoricalDistribution((0, 8))}
    search = Search(lame, space, tmp_path)
    search.run(4)
    value = {trial["params_retrieval.linear_dim"]: float(trial["value"]) for trial in _trials(tmp_path)}
    assert value["8"] > value["0"] + 0.1


def test_refuses_to_choose_by_the_test_part(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = (Path(arguments[0].split("=")[1]) / "interactions.csv").read_text().splitlines()
    parts = ["test" if number % 8 == 0 else "train" for number in range(1, len(rows))]
    (folder / "interactions.csv").write_text(
        "\n".join([rows[0] + ",split", *(f"{row},{part}" for row, part in zip(rows[1:], parts, strict=True))])
    )
    with pytest.raises(TfrecError, match="no validation part"):
        Search([f"--data={folder}", *arguments[1:]], SPACE, tmp_path / "search").run(1)


def test_a_trial_that_diverges_is_refused(arguments: list[str], tmp_path: Path) -> None:
    space = {"retrieval.learning_rate": CategoricalDistribution((1e30,))}
    with pytest.raises(TfrecError, match="No trial could be trained"):
        Search(arguments, space, tmp_path).run(1)


def test_its_value_is_the_objective_on_the_validation_part(searched: tuple[Search, Path]) -> None:
    complete = [trial for trial in _trials(searched[1]) if trial["state"] == "COMPLETE"]
    assert [trial["value"] for trial in complete] == [trial["user_attrs_recall@20"] for trial in complete]


def test_draws_a_picture_and_clears_up(searched: tuple[Search, Path]) -> None:
    output = searched[1]
    assert (output / "search.png").read_bytes().startswith(b"\x89PNG")
    assert not any((output / "trials").iterdir())


def test_keeps_a_configuration_that_cannot_work_as_refused(arguments: list[str], tmp_path: Path) -> None:
    space = {"retrieval.embedding_dim": CategoricalDistribution((1,))}  # appeal alone would fill it
    with pytest.raises(TfrecError, match="No trial could be trained"):
        Search(arguments, space, tmp_path).run(1)


def test_refuses_a_folder_with_another_search(searched: tuple[Search, Path], arguments: list[str]) -> None:
    with pytest.raises(TfrecError, match="holds a search with other options"):
        Search([*arguments, "--seed=9"], SPACE, searched[1]).run(2)


def test_reads_choices_and_ranges(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "retrieval.query.num_heads": [1, 2],
                "retrieval.epochs": {"low": 1, "high": 8, "step": 2},
                "retrieval.dropout": {"low": 0.1, "high": 1.0},
            }
        )
    )
    expected = {
        "retrieval.query.num_heads": CategoricalDistribution([1, 2]),
        "retrieval.epochs": IntDistribution(1, 7, step=2),
        "retrieval.dropout": FloatDistribution(0.1, 1.0),
    }
    assert read_space(path) == expected


@pytest.mark.parametrize("entry", ["7", "{low: 1}", "{low: 2, high: 1}", "{low: 1, high: 2, width: 3}", "[]"])
def test_refuses_what_is_no_space(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"retrieval.epochs: {entry}")
    with pytest.raises(TfrecError, match=r"retrieval\.epochs"):
        read_space(path)


@pytest.mark.parametrize(
    "name", ["retrieval.learning_rat", "retrieval", "retrieval.query", "retrieval.objective", "seed", "ranking.epochs"]
)
def test_refuses_what_no_trial_would_depend_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"{name}: [1, 2]")
    with pytest.raises(TfrecError, match=f"must name options of retrieval.*'{name}'"):
        read_space(path)


def test_the_shipped_space_names_options_that_exist(arguments: list[str], tmp_path: Path) -> None:
    space = read_space(Path(__file__).parents[1] / "pipelines" / "configs" / "space.yaml")
    values = {
        name: getattr(distribution, "choices", (getattr(distribution, "low", None),))[0]
        for name, distribution in space.items()
    }
    config = Search(arguments, space, tmp_path)._configured(values)
    assert config.retrieval.query.encoder == "attention"
    assert config.retrieval.embedding_dim == 32


def _trials(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open() as file:
        return list(csv.DictReader(file))
