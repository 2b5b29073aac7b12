"""Search by free text with the project's own small BERT pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text

from tfrec.config import TextConfig
from tfrec.encoders.small_bert import build_small_bert
from tfrec.encoders.text import TextEncoder
from tfrec.export.ops import assert_stock
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.export.text_search import TextSearch

SUBJECTS = ("a cat sleeps", "red sports car", "海边 日落", "guitar lesson", "snow mountain", "cooking noodles")


@pytest.fixture(scope="module")
def texts(model: ServingModel) -> list[str]:
    """One text per video: a subject and a number; the last video has none."""
    count = len(model.video_ids)
    return [f"{SUBJECTS[row % 6]} {row // 6}" for row in range(count - 1)] + [""]


@pytest.fixture(scope="module")
def search(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> TextSearch:
    preprocessor, encoder = build_small_bert(tmp_path_factory.mktemp("bert"), texts[:-1])
    text_encoder = TextEncoder(str(preprocessor), str(encoder), TextConfig())
    vectors = text_encoder.encode(texts)
    vectors[-1] = 0
    return TextSearch(text_encoder, vectors)


def test_a_text_finds_the_videos_of_its_subject(
    search: TextSearch, texts: list[str], model: ServingModel, tmp_path: Path
) -> None:
    """Asked of the export: it is stock, and scores as the encoder and NumPy do."""
    recommender = Recommender(replace(model, text_search=search))
    save_recommender(recommender, tmp_path)
    assert_stock(tmp_path)
    query = tf.constant(["海边的日落", "guitar lesson", ""])
    answer = tf.saved_model.load(str(tmp_path)).signatures["search"](query=query)
    ids = [[video.decode() for video in row] for row in answer["video_id"].numpy()]
    for row, subject in ((0, "海边 日落"), (1, "guitar lesson")):
        found = {list(model.video_ids).index(video) % 6 for video in ids[row]}
        assert found == {SUBJECTS.index(subject)}
    assert ids[2] == [""] * 10
    vectors = search.encoder.encode([*texts[:-1], "guitar lesson"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["score"][1], np.sort(vectors[:-1] @ vectors[-1])[::-1][:10], atol=1e-5)
    assert not answer["score"].numpy()[2].any()


def test_a_video_without_text_is_never_found(search: TextSearch) -> None:
    scores = search.scores(tf.constant(["a cat sleeps"])).numpy()[0]
    assert scores[-1] == -np.inf
    assert np.isfinite(scores[:-1]).all()


def test_an_encoder_that_servers_cannot_run_is_recognised(search: TextSearch) -> None:
    def trimmed_lengths(texts: tf.Tensor) -> tf.Tensor:
        words = tf_text.RoundRobinTrimmer(4).trim([tf.strings.split(texts)])[0]
        return tf.cast(words.row_lengths(), tf.float32)[:, None]

    assert search.foreign_ops == set()
    assert TextSearch(trimmed_lengths, np.ones((2, 1))).foreign_ops == {"TFText>RoundRobinTrim"}
