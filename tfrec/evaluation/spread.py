"""How much a result owes to chance: the same run with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SPREAD = {
    "retrieval": ("recall@10", "ndcg@10", "recall@20", "ndcg@20"),
    "warm": ("recall@20", "ndcg@20"),
    "cold_start": ("recall@20", "ndcg@20"),
    "ranking": ("click_auc", "click_ece"),
}
"""Metrics told with their deviation, by block of metrics.json."""


def spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and deviation of the metrics over runs that differ in their seed alone.

    Args:
        runs: what metrics.json holds of each, at least two.

    Returns:
        By block and metric: `mean`, `deviation` (of the sample, ddof 1) and the `values`, in the order of the runs. A metric
        that one of the runs could not measure is left out.
    """
    blocks = {}
    for block, names in SPREAD.items():
        measured = {name: [run.get(block, {}).get(name) for run in runs] for name in names}
        blocks[block] = {
            name: {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)), "values": values}
            for name, values in measured.items()
            if None not in values
        }
    return {block: found for block, found in blocks.items() if found}
