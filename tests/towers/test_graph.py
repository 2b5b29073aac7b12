"""The graph of a catalogue: who watched what in training, and what is alike."""

import numpy as np
import pytest

from tfrec.config import CandidateConfig
from tfrec.data.schema import Part
from tfrec.errors import TfrecError
from tfrec.features.content import ContentFeatures, Modality
from tfrec.towers.graph import build_graph, content_edges, viewing_matrix


def modality(values: list[list[float]]) -> Modality:
    table = np.array(values, np.float32)
    return Modality(table, table.any(axis=1).astype(np.int32))


@pytest.fixture
def log(make_interactions):
    """User 0 watched video 1 twice; what comes after training is no edge."""
    events = [(0, 1, 10), (0, 1, 20), (0, 2, 30), (1, 0, 10), (1, 2, 40)]
    parts = [Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.VALIDATION]
    return make_interactions(events, parts, num_videos=4)


def test_viewing_matrix(log):
    np.testing.assert_array_equal(viewing_matrix(log).toarray(), [[0, 1, 1, 0], [1, 0, 0, 0]])


def test_events_of_a_user_are_bounded(make_interactions):
    log = make_interactions([(user, video, 0) for user in range(3) for video in range(10 * user + 1)])
    full, bounded = viewing_matrix(log), viewing_matrix(log, max_events=5)
    assert bounded.getnnz(axis=1).tolist() == [1, 5, 5]
    assert bounded.sum() == 11
    assert (full - bounded).min() >= 0
    assert set(bounded[2].indices) != set(range(5))
    assert (bounded != viewing_matrix(log, max_events=5)).nnz == 0


def test_content_edges_lead_to_the_most_similar_warm_videos():
    # Directions from the mean: 0 and 1 point one way, 2 and 3 the other; 4 has no content.
    content = [modality([[3, 1], [3, 2], [-3, -1], [-3, -2], [0, 0]])]
    edges = content_edges(content, np.array([True, True, True, False, True]), 1).toarray()
    assert edges[0].tolist() == [0, 1, 0, 0, 0]
    assert edges[1].tolist() == [1, 0, 0, 0, 0]
    assert edges[3].tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_allclose(edges.sum(axis=1), 1.0)
    # Video 3 is cold: no edge leads to it, not even from the one next to it.
    assert not edges[:, 3].any()


def test_modalities_count_together():
    """Text says 0 is like 1, the picture, more clearly, that it is like 2."""
    text = modality([[1, 0.1], [1, 0], [0.6, 0.8], [-3, -1]])
    picture = modality([[1, 0], [-0.5, 1], [1, 0.1], [-1, -1]])
    warm = np.ones(4, bool)
    assert content_edges([text], warm, 1)[0].indices.tolist() == [1]
    assert content_edges([text, picture], warm, 1)[0].indices.tolist() == [2]


def test_neighbours_are_at_most_the_other_warm_videos():
    content = [modality([[1, 0], [0, 1], [1, 1]])]
    edges = content_edges(content, np.ones(3, bool), 10).toarray()
    np.testing.assert_allclose(edges, (1 - np.eye(3)) / 2)
    assert not content_edges(content, np.array([True, False, False]), 10).nnz


def test_content_edges_are_an_option(log):
    content = ContentFeatures({"text": modality([[1, 0], [0, 1], [1, 1], [2, 1]])}, {})
    assert build_graph(CandidateConfig(graph="lightgcn"), log, content).alike is None
    wanted = CandidateConfig(graph="lightgcn", graph_neighbours=2)
    assert build_graph(wanted, log, content).alike.nnz == 8
    assert build_graph(wanted, log, ContentFeatures({}, {})).alike is None


def test_modalities_of_the_content_edges_can_be_chosen(log):
    text, picture = modality([[1, 0], [2, 0], [-3, 1], [-1, 1]]), modality([[1, 0], [-2, 1], [1.1, 0], [-1, 1]])
    content = ContentFeatures({"text": text, "video": picture}, {})
    warm = log.train_counts > 0
    chosen = CandidateConfig(graph="lightgcn", graph_neighbours=1, graph_modalities=["video"])
    assert (build_graph(chosen, log, content).alike != content_edges([picture], warm, 1)).nnz == 0
    assert (content_edges([picture], warm, 1) != content_edges([text], warm, 1)).nnz > 0
    with pytest.raises(TfrecError, match="sound, which the videos lack"):
        build_graph(CandidateConfig(graph="lightgcn", graph_neighbours=1, graph_modalities=["sound"]), log, content)
