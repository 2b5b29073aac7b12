"""What the model is held against: simple recommenders of the literature behind one interface.

Each is fitted on the training matrix and then scores users by the videos they have watched, so users it has never met are
served too. A user in whose history a baseline finds nothing to go by is served the most popular videos. What a baseline is
sensitive to is chosen among its `settings`: one that is badly set flatters what is held against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from tfrec.features.content import ContentFeatures

Scores = NDArray[np.float32]
Settings = dict[str, Any]

NO_CONTENT = "the dataset has no content features"

MAX_TUNING_USERS = 2000
"""Users of whom one training positive is held out to choose a baseline's settings."""

TUNING_CUTOFF = 20


class Baseline(ABC):
    """Fitted once, then asked for scores.

    Attributes:
        name: its key in metrics.json.
        half_life_days: age at which an event counts half in the training weights that it wants; None: all count the same.
    """

    name: ClassVar[str]
    half_life_days: float | None = None

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """Arguments to choose among; the defaults alone where nothing matters much."""
        del content
        return ({},)

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

    def scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]] | None = None) -> Scores:
        """Scores of all videos.

        Args:
            seen: float32 `[B, num_videos]`, 1 for a video the user has watched.
            users: `[B]` rows of the training matrix; without them nobody is known.

        Returns:
            float32 `[B, num_videos]`, higher is better.
        """
        scores = self._scores(seen, np.full(seen.shape[0], -1) if users is None else users)
        clueless = scores.max(axis=1) == scores.min(axis=1)
        scores[clueless] = self._popularity
        return scores

    @abstractmethod
    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None: ...

    @abstractmethod
    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores: ...


class Popularity(Baseline):
    """Training positives per video, the same for everyone."""

    name = "popularity"

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        pass

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        return np.tile(self._popularity, (seen.shape[0], 1))


class RecentPopularity(Popularity):
    """Popularity in which a positive counts less the older it is.

    Args:
        half_life_days: age at which it counts half.
    """

    name = "recent_popularity"

    def __init__(self, half_life_days: float = 7.0) -> None:
        self.half_life_days = half_life_days

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """From a day to a month."""
        return tuple({"half_life_days": days} for days in (1.0, 3.5, 7.0, 14.0, 30.0))


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

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """Few neighbours are precise, many cover more."""
        return tuple({"neighbours": neighbours} for neighbours in (10, 20, 50, 200))

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        model = ItemItemRecommender(K=self._neighbours)
        model.fit(bm25_weight(train.T, K1=1.2, B=0.75).T.tocsr(), show_progress=False)
        self._similarity = model.similarity.astype(np.float32)

    @property
    def weights(self) -> tuple[NDArray[np.intp], Scores]:
        """As `EASE.weights`."""
        videos = np.flatnonzero(self._popularity)
        return videos, self._similarity[videos][:, videos].toarray()

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        return (seen @ self._similarity).toarray()


class UserKNN(Baseline):
    """Sum of the training positives of the users whose histories are most alike, by cosine of IDF-weighted rows.

    Args:
        neighbours: most similar users that count.

    References:
        Resnick et al., CSCW 1994; the weights are those of implicit feedback, where there is no rating to centre.
    """

    name = "user_knn"

    def __init__(self, neighbours: int = 200) -> None:
        self._neighbours = neighbours

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """Few neighbours are precise, many cover more."""
        return tuple({"neighbours": neighbours} for neighbours in (50, 200, 800))

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        counts = train.getnnz(axis=0)
        self._rarity = sparse.diags(np.log((1 + train.shape[0]) / (1 + counts)).astype(np.float32))
        self._train = train.tocsr()
        self._audience = normalize(train @ self._rarity).T.tocsc()

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        alike = (normalize(seen @ self._rarity) @ self._audience).toarray()
        if self._neighbours < alike.shape[1]:
            alike[alike < -np.partition(-alike, self._neighbours - 1, axis=1)[:, self._neighbours - 1, None]] = 0
        return (sparse.csr_matrix(alike) @ self._train).toarray()


class ALS(Baseline):
    """Weighted matrix factorisation; the factors of a user are solved from what they have watched.

    Args:
        factors: width of the embeddings.
        regularization: L2 penalty.
        alpha: weight of a positive against an unknown.
        iterations: alternations.

    References:
        Hu, Koren and Volinsky, ICDM 2008; Rendle et al., Revisiting iALS, RecSys 2022, on why it must be tuned.
    """

    name = "als"

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """From light penalties to heavy ones, which sparse logs want; small catalogues want few factors."""
        grid = ((3.0, 2.0), (10.0, 5.0), (30.0, 10.0), (30.0, 40.0), (100.0, 40.0), (300.0, 100.0))
        return tuple(
            {"factors": factors, "regularization": penalty, "alpha": alpha}
            for factors in (16, 64)
            for penalty, alpha in grid
        )

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

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        with threadpool_limits(1, "blas"):
            factors = self._model.recalculate_user(np.arange(seen.shape[0]), seen)
        return np.asarray(factors @ self._model.item_factors.T, np.float32)


