"""Rankers by option answer the same from a SavedModel as in the library, with stock ops alone."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import RankingConfig
from tfrec.data.input_pipeline import HistoryLog
from tfrec.data.schema import Part
from tfrec.evaluation.evaluate import make_task
from tfrec.export.log_requests import task_requests, tensors
from tfrec.export.ops import assert_stock
from tfrec.export.recommender import Recommender, save_recommender
from tfrec.models.distilled_ranking import DistilledRanker
from tfrec.models.ranking import RankingModel

EXPERTS = RankingConfig(
    hidden_units=[8], num_experts=2, position_bias=True, calibration="isotonic", distilled_units=[4]
)


@pytest.mark.parametrize(
    ("config", "distilled"),
    [
        (EXPERTS, False),
        (EXPERTS, True),
        (RankingConfig(hidden_units=[8], linear_dim=4), False),
        (RankingConfig(network=False, linear_dim=4), False),
    ],
    ids=["experts", "distilled", "linear", "two_scores"],
)
def test_export_equals_library(dataset, retrieval, model, tmp_path, config, distilled):
    ranking = RankingModel(config, dataset, retrieval, model.video_embeddings, model.history_embeddings)
    log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 6)
    query = log.latest(tf.constant([0, 1]), tf.constant([1_702_000_000] * 2, tf.int64))
    events = tf.gather(ranking.video_embeddings, tf.maximum(query.history, 0))
    asked = retrieval.embed_queries(query, ranking.history_embeddings)
    candidates = tf.constant([[3, 5], [7, 58]])
    if distilled:
        ranking = DistilledRanker(config, dataset, ranking, retrieval)
    ranking.probabilities(query, asked, events, candidates)
    untouched = {id(variable) for curve in ranking.curves or () for variable in curve.variables}
    untouched |= {id(ranking.video_embeddings), id(ranking.history_embeddings)}
    draw = np.random.default_rng(4)
    for variable in ranking.variables:
        if variable.dtype == tf.float32 and id(variable) not in untouched:
            variable.assign(np.abs(draw.normal(scale=0.1, size=variable.shape)))
    draw_logits = draw.normal(size=200).astype(np.float32)
    for curve in ranking.curves or ():
        curve.fit(draw_logits, (draw.random(200) < 0.5).astype(np.float32))

    recommender = Recommender(replace(model, ranking=ranking))
    save_recommender(recommender, tmp_path / "1")
    assert_stock(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    task = make_task(dataset.interactions, Part.TEST)
    requests = task_requests(dataset, task, np.arange(4), 7)
    requests |= {"candidate": np.full((4, 2), "视频 3", object)}
    wanted = loaded.signatures["rank"].structured_input_signature[1]
    answers = loaded.signatures["rank"](**{name: value for name, value in tensors(requests).items() if name in wanted})
    expected = recommender.call("rank", {name: requests[name] for name in wanted})
    for name, values in expected.items():
        np.testing.assert_allclose(answers[name], values, atol=1e-6)
    assert 0 < expected["click"].min() < expected["click"].max() < 1
    history = HistoryLog.of(dataset.interactions, task.known, 6)
    ends = tf.constant(np.searchsorted(history.rows, task.history_end)[:4])
    query = history.before(tf.constant(task.users[:4]), ends, tf.constant(task.timestamp[:4]))
    events = tf.gather(ranking.video_embeddings, tf.maximum(query.history, 0))
    asked = retrieval.embed_queries(query, ranking.history_embeddings)
    library = ranking.probabilities(query, asked, events, tf.fill([4, 2], 3))
    np.testing.assert_allclose(answers["click"], library["click"], atol=1e-5)
