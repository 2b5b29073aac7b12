"""Propagation against dense NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tfrec.layers.graph import GraphConvolution, GraphSmoothing, VideoGraph

VIEWING = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]], np.float32)  # nobody has watched the last video
ALIKE = np.array([[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32)


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def hop() -> np.ndarray:
    """By the definition: the sum over the viewers u of both videos of 1 / (degree of u * roots of the videos' degrees)."""
    result = np.zeros((4, 4))
    for user in VIEWING:
        for i in np.flatnonzero(user):
            for j in np.flatnonzero(user):
                result[i, j] += 1 / user.sum() / np.sqrt(VIEWING[:, i].sum() * VIEWING[:, j].sum())
    return result


def test_smoothing_sums_the_hops(table):
    smoothing = GraphSmoothing(VideoGraph(sparse.csr_matrix(VIEWING)), num_layers=2, content_weight=0.3)
    expected = table + hop() @ table + hop() @ hop() @ table
    np.testing.assert_allclose(smoothing(table), expected, atol=1e-6)
    np.testing.assert_array_equal(smoothing(table)[3], table[3])


def test_content_edges_come_last(table):
    graph = VideoGraph(sparse.csr_matrix(VIEWING), sparse.csr_matrix(ALIKE))
    smoothed = table + hop() @ table
    expected = smoothed + 0.3 * ALIKE @ smoothed
    np.testing.assert_allclose(GraphSmoothing(graph, 1, 0.3)(table), expected, atol=1e-6)


def test_gradient_flows_along_the_edges(table):
    smoothing = GraphSmoothing(VideoGraph(sparse.csr_matrix(VIEWING)), num_layers=1, content_weight=0.0)
    variable = tf.Variable(table)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(smoothing(variable)[0])
    expected = np.repeat((np.eye(4) + hop())[0][:, None], 3, axis=1)
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, atol=1e-6)


def test_convolution_maps_at_each_hop(table):
    convolution = GraphConvolution(VideoGraph(sparse.csr_matrix(VIEWING)), num_layers=2, units=3)
    convolution(table)
    first, second = (weights.numpy() for weights in convolution.trainable_variables)

    def step(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        mapped = hop() @ values @ weights
        return np.where(mapped > 0, mapped, 0.2 * mapped)

    once = step(table, first)
    np.testing.assert_allclose(convolution(table), table + once + step(once, second), atol=1e-5)
