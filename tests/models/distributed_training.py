"""Trains small models as one worker of many; a program of its own, since TensorFlow joins a cluster once in a process.

Usage: python distributed_training.py KIND FOLDER STRATEGY EPOCHS [DROPOUT]. Prints one line of JSON: losses, weights
and where these are.
"""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, os.environ["TFREC_ROOT"])

import tfrec  # noqa: F401  (first: it selects Keras 2)

import numpy as np  # isort: skip
import tensorflow as tf  # isort: skip

from tfrec.config import CandidateConfig, DistributionConfig, QueryConfig, RankingConfig, RetrievalConfig
from tfrec.data.input_pipeline import RankingBatches, RetrievalBatches
from tfrec.data.schema import Catalog, Dataset, FeatureColumns, Interactions, Users
from tfrec.data.sequences import SequenceBatches
from tfrec.distribution import Distribution, open_distribution
from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel
from tfrec.models.sequence_retrieval import SequenceRetrievalModel
from tfrec.models.training import Objective, fit
from tfrec.parameter_server import serve
from tfrec.tf_config import is_server

NUM_USERS, NUM_VIDEOS, NUM_EVENTS, BATCH, LENGTH = 20, 24, 200, 16, 6
KNOWN_USERS = int(os.environ.get("TFREC_KNOWN_USERS", NUM_USERS))


def make_dataset() -> Dataset:
    """200 events, some of them not clicked; the labels of a batch are not equally many in each of its halves."""
    draw = np.random.default_rng(0)
    user = np.sort(draw.integers(NUM_USERS, size=NUM_EVENTS)).astype(np.int32)
    video = draw.integers(NUM_VIDEOS, size=NUM_EVENTS).astype(np.int32)
    click = (draw.random(NUM_EVENTS) < 0.8).astype(np.int8)
    like = np.where(click == 1, draw.integers(2, size=NUM_EVENTS), -1).astype(np.int8)
    time = np.arange(1, NUM_EVENTS + 1) * 3600
    labels, part = {"click": click, "like": like}, np.zeros(NUM_EVENTS, np.int8)
    log = Interactions(user, video, time, labels, part, KNOWN_USERS, NUM_VIDEOS)
    empty, none = np.full(NUM_VIDEOS, "", object), FeatureColumns.none()
    ids = np.array([f"v{row}" for row in range(NUM_VIDEOS)], object)
    ages, latent = np.zeros(NUM_VIDEOS, np.int64), np.zeros((NUM_VIDEOS, 0), np.float32)
    videos = Catalog(ids, empty, empty, ages, None, latent, empty, none, {}, {})
    return Dataset("small", Path(), Users(np.arange(KNOWN_USERS).astype(str).astype(object), none), videos, log, {})


def retrieval_config(kind: str, dropout: float) -> RetrievalConfig:
    config = RetrievalConfig(
        embedding_dim=8,
        query=QueryConfig(history_length=LENGTH, user_id_dropout=dropout),
        candidate=CandidateConfig(adapter_units=4, id_dropout=dropout, alignment_weight=0.1),
        num_uniform_negatives=8,
        dropout=dropout,
        weight_decay=1e-3,
        batch_size=BATCH,
    )
    if kind != "sequences":
        return config
    query = replace(config.query, encoder="transformer", hidden_units=8)
    candidate = replace(config.candidate, alignment_weight=0.0)
    return replace(config, training="sequences", query=query, candidate=candidate)


def make(kind: str, dropout: float, distribution: Distribution):
    """An untrained model and its stream."""
    dataset, config = make_dataset(), retrieval_config(kind, dropout)
    draw = np.random.default_rng(2)
    shape = (NUM_VIDEOS, 3)
    content = ContentFeatures(
        {name: Modality(draw.normal(size=shape).astype(np.float32), np.ones(NUM_VIDEOS, np.int32)) for name in "ab"}, {}
    )
    events = RetrievalBatches(dataset.interactions, LENGTH, BATCH, 8, 0, 1)
    sequences = SequenceBatches(dataset.interactions, LENGTH, BATCH, 8, 1)
    if kind != "ranking":
        model_type = SequenceRetrievalModel if kind == "sequences" else RetrievalModel
        with distribution.scope():
            return model_type(config, dataset, content, events), sequences if kind == "sequences" else events
    with distribution.scope() if distribution.is_remote else nullcontext():
        retrieval = RetrievalModel(config, dataset, content, events)
    embeddings = draw.normal(size=(NUM_VIDEOS, 8)).astype(np.float32)
    ranking = RankingConfig(hidden_units=[8], num_cross_layers=1, dropout=dropout, linear_dim=4)
    rows = np.arange(NUM_EVENTS)
    with distribution.scope():
        model = RankingModel(ranking, dataset, retrieval, embeddings)
    if not dropout:
        model.show_ids.rate = 0.0
    return model, RankingBatches(dataset.interactions, rows, (), LENGTH, BATCH, 4, 1)


def main(kind: str, folder: str, strategy: str, epochs: str, dropout: str = "0") -> None:
    if strategy == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        distribution = Distribution(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    else:
        config = DistributionConfig(strategy=strategy)
        if is_server(config):
            serve()
            return
        distribution = open_distribution(config)
    results = {}
    for name in kind.split(","):
        tf.keras.utils.set_random_seed(1)
        model, stream = make(name, float(dropout), distribution)
        with distribution.scope():
            model.compile(tf.keras.optimizers.Adam(0.01))
        records = fit(
            model, stream.epoch, lambda: {"measured": 0.0}, Objective("measured", True, 99), int(epochs),
            Path(folder) / name, distribution=distribution,
        )  # fmt: skip
        results[name] = {
            "losses": [record["loss"] for record in records],
            "devices": [[list(weight.shape), weight.device] for weight in model.trainable_variables],
            "weights": [float(np.abs(weight.numpy()).sum()) for weight in model.trainable_variables],
        }
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
