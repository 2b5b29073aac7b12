"""Requests as clients would send them, made from the log: to warm servers up, and to hold an export against the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.input_pipeline import HistoryLog
from tfrec.data.schema import Dataset
from tfrec.evaluation.evaluate import EvaluationTask

Inputs = Mapping[str, NDArray[Any]]
"""Inputs of a signature by name; strings are object arrays."""


class SignatureCall(NamedTuple):
    """A call of an exported signature."""

    signature: str
    inputs: Inputs


def task_requests(
    dataset: Dataset, task: EvaluationTask, positions: NDArray[np.int64], k: int
) -> dict[str, NDArray[Any]]:
    """The requests that an evaluation makes, with all that the user has watched.

    Args:
        dataset: of the task.
        task: the requests.
        positions: int64 `[B]` which of them.
        k: slots wanted.

    Returns:
        The inputs of `QUERY_SPECS`; histories are as long as the longest.
    """
    log = HistoryLog.of(dataset.interactions, task.known, length=0)
    users = task.users[positions]
    start, end = np.asarray(log.offsets)[users], np.searchsorted(log.rows, task.history_end[positions])
    place = start[:, None] + np.arange(max((end - start).max(initial=0), 1))
    present = place < end[:, None]
    event = log.rows[np.where(present, place, 0)] if len(log.rows) else np.zeros_like(place)
    return {
        "user_id": dataset.users.ids[users],
        "history": np.where(present, dataset.videos.ids[dataset.interactions.video[event]], ""),
        "history_timestamp": np.where(present, dataset.interactions.timestamp[event], 0),
        "timestamp": task.timestamp[positions],
        "exclude": np.full((len(positions), 0), "", object),
        "k": np.full(len(positions), k, np.int32),
    }


def no_filters(size: int) -> dict[str, NDArray[Any]]:
    """The further inputs of `recommend_filtered` for `size` requests, such that it answers as `recommend` does."""
    nothing = np.full((size, 1), "", object)
    return {
        "allow": nothing,
        "block": nothing,
        "min_safety": np.full(size, -1, np.float32),
        "weights": np.full((size, 4), -1, np.float32),
        "diversity": np.full(size, -1, np.float32),
    }


def tensors(inputs: Inputs) -> dict[str, tf.Tensor]:
    """The inputs as tensors."""
    return {
        name: tf.constant(values.tolist(), tf.string, values.shape) if values.dtype == object else tf.constant(values)
        for name, values in inputs.items()
    }
