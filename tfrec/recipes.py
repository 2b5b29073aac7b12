"""Recipes: options of retrieval that fit the data, for what a run is told nothing about.

A recipe is chosen by what the data have (`choose`), and gives way to every option that the user gave (`with_recipe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from tfrec.config import RecipeName, TrainConfig
from tfrec.data.schema import Dataset, Part
from tfrec.errors import TfrecError

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "graph": {
        "embedding_dim": 257,
        "ensemble_size": 4,
        "user_exponent": 0.5,
        "min_examples_per_user": 2,
        "mask_positives": False,
        "num_uniform_negatives": 512,
        "batch_size": 512,
        "learning_rate": 0.01,
        "dropout": 0.0,
        "epochs": 8,
        "patience": 8,
        "query.encoder": "mean",
        "query.history_length": 5,
        "query.user_ids": False,
        "query.network": False,
        "query.dropout": 0.5,
        "candidate.id_dropout": 0.0,
        "candidate.graph": "lightgcn",
    },
    "sequences": {
        "training": "sequences",
        "num_uniform_negatives": 4096,
        "dropout": 0.2,
        "learning_rate": 0.004,
        "batch_size": 32,
        "epochs": 14,
        "patience": 5,
        "query.encoder": "transformer",
        "query.history_length": 100,
        "query.user_ids": False,
        "candidate.id_dropout": 0.0,
    },
}
"""Options of `RetrievalConfig` by recipe, as the command line names them."""

POSITIONS = {"trends": False}
"""Of every recipe, where timestamps are no times: there is no lately."""

CLOSED_FORM = {"linear_dim": 128}
"""Of `plain`, where the catalogue is small."""

SMALL_CATALOGUE = 5_000
"""Videos up to which the square matrix of a linear model takes seconds."""

FEW_EVENTS = 5
"""Median of the users' training positives up to which `graph` is chosen."""

MANY_EVENTS = 50
"""Median from which on histories are read as sequences, if besides there are so many in all:"""

ENOUGH_FOR_SEQUENCES = 300_000
"""Training positives below which a transformer learns less than pooling does."""

EARLIEST_TIME = 31_536_000
"""Unix seconds, a year after 1970: a log that ends before holds positions, not times."""


@dataclass(frozen=True)
class Facts:
    """What the choice goes by.

    Args:
        has_order: whether the events of a user have an order.
        has_times: whether timestamps are times, not positions in a sequence.
        events_per_user: median of the training positives of users who have any.
        num_events: training positives.
        num_videos: of the catalogue.
    """

    has_order: bool
    has_times: bool
    events_per_user: float
    num_events: int
    num_videos: int

    @classmethod
    def of(cls, dataset: Dataset) -> Facts:
        """Those of a dataset."""
        log = dataset.interactions
        rows = log.rows(Part.TRAIN)
        counts = np.bincount(log.user[rows], minlength=1)
        return cls(
            has_order=log.has_time,
            has_times=log.has_time and int(log.timestamp.max(initial=0)) >= EARLIEST_TIME,
            events_per_user=float(np.median(counts[counts > 0])) if len(rows) else 0.0,
            num_events=len(rows),
            num_videos=log.num_videos,
        )


def choose(facts: Facts) -> tuple[RecipeName, str]:
    """The recipe for some data, and the reason in words."""
    median = f"half of the users have at most {facts.events_per_user:g} training events"
    if facts.events_per_user <= FEW_EVENTS:
        return "graph", f"{median}, too few to learn a taste of their own from"
    if facts.has_order and facts.events_per_user >= MANY_EVENTS and facts.num_events >= ENOUGH_FOR_SEQUENCES:
        return "sequences", f"half of the users have {facts.events_per_user:g} training events or more, in order"
    if not facts.has_order:
        return "plain", "histories have no order"
    return "plain", f"{median}, and there are {facts.num_events:,} in all"


def with_recipe(config: TrainConfig, dataset: Dataset) -> tuple[TrainConfig, str]:
    """The configuration with the options of its recipe where none were given.

    Args:
        config: of which `recipe` says what to do.
        dataset: read and split.

    Returns:
        The configuration, its recipe `auto` no more, and a line that says what was chosen and why.

    Raises:
        TfrecError: If a recipe that was asked for by name does not go together with the options given.
    """
    facts, given = Facts.of(dataset), _given(config)
    name, reason = choose(facts) if config.recipe == "auto" else (config.recipe, "as asked for")

    def taken(name: RecipeName) -> dict[str, Any]:
        options = dict(RECIPES[name])
        if name == "plain" and facts.num_videos <= SMALL_CATALOGUE:
            options |= CLOSED_FORM
        if facts.has_order and not facts.has_times:
            options |= POSITIONS
        return {key: value for key, value in options.items() if f"retrieval.{key}" not in given}

    def changed(name: RecipeName) -> TrainConfig:
        return replace(config, recipe=name, retrieval=_changed(config.retrieval, taken(name)))

    try:
        resolved = changed(name)
    except TfrecError as error:
        if config.recipe != "auto":
            raise
        reason = f"{name} does not go with the options given: {error}"
        name = "plain"
        resolved = changed(name)
    options = ", ".join(f"{key} {value}" for key, value in taken(name).items())
    return resolved, f"{name}: {reason}" + (f" ({options})" if options else "")


def _given(config: TrainConfig) -> frozenset[str]:
    """Options that the user gave; of a configuration made in Python, those that differ from the defaults."""
    if config.given is not None:
        return config.given
    defaults = dict(_flat(asdict(TrainConfig())))
    return frozenset(key for key, value in _flat(asdict(config)) if defaults.get(key) != value)


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in options.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs


def _changed(config: Any, options: Mapping[str, Any]) -> Any:
    """A dataclass with other values, named by dotted paths, checked once all are set."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        name, _, rest = key.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for name, values in nested.items():
        owner = getattr(config, name)
        assert is_dataclass(owner), f"{name} has no options of its own"
        changes[name] = _changed(owner, values)
    return replace(config, **changes)
