"""What each part of sequence training is worth: variants of one configuration, trained equally long, on the validation part.

    python benchmarks/sequence_ablation.py --data ../shared/data/ml-1m [--epochs 4] [--variants transformer gbce ...]

Ids alone, no ranker and no export. Prints recall@10, NDCG@10 and the processor seconds of training with validation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from tfrec.config import RetrievalConfig, TrainConfig
from tfrec.console import console
from tfrec.train import parse_arguments

VARIANTS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "full softmax": {"num_uniform_negatives": 1_000_000},
    "gbce": {"loss": "gbce"},
    "gru": {"query": {"encoder": "gru"}},
    "lstm": {"query": {"encoder": "lstm"}},
    "one block": {"query": {"num_blocks": 1}},
    "history of 50": {"query": {"history_length": 50}},
    "transformer, events": {"training": "events", "max_examples_per_user": 2},
    "attention, events": {
        "training": "events",
        "batch_size": 512,
        "max_examples_per_user": 16,
        "query": {"encoder": "attention"},
    },
}
"""What each changes in the configuration. Events: as many examples per user as the processor time of the others allows."""


def varied(config: RetrievalConfig, changes: Mapping[str, Any]) -> RetrievalConfig:
    """The configuration with some fields changed, those of the query tower among them."""
    query = replace(config.query, **changes.get("query", {}))
    return replace(config, **{**changes, "query": query})


def measure(config: TrainConfig) -> dict[str, float]:
    """Trains one variant and measures it."""
    import numpy as np
    import tensorflow as tf

    from tfrec.data.dataset import load_dataset
    from tfrec.evaluation.evaluate import evaluate
    from tfrec.features.content import ContentFeatures
    from tfrec.pipeline import Stages
    from tfrec.run import RunFolder

    assert config.data.folder is not None
    with TemporaryDirectory() as folder:
        dataset = load_dataset(config.data, Path(folder))
        stages = Stages(config, RunFolder(Path(folder), "ablation", False), dataset, ContentFeatures({}, {}))
        started = time.process_time()
        model = stages.train_retrieval()
        seconds = time.process_time() - started
        task = stages.final_task()
        embeddings = model.publish(model.embed_catalogue(), int(task.timestamp.min()))
        table = tf.constant(embeddings)
        queries = np.concatenate([np.asarray(model.embed_queries(query, table)) for query in stages.queries(task)])
    results = evaluate(lambda positions: queries[positions] @ embeddings.T, task, config.evaluation)["retrieval"]
    return {"recall@10": results["recall@10"], "ndcg@10": results["ndcg@10"], "seconds": seconds}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "pipelines/configs/ml-1m.yaml")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    base = parse_arguments(["--config", str(options.config), "--data", str(options.data)])
    base = replace(base, retrieval=replace(base.retrieval, epochs=options.epochs))
    table = Table("variant", "recall@10", "ndcg@10", "processor seconds")
    for name in options.variants:
        result = measure(replace(base, retrieval=varied(base.retrieval, VARIANTS[name])))
        table.add_row(name, f"{result['recall@10']:.4f}", f"{result['ndcg@10']:.4f}", f"{result['seconds']:.0f}")
        console.print(f"{name}: {result}")
    console.print(table)


if __name__ == "__main__":
    main()
