"""Filters never leak: random requests against what NumPy says may be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.schema import BLOCKED, Dataset
from tfrec.export import candidates
from tfrec.export.candidates import Retriever
from tfrec.export.filters import Filters, Safety
from tfrec.export.log_requests import no_filters
from tfrec.export.recommender import Recommender, ServingModel
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex

Request = dict[str, NDArray[Any]]
MAX_K, MIN_SAFETY = 10, 0.2
BATCH_SIZES = (1, 2, 7, 64, 426)  # 10 rounds of them, twice, are 10,000 requests
NOW = 1_702_000_000
TWIN = np.where(np.arange(60) < 30, np.arange(60) ^ 1, -1)
"""The video that is nearly the same, -1 where there is none."""


@pytest.fixture(scope="module")
def safety(dataset: Dataset) -> NDArray[np.float32]:
    """Some blocked, the rest of every safety."""
    draw = np.random.default_rng(3)
    values = draw.choice([0, 0.1, 0.3, 0.5, 0.9, 1], size=len(dataset.videos))
    return np.where(draw.random(len(values)) < 0.1, BLOCKED, values).astype(np.float32)


@pytest.fixture(scope="module", params=["exact", "portable"])
def filtered(request: pytest.FixtureRequest, model: ServingModel, safety: NDArray[np.float32]) -> Recommender:
    """A tree of which so little is searched that it seldom finds enough; of the videos 0 to 29, each even one has a twin."""
    embeddings = model.video_embeddings.numpy()
    directions = np.eye(len(embeddings), dtype=np.float16)[np.where(TWIN < 0, np.arange(60), np.arange(60) & ~1)]
    index = PortableIndex(embeddings, partition(embeddings, 8), 2) if request.param == "portable" else model.index
    config = replace(model.config, min_safety=MIN_SAFETY, max_similarity=0.95)
    return Recommender(replace(model, index=index, safety=safety, content_directions=directions, config=config))


def random_requests(dataset: Dataset, size: int, draw: np.random.Generator) -> Request:
    """With and without each filter, narrow and wide, repeated and unknown ids, padding anywhere."""

    def ids(most: int) -> NDArray[np.object_]:
        width = draw.integers(most + 1)
        known = dataset.videos.ids[draw.integers(len(dataset.videos), size=(size, width))]
        share = draw.choice([0, 0.2, 0.7, 1], size=(size, 1))
        return np.where(draw.random((size, width)) < share, known, draw.choice(["", "gone"], (size, width)))

    def or_none(values: NDArray[np.object_]) -> NDArray[np.object_]:
        return np.where(draw.random((size, 1)) < 0.5, values, "")

    history = ids(30)
    return {
        "user_id": draw.choice([*dataset.users.ids, "stranger", ""], size).astype(object),
        "history": history,
        "history_timestamp": draw.integers(NOW - 1_000_000, NOW, size=history.shape),
        "timestamp": draw.choice([0, NOW], size),
        "exclude": or_none(ids(150)),
        "k": draw.integers(-1, MAX_K + 3, size=size).astype(np.int32),
        "allow": or_none(ids(80)),
        "block": or_none(ids(40)),
        "min_safety": draw.choice([-1, 0, 0.2, 0.5, 0.95, 2, np.nan], size).astype(np.float32),
        "weights": draw.choice([-1, 0, 0.5, 3, np.inf], (size, 4)).astype(np.float32),
        "diversity": draw.choice([-1, 0.0, 0.5, 2, np.nan] if draw.random() < 0.5 else [-1, 0], size).astype(
            np.float32
        ),
    }


def allowed_rows(dataset: Dataset, safety: NDArray[np.float32], request: Request, number: int) -> set[str]:
    """What the request may be shown."""
    threshold = request["min_safety"][number]
    safe = safety >= (MIN_SAFETY if threshold < 0 else threshold)
    forbidden = {video for name in ("history", "exclude", "block") for video in request[name][number]}
    listed = set(request["allow"][number]) - {""}
    return {video for video in dataset.videos.ids[safe & (safety >= 0)] if video not in forbidden} & (
        listed or set(dataset.videos.ids)
    )


def without_twins(dataset: Dataset, videos: set[str]) -> set[int]:
    """Row numbers of the videos, one for each pair."""
    rows = np.flatnonzero(np.isin(dataset.videos.ids, list(videos)))
    return {int(row) if TWIN[row] < 0 else int(min(row, TWIN[row])) for row in rows}


def batches(dataset: Dataset) -> Iterator[Request]:
    draw = np.random.default_rng(11)
    for _ in range(10):
        for size in BATCH_SIZES:
            yield random_requests(dataset, size, draw)


def texts(values: NDArray[Any]) -> list[list[str]]:
    return [[value.decode() for value in row] for row in values]


def test_no_filter_leaks_and_slates_are_full(
    dataset: Dataset, filtered: Recommender, safety: NDArray[np.float32]
) -> None:
    """5,000 requests for each index."""
    for request in batches(dataset):
        answer = filtered.call("recommend_filtered", request)
        for number, shown in enumerate(texts(answer["video_id"])):
            allowed = allowed_rows(dataset, safety, request, number)
            slate = [video for video in shown if video]
            assert shown == slate + [""] * (len(shown) - len(slate))
            different = without_twins(dataset, allowed)
            assert len(without_twins(dataset, set(slate))) == len(set(slate)) == len(slate)
            assert len(slate) == min(np.clip(request["k"][number], 0, MAX_K), len(different))
            assert set(slate) <= allowed
        assert np.isfinite(answer["score"]).all()
        assert (np.diff(answer["score"], axis=1) <= 0).all()
        empty = answer["video_id"] == b""
        assert not any(answer[name][empty].any() for name in ("score", "click", "finish", "is_cold"))


def test_retrieved_videos_are_the_nearest_allowed(
    dataset: Dataset, filtered: Recommender, model: ServingModel, safety: NDArray[np.float32]
) -> None:
    draw = np.random.default_rng(5)
    request = random_requests(dataset, 200, draw)
    asked = filtered.call("embed_user", {name: request[name] for name in INPUTS})["embedding"]
    scores = asked @ model.video_embeddings.numpy().T
    del request["weights"], request["diversity"]
    answer = texts(filtered.call("retrieve_filtered", request)["video_id"])
    row_of = {video: row for row, video in enumerate(dataset.videos.ids)}
    exact = isinstance(filtered._model.index, ExactIndex)
    for number, shown in enumerate(answer):
        allowed = allowed_rows(dataset, safety, request, number)
        nearest = sorted(allowed, key=lambda video: -scores[number, row_of[video]])[:20]
        found = [video for video in shown if video]
        assert set(found) <= allowed
        if exact or set(request["allow"][number]) - {""}:
            assert found == nearest
        else:
            assert len(found) >= min(len(allowed), MAX_K)


INPUTS = ("user_id", "history", "history_timestamp", "timestamp", "exclude", "k")


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("k", MAX_K + 5, MAX_K),
        ("k", -3, 0),
        ("diversity", 5.0, 1.0),
        ("diversity", np.nan, -1.0),
        ("min_safety", 7.0, 1.01),  # no video is that safe
        ("min_safety", np.nan, 1.01),
        ("weights", [1e30, 0, -7, np.nan], [1e6, 0, -1, -1]),
    ],
)
def test_numbers_out_of_range_are_brought_into_it(
    dataset: Dataset, filtered: Recommender, name: str, given: Any, meant: Any
) -> None:
    request = random_requests(dataset, 40, np.random.default_rng(8))

    def answer(value: Any) -> dict[str, NDArray[Any]]:
        values = np.broadcast_to(np.array(value, request[name].dtype), request[name].shape)
        return filtered.call("recommend_filtered", request | {name: values})

    for output, values in answer(meant).items():
        np.testing.assert_array_equal(answer(given)[output], values)


def test_without_a_safety_column_videos_are_as_safe_as_can_be(dataset: Dataset, recommender: Recommender) -> None:
    request = random_requests(dataset, 5, np.random.default_rng(0)) | no_filters(5)
    request |= {"min_safety": np.array([-1, 1, 1.01, 2, np.nan], np.float32), "k": np.full(5, 3, np.int32)}
    for signature, others in (("recommend_filtered", ()), ("retrieve_filtered", ("weights", "diversity"))):
        inputs = {name: values for name, values in request.items() if name not in others}
        found = (recommender.call(signature, inputs)["video_id"] != b"").any(axis=1)
        assert found.tolist() == [True, True, False, False, False]


def test_without_filters_the_answer_is_that_of_recommend(dataset: Dataset, filtered: Recommender) -> None:
    request = random_requests(dataset, 40, np.random.default_rng(6))
    request = {name: request[name] for name in INPUTS}
    expected = filtered.call("recommend", request)
    answer = filtered.call("recommend_filtered", request | no_filters(40))
    for name, values in expected.items():
        np.testing.assert_array_equal(answer[name], values)


def test_what_is_hidden_is_not_similar_either(
    dataset: Dataset, filtered: Recommender, safety: NDArray[np.float32]
) -> None:
    hidden = set(dataset.videos.ids[safety < np.float32(MIN_SAFETY)])
    answer = texts(filtered.call("similar_videos", {"video_id": dataset.videos.ids})["video_id"])
    for video, shown in zip(dataset.videos.ids, answer, strict=True):
        assert len([other for other in shown if other]) == MAX_K
        assert not {video, *hidden} & set(shown)


def test_a_request_is_answered_alike_alone_and_in_a_batch(dataset: Dataset, filtered: Recommender) -> None:
    """Also where other requests of the batch fall back to exact search."""
    request = random_requests(dataset, 12, np.random.default_rng(9))
    together = filtered.call("recommend_filtered", request)["video_id"]
    for row in range(12):
        alone = filtered.call("recommend_filtered", {name: values[row : row + 1] for name, values in request.items()})
        shown = alone["video_id"][0]
        np.testing.assert_array_equal(together[row, : len(shown)], shown)
        assert not any(together[row, len(shown) :])


def test_blocks_of_a_large_batch_are_scored_as_the_batch(model: ServingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests at a time, of seven."""
    draw = np.random.default_rng(1)
    embeddings = model.video_embeddings
    queries = tf.constant(draw.normal(size=(7, 8)), tf.float32)
    filters = Filters(tf.sort(tf.constant(draw.integers(-1, 60, (7, 30)), tf.int32), axis=1), tf.zeros(7))
    retriever = Retriever(model.index, embeddings, Safety(None, 60), 20)
    expected = retriever.nearest(queries, filters, tf.zeros(7, tf.int32))
    monkeypatch.setattr(candidates, "MAX_SCORES", 3 * 60)
    found = retriever.nearest(queries, filters, tf.zeros(7, tf.int32))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_what_a_rounding_index_finds_is_scored_exactly(model: ServingModel) -> None:
    """All leaves are searched, so the exact order comes out although int8 scores are off."""
    embeddings = model.video_embeddings.numpy()
    rounded = PortableIndex(embeddings, partition(embeddings, 6), 6, "int8")
    queries = tf.constant(np.random.default_rng(4).normal(size=(9, 8)), tf.float32)
    filters, slots = Filters(tf.fill([9, 1], 3), tf.zeros(9)), tf.fill([9], 5)
    found, expected = (
        Retriever(index, model.video_embeddings, Safety(None, 60), 59).nearest(queries, filters, slots)
        for index in (rounded, model.index)
    )
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    by_index = rounded.search(queries, 59).scores.numpy()
    assert np.abs(by_index[:, :58] - found.scores.numpy()[:, :58]).max() > 1e-3


