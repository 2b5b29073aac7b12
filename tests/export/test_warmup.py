"""Warm-up requests on the real export."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfrec.data.schema import Dataset, Part
from tfrec.errors import TfrecError
from tfrec.evaluation.evaluate import make_task
from tfrec.export.log_requests import SignatureCall
from tfrec.export.recommender import Recommender
from tfrec.export.warmup import WARMUP_FILE, read_warmup, recommender_calls, replay_warmup, write_warmup


@pytest.fixture(scope="module")
def calls(dataset: Dataset, recommender: Recommender) -> list[SignatureCall]:
    return recommender_calls(dataset, make_task(dataset.interactions, Part.TEST), recommender.functions, 11, 10)


def test_every_signature_is_called_and_large_batches_too(calls: list[SignatureCall], recommender: Recommender) -> None:
    assert len(calls) == 11
    assert {call.signature for call in calls} == set(recommender.functions)
    assert {len(next(iter(call.inputs.values()))) for call in calls} == {1, 32}


def test_requests_are_those_of_users_in_the_log(calls: list[SignatureCall], dataset: Dataset) -> None:
    inputs = calls[0].inputs
    user = list(dataset.users.ids).index(inputs["user_id"][0])
    log = dataset.interactions
    rows = log.rows(Part.TRAIN, Part.VALIDATION)
    rows = rows[log.user[rows] == user]
    np.testing.assert_array_equal(inputs["history"][0], dataset.videos.ids[log.video[rows]])
    np.testing.assert_array_equal(inputs["history_timestamp"][0], log.timestamp[rows])
    later = rows[-1] + 1
    assert inputs["timestamp"][0] in log.timestamp[later:]


def test_what_is_written_is_read_by_servers_and_replayed(
    saved: Path, tmp_path: Path, calls: list[SignatureCall]
) -> None:
    folder = shutil.copytree(saved, tmp_path / "1")
    write_warmup(folder, "recommender", calls)
    records = list(
        tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")).as_numpy_iterator()
    )
    request = prediction_log_pb2.PredictionLog.FromString(records[0]).predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("recommender", calls[0].signature)
    assert request.inputs["k"].int_val[:] == [10] or tf.make_ndarray(request.inputs["k"]).tolist() == [10]
    assert replay_warmup(folder) == len(calls)
    for call, back in zip(calls, read_warmup(folder), strict=True):
        assert call.signature == back.signature
        texts = np.vectorize(bytes.decode, otypes=[object])(back.inputs.get("history", np.zeros((0, 0))))
        np.testing.assert_array_equal(texts, call.inputs.get("history", np.zeros((0, 0))))


def test_a_request_that_does_not_fit_is_named(saved: Path, tmp_path: Path, calls: list[SignatureCall]) -> None:
    folder = shutil.copytree(saved, tmp_path / "1")
    write_warmup(folder, "recommender", [calls[0], SignatureCall("similar_videos", {"film": np.array(["a"], object)})])
    with pytest.raises(TfrecError, match="request 1 does not fit `similar_videos`"):
        replay_warmup(folder)


def test_no_requests_where_nobody_is_asked(dataset: Dataset, saved: Path, tmp_path: Path) -> None:
    nobody = make_task(dataset.interactions, Part.TEST, max_users=0)
    nobody = type(nobody)(**{**vars(nobody), "users": nobody.users[:0]})
    assert recommender_calls(dataset, nobody, ["recommend"], 8, 10) == []
    assert not (saved / WARMUP_FILE).exists()
    assert replay_warmup(saved) == 0


def test_a_call_that_batching_servers_would_refuse_is_not_written(tmp_path: Path) -> None:
    call = SignatureCall("rank", {"user_id": np.array(["u1", "u2"], object), "k": np.array([5], np.int32)})
    with pytest.raises(TfrecError, match="one batch dimension in common"):
        write_warmup(tmp_path, "recommender", [call])
