"""A small platform with a planted structure: users of two tastes, videos of two kinds, content that tells the kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.data.schema import Dataset, Interactions, Part
from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.retrieval import RetrievalModel

NUM_USERS, NUM_WARM, NUM_VIDEOS = 60, 24, 30
HISTORY_LENGTH = 8
START, HOUR = 1_700_000_000, 3600


@pytest.fixture(scope="session")
def kinds() -> np.ndarray:
    """Kind of each video, and by the same rule the taste of each user: odd or even."""
    return np.arange(NUM_VIDEOS) % 2


@pytest.fixture(scope="session")
def dataset(make_interactions: Callable[..., Interactions], make_dataset: Callable[..., Dataset]) -> Dataset:
    """16 shown videos a user train and 10 validate, some of these cold; who likes what is told after a click only."""
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(NUM_USERS), 26)
    part = np.tile([Part.TRAIN] * 16 + [Part.VALIDATION] * 10, NUM_USERS)
    video = np.concatenate(
        [
            [*draw.permutation(NUM_WARM)[:16], *draw.permutation(np.arange(NUM_WARM - 6, NUM_VIDEOS))[:10]]
            for _ in range(NUM_USERS)
        ]
    )
    time = START + HOUR * np.tile(np.arange(26), NUM_USERS) + draw.integers(HOUR, size=len(user))
    click = (draw.random(len(user)) < np.where(user % 2 == video % 2, 0.85, 0.1)).astype(int)
    like = np.where(click == 1, draw.integers(2, size=len(user)), -1)
    log = make_interactions(np.stack([user, video, time], axis=1), part, num_videos=NUM_VIDEOS, click=click, like=like)
    assert set(np.flatnonzero(log.train_counts == 0)) == set(range(NUM_WARM, NUM_VIDEOS))
    return make_dataset(log)


@pytest.fixture(scope="session")
def content(kinds: np.ndarray) -> ContentFeatures:
    """Text that tells the kind among noise, except of video 0; generation metadata of every third video."""
    draw = np.random.default_rng(1)
    text = draw.normal(size=(NUM_VIDEOS, 4)).astype(np.float32)
    text[:, 0] += 4.0 * kinds
    has_text, generated = np.ones(NUM_VIDEOS, np.int32), (np.arange(NUM_VIDEOS) % 3 == 0).astype(np.int32)
    text[0], has_text[0] = 0, 0
    generation = (draw.normal(size=(NUM_VIDEOS, 2)) * generated[:, None]).astype(np.float32)
    return ContentFeatures({"text": Modality(text, has_text), "generation": Modality(generation, generated)}, {})


@pytest.fixture(scope="session")
def retrieval_config() -> RetrievalConfig:
    return RetrievalConfig(
        embedding_dim=8,
        query=QueryConfig(history_length=HISTORY_LENGTH),
        candidate=CandidateConfig(adapter_units=8),
        num_uniform_negatives=8,
        batch_size=64,
        learning_rate=0.02,
        steps_per_execution=1,
    )


@pytest.fixture(scope="session")
def batches(dataset: Dataset, retrieval_config: RetrievalConfig) -> RetrievalBatches:
    return RetrievalBatches(dataset.interactions, HISTORY_LENGTH, retrieval_config.batch_size, 8, 0, seed=1)


@pytest.fixture(scope="session")
def retrieval(
    dataset: Dataset, content: ContentFeatures, batches: RetrievalBatches, retrieval_config: RetrievalConfig
) -> RetrievalModel:
    """Trained for eight epochs."""
    tf.keras.utils.set_random_seed(1)
    model = RetrievalModel(retrieval_config, dataset, content, batches)
    model.compile(optimizer=tf.keras.optimizers.Adam(retrieval_config.learning_rate))
    for epoch in range(8):
        model.fit(batches.epoch(epoch), verbose=0)
    return model
