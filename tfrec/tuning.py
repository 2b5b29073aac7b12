"""Search for hyper-parameters of retrieval, on the validation part alone, through Optuna.

A *space* names options of retrieval and what they may be: a list of choices, or a range `{low, high}` with `log: true` where
orders of magnitude matter, or `step`. The first *trial* takes the configuration as it was given, so the search can be seen to be
worth it. A trial is worth what `retrieval.objective` names, of retrieval as it would be published: its best epoch, with what
stands beside it. Trials are kept in a database: a search that was stopped goes on.

References:
    Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011; Akiba et al., Optuna, KDD 2019.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import optuna
import tensorflow as tf
import yaml
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from tfrec.config import TrainConfig
from tfrec.console import console
from tfrec.data.schema import Part
from tfrec.errors import TfrecError
from tfrec.pipeline import Stages, fingerprint
from tfrec.recipes import with_recipe
from tfrec.run import RunFolder, atomic_file
from tfrec.train import as_yaml, open_stages, parse_arguments

Space = Mapping[str, BaseDistribution]

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

OBJECTIVE = "retrieval.objective"
"""What trials are compared by, so no option to search."""


def read_space(path: Path) -> Space:
    """Reads a space from YAML.

    Args:
        path: a mapping from option names to lists of choices or to ranges.

    Returns:
        A distribution for each option.

    Raises:
        TfrecError: If the file cannot be read, an entry is neither a list nor a range, or names no option of retrieval.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TfrecError(f"The space {path} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(entries, dict) or not entries:
        raise TfrecError(f"The space {path} must map options to choices or ranges. Received: {entries!r}.")
    for name in entries:
        if not _is_searchable(str(name)):
            raise TfrecError(
                f"The space {path} must name options of retrieval as `python -m tfrec.train --help` lists them, other than "
                f"{OBJECTIVE}. Received: {name!r}."
            )
    return {str(name): _distribution(str(name), entry) for name, entry in entries.items()}


def _is_searchable(name: str) -> bool:
    """Whether it is an option that decides how retrieval is trained: a field of `RetrievalConfig`, or of what it nests."""
    value = _option(TrainConfig(), name)
    return name.startswith("retrieval.") and name != OBJECTIVE and value is not None and not is_dataclass(value)


def _distribution(name: str, entry: Any) -> BaseDistribution:
    try:
        if isinstance(entry, list):
            return CategoricalDistribution(entry)
        whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        return IntDistribution(**{"step": 1, **entry}) if whole else FloatDistribution(**entry)
    except (TypeError, KeyError, ValueError) as error:
        raise TfrecError(
            f"`{name}` in the space must be a list of choices, or `low` and `high` with `log` or `step`. "
            f"Received: {entry!r} ({error})."
        ) from None


@dataclass(frozen=True)
class Search:
    """One search, in a folder of its own.

    Args:
        arguments: of `python -m tfrec.train`, that all trials share.
        space: what is searched.
        output: folder of the search: `study.db`, `trials.csv`, `best.yaml`, `search.png`.
    """

    arguments: Sequence[str]
    space: Space
    output: Path

    @cached_property
    def config(self) -> TrainConfig:
        """What the trials start from."""
        return replace(parse_arguments(self.arguments), output=self.output)

    def run(self, num_trials: int) -> FrozenTrial:
        """Trains until there are `num_trials` trials, those of earlier runs of the same search among them.

        Returns:
            The best trial.

        Raises:
            TfrecError: If the folder holds a search over something else, no part of the split is there to choose by, or no
                trial came to an end.
        """
        base = open_stages(self.config)  # the dataset and its features, read once for all trials
        try:
            return self._search(base, num_trials)
        finally:
            base.run.close()

    def _search(self, base: Stages, num_trials: int) -> FrozenTrial:
        if not len(base.dataset.interactions.rows(Part.VALIDATION)):
            raise TfrecError(
                "The `split` has no validation part, and a search that chose by the test part would say nothing of it. Name some "
                "rows `validation`."
            )
        study = self._study(base)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a process that was stopped
            study.tell(trial.number, state=TrialState.FAIL)
            shutil.rmtree(self.output / "trials" / str(trial.number), ignore_errors=True)
        if not study.get_trials(states=(*ENDED, TrialState.WAITING)):
            study.enqueue_trial(self._given_values(base.config))
        while len(study.get_trials(states=ENDED)) < num_trials:
            self._try_one(base, study)
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise TfrecError("No trial could be trained: every choice of the space was refused. Narrow the space.")
        self._write(base, study)
        return study.best_trial

    def _study(self, base: Stages) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        entries = {name: repr(distribution) for name, distribution in self.space.items()}
        about = json.dumps([fingerprint(base.config, base.dataset, base.content), entries], sort_keys=True)
        digest = hashlib.sha256(about.encode()).hexdigest()
        study = optuna.create_study(
            storage=f"sqlite:///{self.output / 'study.db'}",
            study_name="tfrec",
            direction="maximize",
            load_if_exists=True,
        )
        if study.user_attrs.setdefault("search", digest) != digest:
            raise TfrecError(
                f"{self.output} holds a search with other options, data or space. Choose another --output, or delete it."
            )
        study.set_user_attr("search", digest)
        # Started with the same seed again, the sampler would propose the same first trials again.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `multivariate`
            study.sampler = optuna.samplers.TPESampler(seed=self.config.seed + len(study.trials), multivariate=True)
        return study

    def _given_values(self, config: TrainConfig) -> dict[str, Any]:
        """The configuration's own values, where the space holds them."""
        values = {name: _option(config, name) for name in self.space}
        return {name: value for name, value in values.items() if _holds(self.space[name], value)}

    def _try_one(self, base: Stages, study: optuna.Study) -> None:
        """Trains one configuration; one that cannot be trained is kept as refused."""
        trial = study.ask(dict(self.space))
        try:
            config = _on_recipe(base, self._configured(trial.params))
            record = self._train(base, config, self.output / "trials" / str(trial.number))
        except TfrecError as error:
            study.tell(trial, state=TrialState.PRUNED)
            console.print(f"  {trial.number:3d}  refused: {error}")
            return
        for name, value in record.items():
            trial.set_user_attr(name, value)
        score = record[config.retrieval.objective]
        study.tell(trial, score)
        values = ", ".join(f"{name.rsplit('.', 1)[-1]} {_short(value)}" for name, value in trial.params.items())
        best = " [green]best[/green]" if study.best_trial.number == trial.number else ""
        console.print(f"  {trial.number:3d}  [bold]{score:.4f}[/bold]  {record['seconds']:5.0f} s  {values}{best}")

    def _configured(self, values: Mapping[str, Any]) -> TrainConfig:
        options = [
            f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
        ]
        return parse_arguments([*self.arguments, *options])

    def _train(self, base: Stages, config: TrainConfig, folder: Path) -> dict[str, float]:
        """What validation measures of a trained retrieval, and seconds; what it leaves on disk is removed."""
        run = RunFolder(folder, fingerprint="", resume=False)
        try:
            stages = replace(base, config=config, run=run)
            retrieval = stages.train_retrieval()
            records = stages.curves()["retrieval"]
            return {**stages.validate(retrieval), "epochs": len(records), "seconds": sum(r["seconds"] for r in records)}
        finally:
            run.close()
            shutil.rmtree(folder)
            tf.keras.backend.clear_session()
            gc.collect()

    def _write(self, base: Stages, study: optuna.Study) -> None:
        """The trials as a table and a picture, and the best configuration as it can be trained."""
        best = replace(_on_recipe(base, self._configured(study.best_params)), output=None)
        with atomic_file(self.output / "best.yaml") as file:
            file.write(as_yaml(best))
        with atomic_file(self.output / "trials.csv") as file:
            study.trials_dataframe(("number", "value", "state", "params", "user_attrs")).to_csv(file, index=False)
        with atomic_file(self.output / "search.png") as file:
            _draw(study, self.config.retrieval.objective, file)


def _on_recipe(base: Stages, config: TrainConfig) -> TrainConfig:
    """A trial's configuration on the recipe that was chosen for the search."""
    return with_recipe(replace(config, recipe=base.config.recipe), base.dataset)[0]


def _draw(study: optuna.Study, metric: str, file: BinaryIO) -> None:
    """Trials in order with the best so far, and what mattered, where there are enough trials to tell."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    numbers, values = [trial.number for trial in complete], [float(trial.value or 0.0) for trial in complete]
    figure = Figure(figsize=(10, 4), layout="constrained")
    trials, importance = figure.subplots(1, 2)
    trials.plot(numbers, values, "o", label="trial")
    trials.step(numbers, np.maximum.accumulate(values), where="post", label="best so far")
    trials.set(xlabel="trial", ylabel=f"validation {metric}")
    trials.legend()
    shares = optuna.importance.get_param_importances(study) if len(complete) > 2 * len(study.best_params) else {}
    importance.barh(list(shares)[::-1], list(shares.values())[::-1])
    importance.set(xlabel="importance (fANOVA)" if shares else "importance: too few trials")
    figure.savefig(file, dpi=120)


def _option(config: TrainConfig, name: str) -> Any:
    """The value of an option by its name on the command line."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
