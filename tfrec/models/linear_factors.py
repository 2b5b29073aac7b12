"""A linear model from videos to videos, in factors: what retrieval and the ranker take besides the towers.

EASE and item-kNN, whose weights are a square matrix over the catalogue, err otherwise than towers do, so the sum of both scores
does better than either. The best approximation of low rank is two narrow tables, which an index and any server can hold.

References:
    Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019.
    Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from tfrec.data.input_pipeline import first_watches
from tfrec.data.schema import Interactions, Part
from tfrec.errors import TfrecError
from tfrec.models.baselines import EASE, ItemKNN, tuned
from tfrec.towers.space import rows_of


class Factors(NamedTuple):
    """Of the weights: a candidate's score is the inner product of its factors and the sum of those of the history.

    Args:
        watched: float32 `[num_videos, dim]`, what a video in the history says.
        offered: float32 `[num_videos, dim]`, what a candidate is; zeros for a cold one.
    """

    watched: NDArray[np.float32]
    offered: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Width."""
        return self.offered.shape[1]

    def scaled(self, weight: float) -> Factors:
        """With scores times a number."""
        return self._replace(offered=self.offered * np.float32(weight))

    @classmethod
    def fitted(cls, interactions: Interactions, dim: int, seed: int = 0) -> Factors:
        """EASE over the training positives, its penalty chosen on some that are held out, cut down to `dim` factors at most.

        Raises:
            TfrecError: If the catalogue is too large for the closed form.
        """
        train = _training_matrix(interactions)
        ease, _ = tuned(EASE.name, train, None, seed)
        assert isinstance(ease, EASE)
        return cls.of(ease, train, dim, seed)

    @classmethod
    def of(cls, model: EASE | ItemKNN, train: sparse.csr_matrix, dim: int, seed: int = 0) -> Factors:
        """A fitted model cut down to `dim` factors at most.

        The factors span the directions in which the scores of the training users vary most: no other tables of this width come
        nearer to these scores, by the sum of squares. These scores have mean square 1 before they are cut down.

        Args:
            model: fitted on `train`.
            train: float32 `[num_users, num_videos]`.
            dim: width.
            seed: of the decomposition.
        """
        warm, weights = model.weights
        watched = train[:, warm]
        gram = (watched.T @ watched).toarray()
        width = min(dim, len(warm))
        # The right singular vectors of the scores, which are `train @ weights`.
        squares = weights.T @ gram @ weights
        directions = randomized_svd(squares, width, n_iter=4, random_state=seed)[2].T
        weights = weights / np.sqrt(np.trace(squares) / (train.shape[0] * len(warm)))
        tables = np.zeros((2, train.shape[1], width), np.float32)
        tables[0, warm], tables[1, warm] = weights @ directions, directions
        return cls(*tables)


def linear_models(interactions: Interactions, dim: int, seed: int = 0) -> dict[str, Factors]:
    """EASE and item-kNN over the training positives with each of their settings, by what a run calls them.

    Args:
        interactions: the log.
        dim: most factors.
        seed: of the decompositions.

    Raises:
        TfrecError: If the catalogue is too large for the closed form.
    """
    train = _training_matrix(interactions)
    found = {}
    for kind in (EASE, ItemKNN):
        for settings in kind.settings(None):
            name = ", ".join([kind.name, *(f"{key} {value:g}" for key, value in settings.items())])
            found[name] = Factors.of(kind(**settings).fit(train, None, seed), train, dim, seed)
    return found


def _training_matrix(interactions: Interactions) -> sparse.csr_matrix:
    """float32 `[num_users, num_videos]`, 1 for a training positive."""
    rows = interactions.rows(Part.TRAIN)
    rows = rows[first_watches(interactions, rows)]
    cells = (interactions.user[rows], interactions.video[rows])
    shape = (interactions.num_users, interactions.num_videos)
    train = sparse.csr_matrix((np.ones(len(rows), np.float32), cells), shape)
    reason = EASE().unavailable(train, None)
    if reason is not None:
        raise TfrecError(f"`linear_dim` {reason}. Set it to 0.")
    return train


class LinearFactors(tf.Module):
    """Scores candidates by what is in the history, linearly.

    Args:
        factors: frozen. Their scores are about 1: the ranker's moving averages begin there.
    """

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.watched, self.offered = (tf.Variable(table, trainable=False) for table in factors)

    def __call__(self, history: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """float32 `[B, C]` from int32 `[B, T]` and `[B, C]` row numbers, -1 padding."""
        watched = rows_of(self.watched, tf.maximum(history, 0))
        asked = tf.reduce_sum(tf.where((history >= 0)[:, :, None], watched, 0.0), axis=1)
        offered = rows_of(self.offered, tf.maximum(candidates, 0))
        return tf.reduce_sum(asked[:, None, :] * offered, axis=2)
