"""Propagation over the graph of videos: an embedding takes in what its neighbours hold.

Two videos are neighbours if somebody watched both. The graph is kept as the *viewing matrix* A, users by videos, normalised by
the degrees of both ends, and one *hop* is A' A: from the videos to their viewers and back. That is two layers of LightGCN
over the graph of users and videos whose users have no embedding of their own, so a user who was never seen in training is
embedded as well as any other. A *content edge* leads from a video to one that looks, sounds or reads alike.

A hop costs two products of a sparse matrix and a dense one: viewing events x width, in each training step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy import sparse

from tfrec.layers.acceleration import Dense


@dataclass(frozen=True)
class VideoGraph:
    """What videos have to do with each other.

    Args:
        viewing: float32 `[num_users, num_videos]`: 1 where a user watched a video in training.
        alike: float32 `[num_videos, num_videos]`: weights of the content edges, a video's in its row; None without them.
    """

    viewing: sparse.csr_matrix
    alike: sparse.csr_matrix | None = None


class Hop(tf.keras.layers.Layer):
    """One hop: every video takes in what the videos hold that its viewers watched.

    Args:
        viewing: see `VideoGraph`.
    """

    def __init__(self, viewing: sparse.csr_matrix) -> None:
        super().__init__()
        self.viewing = sparse_tensor(normalised(viewing))

    def call(self, table: tf.Tensor) -> tf.Tensor:
        """From float32 `[num_videos, D]` to the same shape, 0 for a video without viewers."""
        viewers = tf.sparse.sparse_dense_matmul(self.viewing, table)
        return tf.sparse.sparse_dense_matmul(self.viewing, viewers, adjoint_a=True)


class GraphSmoothing(tf.keras.layers.Layer):
    """LightGCN: the sum of a table and of what lies one, two, ... hops away; then the content neighbours' mean.

    References:
        He et al., LightGCN, SIGIR 2020; the content edges after Zhang et al., LATTICE, ACM Multimedia 2021.

    Args:
        graph: of the catalogue.
        num_layers: hops.
        content_weight: of the content neighbours.
    """

    def __init__(self, graph: VideoGraph, num_layers: int, content_weight: float) -> None:
        super().__init__()
        self.hop, self.num_layers = Hop(graph.viewing), num_layers
        self.alike = None if graph.alike is None else sparse_tensor(graph.alike * content_weight)

    def call(self, table: tf.Tensor) -> tf.Tensor:
        """From float32 `[num_videos, D]` to the same shape."""
        total = table
        for _ in range(self.num_layers):
            table = self.hop(table)
            total = total + table  # the first one may be a variable
        return total if self.alike is None else total + tf.sparse.sparse_dense_matmul(self.alike, total)


class GraphConvolution(tf.keras.layers.Layer):
    """MMGCN: like `GraphSmoothing`, with a linear map and a leaky ReLU at each hop; for one modality.

    References:
        Wei et al., MMGCN: multi-modal graph convolution network for personalized recommendation of micro-video, ACM
        Multimedia 2019.

    Args:
        graph: of the catalogue.
        num_layers: hops.
        units: width of the table.
    """

    def __init__(self, graph: VideoGraph, num_layers: int, units: int) -> None:
        super().__init__()
        self.hop = Hop(graph.viewing)
        self.maps = [Dense(units, use_bias=False) for _ in range(num_layers)]

    def call(self, table: tf.Tensor) -> tf.Tensor:
        """From float32 `[num_videos, units]` to the same shape."""
        total = table
        for linear in self.maps:
            table = tf.nn.leaky_relu(linear(self.hop(table)))
            total = total + table  # the first one may be a variable
        return total


def normalised(viewing: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divides each edge by the square roots of the degrees of its two ends."""
    per_user, per_video = (1 / np.sqrt(np.maximum(viewing.getnnz(axis=axis), 1)) for axis in (1, 0))
    return (sparse.diags(per_user) @ viewing @ sparse.diags(per_video)).tocsr()


def sparse_tensor(matrix: sparse.spmatrix) -> tf.SparseTensor:
    """The same in TensorFlow, float32, ordered by rows."""
    entries = matrix.tocsr().sorted_indices().tocoo()
    places = np.stack([entries.row, entries.col], axis=1).astype(np.int64)
    return tf.SparseTensor(places, entries.data.astype(np.float32), entries.shape)