def test_weights_decide_the_order(dataset: Dataset, model: ServingModel) -> None:
    """Freshness alone: the newest candidates first; the age counts from the request."""
    created = NOW - 86_400 * np.arange(60)
    created[5] = 0
    config = replace(model.config, num_candidates=60, retrieval_exponent=0.0, freshness_half_life_days=2.0)
    fresh = Recommender(replace(model, created_at=created, config=config))
    request = random_requests(dataset, 1, np.random.default_rng(0)) | no_filters(1)
    request |= {"history": np.full((1, 1), "", object), "history_timestamp": np.zeros((1, 1), np.int64)}
    request |= {"exclude": np.full((1, 1), "", object), "timestamp": np.array([NOW]), "k": np.array([8], np.int32)}
    answer = fresh.call("recommend_filtered", request | {"weights": np.array([[0, 0, 0, 2.0]], np.float32)})
    newest = [0, 1, 2, 3, 4, 6, 7, 8]
    assert texts(answer["video_id"])[0] == list(dataset.videos.ids[newest])
    np.testing.assert_allclose(answer["score"][0], 2 * 0.5 ** (np.array(newest) / 2), rtol=1e-4)
    by_click = fresh.call("recommend_filtered", request | {"weights": np.array([[1, 0, 0, 0]], np.float32)})
    np.testing.assert_allclose(by_click["score"], by_click["click"], rtol=1e-5)


def test_nothing_is_found_where_everything_is_blocked(model: ServingModel) -> None:
    retriever = Retriever(model.index, model.video_embeddings, Safety(np.full(60, BLOCKED, np.float32), 60), 20)
    found = retriever.nearest(tf.ones([2, 8]), Filters(tf.fill([2, 1], -1), tf.zeros(2)), tf.fill([2], 5))
    assert (found.rows.numpy() == -1).all()
