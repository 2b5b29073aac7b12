"""What each part of sequence training is worth: one part off at a time, trained equally long, on the validation part.

    python benchmarks/sequence_ablation.py --data ../shared/data/ml-1m [--epochs 3] [--seeds 2] [--users 2000] [--variants ...]

Ids alone but where a variant says otherwise, no ranker and no export. Prints mean and deviation of recall@10 and NDCG@10 over the
seeds, and processor seconds of training with validation. `--users` takes the first users alone, which is quicker and lowers all
figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from tfrec.config import RetrievalConfig, TrainConfig
from tfrec.console import console
from tfrec.train import parse_arguments

if TYPE_CHECKING:
    from tfrec.data.schema import Dataset
    from tfrec.models.retrieval import RetrievalModel

SAMPLED = {"num_uniform_negatives": 512}
LARGE_BATCHES = {"batch_size": 64, "learning_rate": 0.002}

VARIANTS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "histories in random order": {},
    "without positions": {},
    "512 negatives": SAMPLED,
    "512 negatives, no logQ": {**SAMPLED, "log_q_correction": False},
    "gbce, 512 negatives": {**SAMPLED, "loss": "gbce"},
    "gbce, all negatives": {"loss": "gbce"},
    "batches of 64, half the rate": LARGE_BATCHES,
    "batches of 64, half the rate, 512 negatives": {**LARGE_BATCHES, **SAMPLED},
    "gru": {"query": {"encoder": "gru"}},
    "lstm": {"query": {"encoder": "lstm"}},
    "one block": {"query": {"num_blocks": 1}},
    "content of the films besides": {"candidate": {"use_content": True}},
    "content, alignment loss": {"candidate": {"use_content": True, "alignment_weight": 0.1}},
    "lightgcn": {"candidate": {"graph": "lightgcn", "graph_max_events": 30}},
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
    """The configuration with some fields changed, those of the towers among them."""
    towers = {name: replace(getattr(config, name), **changes.get(name, {})) for name in ("query", "candidate")}
    return replace(config, **{**changes, **towers})


def first_users(dataset: Dataset, number: int) -> Dataset:
    """The dataset with the events of its first users alone."""
    log = dataset.interactions
    kept = log.user < number
    columns = {name: getattr(log, name)[kept] for name in ("user", "video", "timestamp", "part")}
    labels = {name: values[kept] for name, values in log.labels.items()}
    return replace(dataset, interactions=replace(log, **columns, labels=labels))


def in_random_order(dataset: Dataset, seed: int) -> Dataset:
    """The dataset with the training events of each user in another order, at the same times."""
    from tfrec.data.schema import Part

    log = dataset.interactions
    rows = np.flatnonzero(log.part == Part.TRAIN)
    order = np.lexsort((np.random.default_rng(seed).random(len(rows)), log.user[rows]))
    video = log.video.copy()
    video[rows] = video[rows[order]]
    return replace(dataset, interactions=replace(log, video=video))


def measure(name: str, config: TrainConfig, users: int) -> dict[str, float]:
    """Trains one variant and measures it.

    Args:
        name: of the variant, for what no configuration changes.
        config: of the run.
        users: how many there are; 0 takes all.
    """
    import tensorflow as tf

    from tfrec.data.dataset import load_dataset
    from tfrec.evaluation.evaluate import evaluate
    from tfrec.evaluation.ranking import InnerProducts
    from tfrec.features.content import ContentFeatures
    from tfrec.features.extract import extract_features
    from tfrec.pipeline import Stages
    from tfrec.run import RunFolder

    class WithoutPositions(Stages):
        def _untrained_retrieval(self) -> RetrievalModel:
            model = super()._untrained_retrieval()
            for block in model.query_tower.encoder.blocks:
                block.max_distance = 0  # every distance has the bias of the nearest
            return model

    assert config.data.folder is not None
    with TemporaryDirectory() as folder:
        dataset = load_dataset(config.data, Path(folder))
        dataset = first_users(dataset, users) if users else dataset
        dataset = in_random_order(dataset, config.seed) if name == "histories in random order" else dataset
        content = ContentFeatures({}, {})
        if config.retrieval.candidate.use_content:
            content = extract_features(dataset.videos, config.features, Path(folder) / "features")
        kind = WithoutPositions if name == "without positions" else Stages
        stages = kind(config, RunFolder(Path(folder), "ablation", False), dataset, content)
        started = time.process_time()
        model = stages.train_retrieval()
        seconds = time.process_time() - started
        task = stages.final_task()
        embeddings = model.publish(model.embed_catalogue(), int(task.timestamp.min()))
        table = tf.constant(embeddings)
        queries = np.concatenate([np.asarray(model.embed_queries(query, table)) for query in stages.queries(task)])
    results = evaluate(InnerProducts(queries, embeddings), task, config.evaluation)["retrieval"]
    return {"recall@10": results["recall@10"], "ndcg@10": results["ndcg@10"], "seconds": seconds}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[1] / "pipelines/configs/ml-1m.yaml")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    base = parse_arguments(["--config", str(options.config), "--data", str(options.data)])
    base = replace(base, retrieval=replace(base.retrieval, epochs=options.epochs))
    table = Table("variant", "recall@10", "ndcg@10", "processor seconds")
    for name in options.variants:
        config = replace(base, retrieval=varied(base.retrieval, VARIANTS[name]))
        runs = [measure(name, replace(config, seed=base.seed + seed), options.users) for seed in range(options.seeds)]
        columns = {key: np.array([run[key] for run in runs]) for key in runs[0]}
        spread = {key: values.std(ddof=1) if len(runs) > 1 else np.nan for key, values in columns.items()}
        cells = [f"{columns[key].mean():.4f} ± {spread[key]:.4f}" for key in ("recall@10", "ndcg@10")]
        table.add_row(name, *cells, f"{columns['seconds'].mean():.0f}")
        console.print(f"{name}: {' '.join(cells)}, {columns['seconds'].mean():.0f} processor seconds")
    console.print(table)


if __name__ == "__main__":
    main()
