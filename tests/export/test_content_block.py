"""The exported recommender over embeddings with a content block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_platform import make_serving_model

from tfrec.data.schema import Dataset, Part
from tfrec.evaluation.evaluate import make_task
from tfrec.export.log_requests import task_requests
from tfrec.export.recommender import Recommender, ServingModel
from tfrec.models.retrieval import RetrievalModel

CONTENT_DIM = 16


@pytest.fixture(scope="module")
def model_with_block(dataset: Dataset, retrieval: RetrievalModel) -> ServingModel:
    return make_serving_model(dataset, retrieval, CONTENT_DIM)


@pytest.fixture(scope="module")
def with_block(model_with_block: ServingModel) -> Recommender:
    return Recommender(model_with_block)


@pytest.fixture(scope="module")
def requests(dataset: Dataset) -> dict[str, NDArray[Any]]:
    task = make_task(dataset.interactions, Part.TEST)
    return task_requests(dataset, task, np.arange(len(task)), 7)


def test_slates_of_warm_videos_are_the_same_to_the_last_bit(
    dataset: Dataset, model: ServingModel, recommender: Recommender, with_block: Recommender, requests: dict[str, Any]
) -> None:
    warm = dataset.videos.ids[~model.is_cold]
    size = len(requests["user_id"])
    filtered = requests | {
        "allow": np.tile(warm, (size, 1)),
        "block": np.full((size, 1), "", object),
        "min_safety": np.zeros(size, np.float32),
        "weights": np.full((size, 4), -1, np.float32),
        "diversity": np.full(size, -1, np.float32),
    }
    plain, wide = (found.call("recommend_filtered", filtered) for found in (recommender, with_block))
    for name, values in plain.items():
        np.testing.assert_array_equal(values, wide[name])
    candidate = np.tile(warm, (size, 1))
    plain, wide = (found.call("rank", requests | {"candidate": candidate}) for found in (recommender, with_block))
    np.testing.assert_array_equal(plain["score"], wide["score"])


def test_scores_of_cold_videos_have_their_content_in_them(
    dataset: Dataset, model_with_block: ServingModel, recommender: Recommender, with_block: Recommender, requests: Any
) -> None:
    """By NumPy: the inner product over the whole width, of which the block is the mean of the history's rows."""
    model = model_with_block
    asked = with_block.call("embed_user", requests)["embedding"]
    number = {video: row for row, video in enumerate(dataset.videos.ids)}
    for request, embedding in zip(requests["history"], asked, strict=True):
        rows = [number[video] for video in request if video in number][-model.history_length :]
        block = model.history_embeddings.numpy()[rows, :CONTENT_DIM]
        np.testing.assert_allclose(embedding[:CONTENT_DIM], block.mean(axis=0) if rows else 0 * embedding[:CONTENT_DIM],
                                   atol=1e-5)  # fmt: skip
    np.testing.assert_array_equal(asked[:, CONTENT_DIM:], recommender.call("embed_user", requests)["embedding"])
    found = with_block.call("retrieve", requests)
    for ids, scores, embedding in zip(found["video_id"], found["score"], asked, strict=True):
        rows = [number[video.decode()] for video in ids if video]
        expected = model.video_embeddings.numpy()[rows] @ embedding
        np.testing.assert_allclose(scores[: len(rows)], expected, rtol=1e-4, atol=1e-4)


def test_taste_of_cold_videos_is_weighed_as_it_was(dataset: Dataset, model_with_block: ServingModel) -> None:
    """What is similar does not depend on how much of the score is content."""
    model = replace(model_with_block, config=replace(model_with_block.config, num_candidates=100))
    scaled = model.video_embeddings.numpy()
    scaled[model.is_cold, CONTENT_DIM:-1] *= 0.25
    query = {"video_id": dataset.videos.ids[[3, 55]]}
    expected = Recommender(model).call("similar_videos", query)
    video_embeddings = type(model.video_embeddings)(scaled, trainable=False)
    answer = Recommender(replace(model, video_embeddings=video_embeddings, cold_weight=0.25)).call(
        "similar_videos", query
    )
    np.testing.assert_array_equal(answer["video_id"], expected["video_id"])
    np.testing.assert_allclose(answer["score"], expected["score"], atol=1e-4)
