"""Towers that read histories in order answer the same from a SavedModel as in the library, with stock ops alone."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from small_platform import make_serving_model, randomise

from tfrec.config import SEQUENCE_ENCODERS, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.schema import Part
from tfrec.data.sequences import SequenceBatches
from tfrec.evaluation.evaluate import make_task
from tfrec.export.log_requests import task_requests, tensors
from tfrec.export.ops import assert_stock
from tfrec.export.recommender import Recommender, save_recommender
from tfrec.features.content import ContentFeatures
from tfrec.models.sequence_retrieval import SequenceRetrievalModel

LENGTH = 6


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=[pytest.mark.slow] * (name != "transformer")) for name in SEQUENCE_ENCODERS]
)
def test_export_equals_library(dataset, tmp_path, encoder):
    log, query_config = dataset.interactions, QueryConfig(encoder=encoder, history_length=LENGTH)
    config = RetrievalConfig(embedding_dim=8, query=query_config, training="sequences")
    retrieval = SequenceRetrievalModel(
        config, dataset, ContentFeatures({}, {}), RetrievalBatches(log, LENGTH, 16, 16, 0, 1)
    )
    retrieval.compute_loss(next(iter(SequenceBatches(log, LENGTH, 4, 16, 1).epoch(0))))
    randomise(retrieval, 1)
    serving = replace(make_serving_model(dataset, retrieval), log_end=int(log.timestamp.max()))
    recommender = Recommender(serving)
    save_recommender(recommender, tmp_path / "1")
    assert_stock(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))

    task = make_task(log, Part.TEST)
    requests = task_requests(dataset, task, np.arange(len(task)), 7)
    history = HistoryLog.of(log, task.known, LENGTH)
    ends = tf.constant(np.searchsorted(history.rows, task.history_end))
    query = history.before(tf.constant(task.users), ends, tf.constant(task.timestamp))
    expected = retrieval.embed_queries(query, serving.video_embeddings)
    embedded = loaded.signatures["embed_user"](**_inputs(loaded, "embed_user", requests))["embedding"]
    np.testing.assert_allclose(embedded, expected, atol=1e-4)
    answers = loaded.signatures["recommend"](**_inputs(loaded, "recommend", requests))
    for name, values in recommender.call("recommend", requests).items():
        if values.dtype == object:
            np.testing.assert_array_equal(answers[name], values)
        else:
            np.testing.assert_allclose(answers[name], values, atol=1e-5)


def _inputs(loaded, signature: str, requests) -> dict[str, tf.Tensor]:
    wanted = loaded.signatures[signature].structured_input_signature[1]
    return {name: value for name, value in tensors(requests).items() if name in wanted}