class BPR(Baseline):
    """Matrix factorisation that ranks what was watched above what was not, by stochastic gradient.

    A user it has never met is embedded by the mean of the videos watched.

    Args:
        factors: width of the embeddings.
        learning_rate: of the gradient steps.
        regularization: L2 penalty.
        iterations: passes over the training positives.

    References:
        Rendle et al., UAI 2009.
    """

    name = "bpr"

    def __init__(
        self, factors: int = 64, learning_rate: float = 0.05, regularization: float = 0.01, iterations: int = 50
    ) -> None:
        self._model_settings = {
            "factors": factors,
            "learning_rate": learning_rate,
            "regularization": regularization,
            "iterations": iterations,
        }

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """The penalty matters most."""
        return tuple({"regularization": penalty} for penalty in (0.01, 0.03, 0.1, 0.3))

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        # Several threads would race for the same factors, and end elsewhere each time.
        model = BayesianPersonalizedRanking(**self._model_settings, random_state=seed, use_gpu=False, num_threads=1)
        model.fit(train, show_progress=False)
        # The library draws negatives by popularity, and so learns how much likelier than that a video is.
        self._factors, self._bias = model.item_factors[:, :-1], model.item_factors[:, -1] + np.log(self._popularity + 1)
        self._users, self._trained = model.user_factors[:, :-1], train.getnnz(axis=1) > 0

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        known = (users >= 0) & self._trained[users]
        taste = np.where(known[:, None], self._users[users], normalize(seen, norm="l1") @ self._factors)
        return np.asarray(taste @ self._factors.T + (seen.getnnz(axis=1) > 0)[:, None] * self._bias, np.float32)


