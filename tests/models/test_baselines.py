"""One contract for all baselines; below it, what is particular to each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.baselines import ALS, BASELINES, EASE, ContentKNN, ItemKNN, Popularity, RecentPopularity

NUM_CLUSTERS, PER_CLUSTER = 4, 12
NUM_VIDEOS = NUM_CLUSTERS * PER_CLUSTER
CLUSTER = np.repeat(np.arange(NUM_CLUSTERS), PER_CLUSTER)


def content_of(*tables: np.ndarray[Any, Any], lengths: list[np.ndarray[Any, Any]] | None = None) -> ContentFeatures:
    lengths = lengths or [np.ones(len(table), np.int32) for table in tables]
    pairs = zip(tables, lengths, strict=True)
    return ContentFeatures({f"view{i}": Modality(table, length) for i, (table, length) in enumerate(pairs)}, {})


@pytest.fixture(scope="module")
def content() -> ContentFeatures:
    """Videos of a cluster look alike."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(NUM_CLUSTERS, 8))
    return content_of((centres[CLUSTER] + 0.3 * generator.normal(size=(NUM_VIDEOS, 8))).astype(np.float32))


@pytest.fixture(scope="module")
def train() -> sparse.csr_matrix:
    """Each user watches half of one cluster; the last video of each cluster was never watched."""
    generator = np.random.default_rng(1)
    own = CLUSTER[None, :] == np.arange(80)[:, None] % NUM_CLUSTERS
    watched = own & (generator.random((80, NUM_VIDEOS)) < 0.5)
    watched[:, PER_CLUSTER - 1 :: PER_CLUSTER] = False
    return sparse.csr_matrix(watched.astype(np.float32))


class BaselineContract:
    """Inherited once per baseline."""

    baseline: type[Any]

    @pytest.fixture
    def fitted(self, train: sparse.csr_matrix, content: ContentFeatures) -> Any:
        return self.baseline().fit(train, content, seed=3)

    def test_is_registered(self) -> None:
        assert BASELINES[self.baseline.name] is self.baseline

    def test_is_available(self, train: sparse.csr_matrix, content: ContentFeatures) -> None:
        assert self.baseline().unavailable(train, content) is None

    def test_scores_every_video_for_every_user(self, fitted: Any, train: sparse.csr_matrix) -> None:
        scores = fitted.scores(train[:7])
        assert scores.shape == (7, NUM_VIDEOS)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_a_user_without_history_is_served_what_is_popular(self, fitted: Any, train: sparse.csr_matrix) -> None:
        scores = fitted.scores(sparse.csr_matrix((1, NUM_VIDEOS), dtype=np.float32))
        np.testing.assert_allclose(scores[0], np.asarray(train.sum(axis=0)).ravel())

    def test_a_user_does_not_depend_on_the_others_in_the_batch(self, fitted: Any, train: sparse.csr_matrix) -> None:
        np.testing.assert_allclose(fitted.scores(train[:9])[5], fitted.scores(train[5])[0], rtol=1e-4, atol=1e-5)

    def test_is_deterministic_by_seed(self, fitted: Any, train: sparse.csr_matrix, content: ContentFeatures) -> None:
        again = self.baseline().fit(train, content, seed=3)
        np.testing.assert_array_equal(again.scores(train), fitted.scores(train))

    def test_survives_a_video_and_a_user_without_events(self, content: ContentFeatures) -> None:
        lonely = sparse.csr_matrix(([1.0, 1.0], ([0, 2], [3, 4])), (4, NUM_VIDEOS), dtype=np.float32)
        scores = self.baseline().fit(lonely, content, seed=0).scores(lonely)
        assert np.isfinite(scores).all()


class PersonalContract(BaselineContract):
    """And this of all that do not give everyone the same."""

    def test_finds_the_cluster_of_a_user_it_has_never_met(self, fitted: Any) -> None:
        seen = np.zeros((NUM_CLUSTERS, NUM_VIDEOS), np.float32)
        seen[np.arange(NUM_CLUSTERS), np.arange(NUM_CLUSTERS) * PER_CLUSTER] = 1
        seen[np.arange(NUM_CLUSTERS), np.arange(NUM_CLUSTERS) * PER_CLUSTER + 1] = 1
        scores = fitted.scores(sparse.csr_matrix(seen))
        scores[seen > 0] = -np.inf
        top = np.argsort(-scores, axis=1)[:, :5]
        assert (CLUSTER[top] == np.arange(NUM_CLUSTERS)[:, None]).mean() > 0.9  # by chance: 1 in 4


class TestPopularity(BaselineContract):
    baseline = Popularity


class TestRecentPopularity(BaselineContract):
    baseline = RecentPopularity


class TestItemKNN(PersonalContract):
    baseline = ItemKNN


class TestALS(PersonalContract):
    baseline = ALS


class TestEASE(PersonalContract):
    baseline = EASE

    def test_agrees_with_the_formula(self, train: sparse.csr_matrix) -> None:
        gram = (train.T @ train).toarray().astype(np.float64) + 7 * np.eye(NUM_VIDEOS)
        inverse = np.linalg.inv(gram)
        weights = np.eye(NUM_VIDEOS) - inverse / np.diag(inverse)
        expected = train @ weights
        cold = np.asarray(train.sum(axis=0)).ravel() == 0
        scores = EASE(l2=7).fit(train, None, seed=0).scores(train)
        np.testing.assert_allclose(scores[:, ~cold], expected[:, ~cold], atol=1e-5)
        assert (scores[:, cold] == 0).all()

    def test_refuses_a_catalogue_too_large_to_invert(self, train: sparse.csr_matrix) -> None:
        assert "44" in (EASE(max_videos=43).unavailable(train, None) or "")
        assert EASE(max_videos=44).unavailable(train, None) is None  # 4 of 48 are cold and take no room


class TestContentKNN(PersonalContract):
    baseline = ContentKNN

    def test_ranks_videos_nobody_has_watched(self, fitted: Any) -> None:
        cold = np.arange(PER_CLUSTER - 1, NUM_VIDEOS, PER_CLUSTER)
        seen = sparse.csr_matrix((np.ones(4), (np.arange(4), np.arange(4) * PER_CLUSTER)), (4, NUM_VIDEOS), np.float32)
        np.testing.assert_array_equal(fitted.scores(seen)[:, cold].argmax(axis=1), np.arange(NUM_CLUSTERS))

    def test_is_the_mean_cosine_over_the_history_and_the_modalities_present(self) -> None:
        # Centred on 0 by construction; the second modality is missing for video 3.
        first = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
        second = np.array([[2], [-1], [-1], [0]], np.float32)
        lengths = [np.ones(4, np.int32), np.array([1, 1, 1, 0], np.int32)]
        baseline = ContentKNN().fit(
            sparse.csr_matrix((1, 4), dtype=np.float32), content_of(first, second, lengths=lengths), seed=0
        )
        seen = sparse.csr_matrix(np.array([[1, 0, 1, 0]], np.float32))
        # First view: mean of cosines to 0 and 2: .5 -.5 .5 -.5. Second: to 0 and 2: mean of +1 and -1 is 0.
        np.testing.assert_allclose(baseline.scores(seen), [[0.25, -0.25, 0.25, -0.5]], atol=1e-6)

    def test_needs_content(self, train: sparse.csr_matrix) -> None:
        assert ContentKNN().unavailable(train, None) == "the dataset has no content features"
        assert ContentKNN().unavailable(train, ContentFeatures({}, {})) == "the dataset has no content features"
