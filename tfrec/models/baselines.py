"""What the model is held against: simple recommenders of the literature behind one interface.

Each is fitted on the training matrix and then scores users by the videos they have watched, so users it has never met are
served too. A user in whose history a baseline finds nothing to go by is served the most popular videos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from tfrec.features.content import ContentFeatures, Modality

Scores = NDArray[np.float32]


class Baseline(ABC):
    """Fitted once, then asked for scores.

    Attributes:
        name: its key in metrics.json.
        decayed: whether it wants training weights that fall with the age of an event.
    """

    name: ClassVar[str]
    decayed: ClassVar[bool] = False

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Why it cannot be fitted on this dataset, in words; None where it can."""
        del train, content
        return None

    def fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> Self:
        """Learns from the training part.

        Args:
            train: float32 `[num_users, num_videos]`, 1 (or a decayed weight) for a training positive.
            content: what is known of the videos besides.
            seed: of whatever is drawn.
        """
        self._popularity = np.asarray(train.sum(axis=0), np.float32).ravel()
        self._fit(train, content, seed)
        return self

    def scores(self, seen: sparse.csr_matrix) -> Scores:
        """Scores of all videos.

        Args:
            seen: float32 `[B, num_videos]`, 1 for a video the user has watched.

        Returns:
            float32 `[B, num_videos]`, higher is better.
        """
        scores = self._scores(seen)
        clueless = scores.max(axis=1) == scores.min(axis=1)
        scores[clueless] = self._popularity
        return scores

    @abstractmethod
    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None: ...

    @abstractmethod
    def _scores(self, seen: sparse.csr_matrix) -> Scores: ...


class Popularity(Baseline):
    """Training positives per video, the same for everyone."""

    name = "popularity"

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        pass

    def _scores(self, seen: sparse.csr_matrix) -> Scores:
        return np.tile(self._popularity, (seen.shape[0], 1))


class RecentPopularity(Popularity):
    """Popularity in which a positive counts less the older it is."""

    name = "recent_popularity"
    decayed = True


class ItemKNN(Baseline):
    """Sum of the similarities of a video's audience to those of the videos watched, audiences weighted by BM25.

    BM25 takes weight from users who watch everything; plain cosine lets videos with one viewer win on sparse logs.

    Args:
        neighbours: most similar videos kept for each.

    References:
        Sarwar et al., WWW 2001.
    """

    name = "item_knn"

    def __init__(self, neighbours: int = 50) -> None:
        self._neighbours = neighbours

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        model = ItemItemRecommender(K=self._neighbours)
        model.fit(bm25_weight(train.T, K1=1.2, B=0.75).T.tocsr(), show_progress=False)
        self._similarity = model.similarity.astype(np.float32)

    def _scores(self, seen: sparse.csr_matrix) -> Scores:
        return (seen @ self._similarity).toarray()


class ALS(Baseline):
    """Weighted matrix factorisation; the factors of a user are solved from what they have watched.

    Args:
        factors: width of the embeddings.
        regularization: L2 penalty.
        alpha: weight of a positive against an unknown.
        iterations: alternations.

    References:
        Hu, Koren and Volinsky, ICDM 2008.
    """

    name = "als"

    def __init__(
        self, factors: int = 64, regularization: float = 30.0, alpha: float = 10.0, iterations: int = 15
    ) -> None:
        self._settings = {
            "factors": factors,
            "regularization": regularization,
            "alpha": alpha,
            "iterations": iterations,
        }

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        with threadpool_limits(1, "blas"):  # implicit runs its own threads; BLAS threads within them only fight
            self._model = AlternatingLeastSquares(**self._settings, random_state=seed, use_gpu=False)
            self._model.fit(train, show_progress=False)

    def _scores(self, seen: sparse.csr_matrix) -> Scores:
        with threadpool_limits(1, "blas"):
            factors = self._model.recalculate_user(np.arange(seen.shape[0]), seen)
        return np.asarray(factors @ self._model.item_factors.T, np.float32)


class EASE(Baseline):
    """Linear model from videos to videos with a zero diagonal, in closed form.

    Args:
        l2: penalty on the weights.
        max_videos: warm videos above which the dense inverse would take too much memory and time.

    References:
        Steck, WWW 2019.
    """

    name = "ease"

    def __init__(self, l2: float = 50.0, max_videos: int = 20_000) -> None:
        self._l2 = l2
        self._max_videos = max_videos

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Refuses catalogues whose dense inverse would not fit."""
        warm = int((train.getnnz(axis=0) > 0).sum())
        if warm <= self._max_videos:
            return None
        return f"inverts a dense matrix of {warm:,} x {warm:,} warm videos; at most {self._max_videos:,} are tried"

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        self._warm = np.flatnonzero(train.getnnz(axis=0))
        warm = train[:, self._warm]
        gram = (warm.T @ warm).toarray()
        gram[np.diag_indices_from(gram)] += self._l2
        inverse = _inverse(gram)
        self._weights = -inverse / np.diag(inverse)
        np.fill_diagonal(self._weights, 0)

    def _scores(self, seen: sparse.csr_matrix) -> Scores:
        scores = np.zeros(seen.shape, np.float32)  # a video without training positives gets no weight
        scores[:, self._warm] = seen[:, self._warm] @ self._weights
        return scores


def _inverse(matrix: Scores) -> Scores:
    """Inverse of a symmetric positive definite matrix, half the work of a general one."""
    factor, _ = lapack.spotrf(matrix, lower=True, overwrite_a=True)
    lower, _ = lapack.spotri(factor, lower=True, overwrite_c=True)
    return np.tril(lower) + np.tril(lower, -1).T


class ContentKNN(Baseline):
    """Mean cosine between a video's content and that of the videos watched; needs nobody to have watched the video.

    A modality is centred and pooled to one vector per video; the cosines of the modalities a video has are averaged.
    """

    name = "content_knn"

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Refuses a dataset without content."""
        return None if content else "the dataset has no content features"

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        modalities = list(content.modalities.values()) if content else []
        self._directions = [_directions(modality) for modality in modalities]
        self._present = np.sum([modality.lengths > 0 for modality in modalities], axis=0)

    def _scores(self, seen: sparse.csr_matrix) -> Scores:
        total = np.zeros(seen.shape, np.float32)
        for directions in self._directions:
            watched = np.maximum(seen @ directions.any(axis=1), 1)[:, None]
            total += (seen @ directions / watched) @ directions.T
        return total / np.maximum(self._present, 1, dtype=np.float32)


def _directions(modality: Modality) -> Scores:
    """float32 `[num_videos, dim]`: unit vectors from the mean of the catalogue, zeros where missing."""
    pooled, present = modality.pooled(), modality.lengths > 0
    if not present.any():
        return pooled
    centred = (pooled - pooled[present].mean(axis=0)) * present[:, None]
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


BASELINES: dict[str, type[Any]] = {
    baseline.name: baseline for baseline in (Popularity, RecentPopularity, ItemKNN, ALS, EASE, ContentKNN)
}
"""By the names that `evaluation.baselines` takes."""