class EASE(Baseline):
    """Linear model from videos to videos with a zero diagonal, in closed form.

    Args:
        l2: penalty on the weights.
        max_videos: videos above which the dense inverse would take too much memory and time.

    References:
        Steck, WWW 2019.
    """

    name = "ease"

    def __init__(self, l2: float = 50.0, max_videos: int = 20_000) -> None:
        self._l2 = l2
        self._max_videos = max_videos

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """Dense logs want a heavier penalty."""
        return tuple({"l2": l2} for l2 in (50.0, 200.0, 800.0))

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Refuses catalogues whose dense inverse would not fit."""
        inverted = len(self._inverted(train))
        if inverted <= self._max_videos:
            return None
        return f"inverts a dense matrix of {inverted:,} x {inverted:,} videos; at most {self._max_videos:,} are tried"

    def _inverted(self, train: sparse.csr_matrix) -> NDArray[np.intp]:
        """Row numbers of the videos that have weights: a video without training positives gets none."""
        return np.flatnonzero(train.getnnz(axis=0))

    def _gram(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> Scores:
        """How often two of the videos were watched by the same user, `[num inverted, num inverted]`."""
        del content
        watched = train[:, self._videos]
        return np.asarray((watched.T @ watched).toarray(), np.float32)

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        self._videos = self._inverted(train)
        gram = self._gram(train, content)
        gram[np.diag_indices_from(gram)] += self._l2
        inverse = _inverse(gram)
        self._weights = -inverse / np.diag(inverse)
        np.fill_diagonal(self._weights, 0)

    @property
    def weights(self) -> tuple[NDArray[np.intp], Scores]:
        """Row numbers `[n]` of the videos that have weights, and these, float32 `[n, n]`, from watched to offered."""
        return self._videos, self._weights

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        scores = np.zeros(seen.shape, np.float32)
        scores[:, self._videos] = seen[:, self._videos] @ self._weights
        return scores


class ContentEASE(EASE):
    """EASE in which content counts as further users: one per dimension, who watched what points that way.

    Args:
        l2: penalty on the weights.
        content_weight: of these users against the others.
        max_videos: videos above which the dense inverse would take too much memory and time.

    References:
        Jeunen, Van Balen and Goethals, Closed-form models for collaborative filtering with side-information, RecSys 2020.
    """

    name = "ease_content"

    def __init__(self, l2: float = 50.0, content_weight: float = 10.0, max_videos: int = 20_000) -> None:
        super().__init__(l2, max_videos)
        self._content_weight = content_weight

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """Both weights."""
        return tuple(
            {"l2": l2, "content_weight": weight} for l2 in (50.0, 200.0, 800.0) for weight in (3.0, 10.0, 30.0)
        )

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Refuses a dataset without content, and what EASE refuses."""
        return super().unavailable(train, content) if content else NO_CONTENT

    def _inverted(self, train: sparse.csr_matrix) -> NDArray[np.intp]:
        return np.arange(train.shape[1])

    def _gram(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> Scores:
        assert content is not None
        gram = super()._gram(train, content)
        for modality in content.modalities.values():
            directions = modality.directions()
            gram += self._content_weight * (directions @ directions.T)
        return gram


def _inverse(matrix: Scores) -> Scores:
    """Inverse of a symmetric positive definite matrix, half the work of a general one."""
    factor, _ = lapack.spotrf(matrix, lower=True, overwrite_a=True)
    lower, _ = lapack.spotri(factor, lower=True, overwrite_c=True)
    return np.tril(lower) + np.tril(lower, -1).T


class ContentKNN(Baseline):
    """Mean cosine between a video's content and that of the videos watched; needs nobody to have watched the video.

    A modality is centred and pooled to one vector per video; the cosines of the modalities a video has are averaged.

    Args:
        modalities: names of those that count; None for all.
    """

    name = "content_knn"

    def __init__(self, modalities: Sequence[str] | None = None) -> None:
        self._modalities = modalities

    @classmethod
    def settings(cls, content: ContentFeatures | None) -> Sequence[Settings]:
        """All modalities, or one: a modality that says little drowns the others."""
        names = list(content.modalities) if content else []
        return ({}, *({"modalities": [name]} for name in names if len(names) > 1))

    def unavailable(self, train: sparse.csr_matrix, content: ContentFeatures | None) -> str | None:
        """Refuses a dataset without content."""
        return None if content else NO_CONTENT

    def _fit(self, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> None:
        assert content is not None
        names = self._modalities or list(content.modalities)
        modalities = [content.modalities[name] for name in names]
        self._directions = [modality.directions() for modality in modalities]
        self._present = np.sum([modality.lengths > 0 for modality in modalities], axis=0)

    def _scores(self, seen: sparse.csr_matrix, users: NDArray[np.integer[Any]]) -> Scores:
        total = np.zeros(seen.shape, np.float32)
        for directions in self._directions:
            watched = np.maximum(seen @ directions.any(axis=1), 1)[:, None]
            total += (seen @ directions / watched) @ directions.T
        return total / np.maximum(self._present, 1, dtype=np.float32)


BASELINES: dict[str, type[Any]] = {
    baseline.name: baseline
    for baseline in (
        Popularity,
        RecentPopularity,
        ItemKNN,
        UserKNN,
        ALS,
        BPR,
        EASE,
        ContentEASE,
        ContentKNN,
    )
}
"""By the names that `evaluation.baselines` takes."""


def tuned(name: str, train: sparse.csr_matrix, content: ContentFeatures | None, seed: int) -> tuple[Baseline, Settings]:
    """A fitted baseline with the settings that find most of the training positives held out: for where there is no other part.

    One positive each of at most `MAX_TUNING_USERS` users who have several is held out, and looked for among the first
    `TUNING_CUTOFF` videos that the user has not watched. The settings found are then fitted on all of the training part.

    Args:
        name: a key of `BASELINES`.
        train: as `Baseline.fit` takes it.
        content: as `Baseline.fit` takes it.
        seed: of the draws and of the baseline.

    Returns:
        The baseline, and the settings chosen; none where there was no choice.
    """
    kind = BASELINES[name]
    choices = kind.settings(content)
    users, targets = _held_out(train, seed)
    if len(choices) == 1 or not len(users):
        return kind().fit(train, content, seed), {}
    rest = train.copy()
    rest[users, targets] = 0
    rest.eliminate_zeros()

    def hit_rate(settings: Settings) -> float:
        baseline = kind(**settings).fit(rest, content, seed)
        return _hit_rate(baseline.scores(rest[users], users), rest[users], targets)

    best = max(choices, key=hit_rate)
    return kind(**best).fit(train, content, seed), best


def _held_out(train: sparse.csr_matrix, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Users with several positives, and one positive of each."""
    generator = np.random.default_rng(seed)
    counts = train.getnnz(axis=1)
    users = generator.permutation(np.flatnonzero(counts > 1))[:MAX_TUNING_USERS]
    places = train.indptr[users] + generator.integers(counts[users])
    return users, train.indices[places].astype(np.intp)


def _hit_rate(scores: Scores, seen: sparse.csr_matrix, targets: NDArray[np.intp]) -> float:
    """Share of the targets among the best that were not seen; ties are broken against the target."""
    scores[seen.nonzero()] = -np.inf
    reached = np.take_along_axis(scores, targets[:, None], axis=1)
    return float(((scores >= reached).sum(axis=1) <= TUNING_CUTOFF).mean())
