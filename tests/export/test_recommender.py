"""The exported functions against the library, and what must hold of every slate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import EvaluationConfig
from tfrec.data.input_pipeline import HistoryLog
from tfrec.data.schema import Dataset, Part
from tfrec.evaluation import metrics
from tfrec.evaluation.evaluate import EvaluationTask, evaluate, make_task
from tfrec.export.log_requests import task_requests, tensors
from tfrec.export.recommender import Recommender, ServingModel
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex
from tfrec.models.retrieval import RetrievalModel

Request = dict[str, NDArray[Any]]
MAX_K, NUM_CANDIDATES = 10, 20


@pytest.fixture(scope="module")
def task(dataset: Dataset) -> EvaluationTask:
    return make_task(dataset.interactions, Part.TEST)


@pytest.fixture(scope="module")
def requests(dataset: Dataset, task: EvaluationTask) -> Request:
    return task_requests(dataset, task, np.arange(len(task)), 7)


def strings(values: Any) -> NDArray[np.object_]:
    return np.vectorize(bytes.decode, otypes=[object])(values)


def rows_of(dataset: Dataset, ids: Any) -> NDArray[np.int64]:
    """Row numbers of ids, -1 for ""."""
    number = {video: row for row, video in enumerate(dataset.videos.ids)} | {"": -1}
    return np.vectorize(number.__getitem__, otypes=[int])(strings(ids))


def random_requests(dataset: Dataset, size: int, width: int, num_excluded: int, seed: int) -> Request:
    """Known and unknown users and videos, padding anywhere, repeated events, times or none, every `k`."""
    draw = np.random.default_rng(seed)

    def ids(count: int) -> NDArray[np.object_]:
        known = dataset.videos.ids[draw.integers(len(dataset.videos), size=(size, count))]
        return np.where(draw.random((size, count)) < 0.6, known, draw.choice(["", "gone"], (size, count)))

    times = draw.integers(1_700_000_000, 1_702_000_000, size=(size, width))
    return {
        "user_id": draw.choice([*dataset.users.ids, "stranger", ""], size).astype(object),
        "history": ids(width),
        "history_timestamp": np.where(draw.random((size, width)) < 0.8, times, 0),
        "timestamp": draw.choice([0, 1_702_000_000], size),
        "exclude": ids(num_excluded),
        "k": draw.integers(-1, MAX_K + 3, size=size).astype(np.int32),
    }


def test_slates_are_those_of_the_library(
    dataset: Dataset,
    retrieval: RetrievalModel,
    model: ServingModel,
    loaded: Any,
    task: EvaluationTask,
    requests: Request,
) -> None:
    """The expected slates are computed by the trained models and NumPy."""
    log = HistoryLog.of(dataset.interactions, task.known, model.history_length)
    query = log.before(task.users, np.searchsorted(log.rows, task.history_end), tf.constant(task.timestamp))
    embeddings = model.video_embeddings.numpy()
    asked = retrieval.embed_queries(query, model.history_embeddings).numpy()
    scores = asked @ embeddings.T
    scores[task.seen.toarray() > 0] = -np.inf
    candidates = np.argsort(-scores, axis=1, kind="stable")[:, :NUM_CANDIDATES].astype(np.int32)
    events = embeddings[np.maximum(query.history, 0)]
    predicted = model.ranking.probabilities(query, asked, events, candidates)
    predicted = {name: values.numpy() for name, values in predicted.items()}
    logits = np.take_along_axis(scores, candidates, axis=1) / model.temperature
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    final = (1.0 * predicted["click"] + 0.5 * predicted["finish"]) * np.sqrt(share)
    best = np.argsort(-final, axis=1)[:, :7]

    answer = loaded.signatures["serving_default"](**tensors(requests))
    rows = np.take_along_axis(candidates, best, axis=1)
    np.testing.assert_array_equal(rows_of(dataset, answer["video_id"]), rows)
    np.testing.assert_allclose(answer["score"], np.take_along_axis(final, best, axis=1), atol=1e-5)
    for name in ("click", "finish"):
        np.testing.assert_allclose(answer[name], np.take_along_axis(predicted[name], best, axis=1), atol=1e-5)
    np.testing.assert_array_equal(answer["like"], np.zeros_like(final[:, :7]))  # the log has no likes
    np.testing.assert_array_equal(answer["is_cold"], model.is_cold[rows])


def test_metrics_of_the_answers_are_those_of_the_evaluation(
    dataset: Dataset,
    retrieval: RetrievalModel,
    model: ServingModel,
    loaded: Any,
    task: EvaluationTask,
    requests: Request,
) -> None:
    log = HistoryLog.of(dataset.interactions, task.known, model.history_length)
    query = log.before(task.users, np.searchsorted(log.rows, task.history_end), tf.constant(task.timestamp))
    embeddings = model.video_embeddings.numpy()
    asked = retrieval.embed_queries(query, model.history_embeddings).numpy()
    config = EvaluationConfig(top_k=[10, 20], bootstrap_samples=1)
    expected = evaluate(lambda positions: asked[positions] @ embeddings.T, task, config)["retrieval"]

    retrieved = rows_of(dataset, loaded.signatures["retrieve"](**tensors(requests))["video_id"])
    hits, num_relevant = metrics.hits(retrieved, task.relevant), np.diff(task.relevant.indptr)
    assert expected["recall@20"] > 0
    for k in (10, 20):
        assert metrics.recall(hits, num_relevant, k).mean() == pytest.approx(expected[f"recall@{k}"], abs=1e-4)
        assert metrics.ndcg(hits, num_relevant, k).mean() == pytest.approx(expected[f"ndcg@{k}"], abs=1e-4)


@pytest.mark.parametrize(("width", "num_excluded", "seed"), [(0, 0, 0), (1, 5, 1), (12, 0, 2), (40, 45, 3)])
def test_no_slate_shows_what_it_must_not(
    dataset: Dataset, recommender: Recommender, width: int, num_excluded: int, seed: int
) -> None:
    requests = random_requests(dataset, 200, width, num_excluded, seed)
    answer = recommender.call("recommend", requests)
    shown, forbidden = strings(answer["video_id"]), np.concatenate([requests["history"], requests["exclude"]], axis=1)
    known = set(dataset.videos.ids)
    for row, k in enumerate(np.clip(requests["k"], 0, MAX_K)):
        banned = known & set(forbidden[row])
        slate = [video for video in shown[row] if video]
        assert len(slate) == len(set(slate)) == min(k, len(known - banned))
        assert set(slate) <= known - banned
        assert list(shown[row]) == slate + [""] * (shown.shape[1] - len(slate))
        assert np.all(np.diff(answer["score"][row, : len(slate)]) <= 0)
        assert set(strings(answer["reason"])[row, : len(slate)]) <= {"popular", "new"} | banned
        empty = slice(len(slate), None)
        assert not any(answer[name][row, empty].any() for name in ("score", "click", "finish", "is_cold"))
        assert set(answer["reason"][row, empty]) <= {b""}


def test_a_slate_is_full_however_much_was_watched(dataset: Dataset, recommender: Recommender) -> None:
    """All but ten videos are watched or excluded, far more than there are candidates."""
    request = random_requests(dataset, 1, 0, 0, 0)
    request |= {
        "history": dataset.videos.ids[None, :30],
        "history_timestamp": np.zeros((1, 30), np.int64),
        "exclude": dataset.videos.ids[None, 30:50],
        "k": np.array([10], np.int32),
    }
    shown = strings(recommender.call("recommend", request)["video_id"])[0]
    assert set(shown) == set(dataset.videos.ids[50:])


@pytest.mark.parametrize("signature", ["recommend", "retrieve", "embed_user"])
def test_a_request_is_answered_alike_alone_and_in_a_batch(
    dataset: Dataset, recommender: Recommender, signature: str
) -> None:
    requests = random_requests(dataset, 12, 9, 4, 5)
    together = recommender.call(signature, requests)
    for row in range(12):
        alone = recommender.call(signature, {name: values[row : row + 1] for name, values in requests.items()})
        for name, values in alone.items():
            width = values.shape[1]
            expected, rest = together[name][row, :width], together[name][row, width:]
            if values.dtype == np.float32:
                np.testing.assert_allclose(values[0], expected, atol=1e-5)
            else:
                np.testing.assert_array_equal(values[0], expected)
            assert not any(rest)


@pytest.mark.parametrize("signature", ["recommend", "retrieve", "embed_user", "rank"])
def test_an_empty_batch_has_an_empty_answer(dataset: Dataset, recommender: Recommender, signature: str) -> None:
    requests = random_requests(dataset, 0, 3, 2, 0) | {"candidate": np.zeros((0, 4), object)}
    assert all(len(values) == 0 for values in recommender.call(signature, requests).values())


@pytest.mark.parametrize(
    "wrong",
    [{"k": np.array([3, 4], np.int32)}, {"history": np.full(2, "a", object), "history_timestamp": np.zeros(2, int)}],
)
def test_inputs_of_different_length_are_named(
    dataset: Dataset, recommender: Recommender, wrong: dict[str, Any]
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"one row for each request: user_id, history, .*, k"):
        recommender.call("recommend", random_requests(dataset, 1, 3, 2, 1) | wrong)


def test_every_request_has_its_own_number_of_slots(dataset: Dataset, recommender: Recommender) -> None:
    requests = random_requests(dataset, 4, 2, 0, 1) | {"k": np.array([3, 1, 0, 6], np.int32)}
    shown = recommender.call("recommend", requests)["video_id"]
    assert shown.shape == (4, 6)
    assert (shown != b"").sum(axis=1).tolist() == [3, 1, 0, 6]


def test_slots_past_the_catalogue_are_empty(dataset: Dataset, model: ServingModel) -> None:
    small = Recommender(replace(model, config=replace(model.config, max_k=80, num_candidates=100)))
    answer = small.call("recommend", random_requests(dataset, 1, 0, 0, 0) | {"k": np.array([75], np.int32)})
    assert answer["video_id"].shape == (1, 75)
    assert set(strings(answer["video_id"])[0, :60]) == set(dataset.videos.ids)
    assert set(answer["video_id"][0, 60:]) == {b""}
    retrieved = small.call("retrieve", random_requests(dataset, 1, 0, 0, 0))
    assert retrieved["video_id"].shape == (1, 60)


def test_reasons(dataset: Dataset, recommender: Recommender, model: ServingModel) -> None:
    """A video of the history is named where its taste, seen from the mean, points the same way; the nearest one wins."""
    requests = random_requests(dataset, 40, 4, 0, 8) | {"k": np.full(40, 10, np.int32)}
    requests["history"][:4] = ""
    answer = recommender.call("recommend", requests)
    taste = model.video_embeddings.numpy()[:, :-1]
    taste = taste - taste.mean(axis=0)
    taste /= np.linalg.norm(taste, axis=1, keepdims=True)
    number = {video: row for row, video in enumerate(dataset.videos.ids)}
    reasons, seen = strings(answer["reason"]), set()
    for row, shown in enumerate(rows_of(dataset, answer["video_id"])):
        history = [number[video] for video in requests["history"][row] if video in number]
        for slot, video in enumerate(shown):
            alike = taste[history] @ taste[video]
            if len(history) and alike.max() > 0:
                assert reasons[row, slot] == dataset.videos.ids[history[alike.argmax()]]
            else:
                assert reasons[row, slot] == ("new" if model.is_cold[video] else "popular")
                seen.add(reasons[row, slot])
    assert seen == {"new", "popular"}


def test_rank_scores_the_candidates_in_their_order(
    dataset: Dataset, recommender: Recommender, requests: Request
) -> None:
    """Videos of the slate have the probabilities of the slate; what is unknown has none."""
    slate = recommender.call("recommend", requests)
    candidate = np.concatenate([strings(slate["video_id"])[:, ::-1], np.full((len(slate["score"]), 2), "?", object)], 1)
    ranked = recommender.call("rank", {**requests, "candidate": candidate})
    for name in ("click", "finish"):
        np.testing.assert_allclose(ranked[name][:, -3::-1], slate[name], atol=1e-5)
        assert not ranked[name][:, -2:].any()
    assert not ranked["score"][:, -2:].any()
    assert (ranked["score"][:, :-2] > 0).all()


def test_similar_videos(dataset: Dataset, recommender: Recommender, model: ServingModel) -> None:
    """With more candidates than videos the search is exact."""
    exact = Recommender(replace(model, config=replace(model.config, num_candidates=100)))
    answer = exact.call(
        "similar_videos", {"video_id": np.array([dataset.videos.ids[7], "?", dataset.videos.ids[3]], object)}
    )
    taste = model.video_embeddings.numpy()[:, :-1]
    taste = taste - taste.mean(axis=0)
    taste /= np.linalg.norm(taste, axis=1, keepdims=True)
    for row, video in ((0, 7), (2, 3)):
        cosine = taste @ taste[video]
        cosine[video] = -np.inf
        nearest = np.argsort(-cosine)[:MAX_K]
        np.testing.assert_array_equal(rows_of(dataset, answer["video_id"][row]), nearest)
        np.testing.assert_allclose(answer["score"][row], cosine[nearest], atol=1e-5)
    assert set(answer["video_id"][1]) == {b""}
    assert not answer["score"][1].any()
    assert recommender.call("similar_videos", {"video_id": np.zeros(0, object)})["video_id"].shape == (0, MAX_K)


def test_candidates_are_embedded_as_the_index_has_them(
    dataset: Dataset, recommender: Recommender, model: ServingModel
) -> None:
    videos = np.array([dataset.videos.ids[7], "?", dataset.videos.ids[0]], object)
    expected = model.video_embeddings.numpy()[[7, 0, 0]] * np.array([[1], [0], [1]], np.float32)
    np.testing.assert_array_equal(recommender.call("embed_candidate", {"video_id": videos})["embedding"], expected)


def test_another_index_is_served_alike(dataset: Dataset, model: ServingModel, recommender: Recommender) -> None:
    """The tree with all its leaves searched answers as exact search does."""
    embeddings = model.video_embeddings.numpy()
    tree = Recommender(replace(model, index=PortableIndex(embeddings, partition(embeddings, 6, 0), 6)))
    requests = random_requests(dataset, 10, 5, 3, 4)
    expected, answer = recommender.call("recommend", requests), tree.call("recommend", requests)
    np.testing.assert_array_equal(answer["video_id"], expected["video_id"])
    np.testing.assert_allclose(answer["score"], expected["score"], atol=1e-5)
