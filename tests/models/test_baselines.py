"""One contract for all baselines; below it, what is particular to each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.baselines import (
    ALS,
    BASELINES,
    BPR,
    EASE,
    ContentEASE,
    ContentKNN,
    ItemKNN,
    Popularity,
    RecentPopularity,
    UserKNN,
    tuned,
)

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


class TestUserKNN(PersonalContract):
    baseline = UserKNN

    def test_adds_up_what_the_nearest_users_watched(self) -> None:
        # Every video has 2 viewers, so rarity is the same for all and the cosine is that of the plain rows.
        train = sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], np.float32))
        seen = sparse.csr_matrix(np.array([[1, 1, 0, 0]], np.float32))
        # Cosines to the four users: 1, 1/2, 0, 1/2.
        scores = UserKNN(neighbours=4).fit(train, None, seed=0).scores(seen)
        np.testing.assert_allclose(scores, [[1.5, 1.5, 0.5, 0.5]], rtol=1e-6)
        np.testing.assert_allclose(
            UserKNN(neighbours=1).fit(train, None, seed=0).scores(seen), [[1, 1, 0, 0]], rtol=1e-6
        )


class TestALS(PersonalContract):
    baseline = ALS


class TestBPR(PersonalContract):
    baseline = BPR

    def test_knows_its_users(self, fitted: Any, train: sparse.csr_matrix) -> None:
        known, met = fitted.scores(train[:4], np.arange(4)), fitted.scores(train[:4])
        assert np.abs(known - met).max() > 1e-3
        own = CLUSTER[None] == np.arange(4)[:, None] % NUM_CLUSTERS
        assert (known.mean(axis=1, where=own) > known.mean(axis=1, where=~own)).all()


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


class TestContentEASE(PersonalContract):
    baseline = ContentEASE

    def test_agrees_with_the_formula(self, train: sparse.csr_matrix, content: ContentFeatures) -> None:
        values = content.modalities["view0"].values
        centred = values - values.mean(axis=0)
        directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        together = np.concatenate([train.toarray(), np.sqrt(5) * directions.T])
        inverse = np.linalg.inv(together.T @ together + 7 * np.eye(NUM_VIDEOS))
        expected = train @ (np.eye(NUM_VIDEOS) - inverse / np.diag(inverse))
        scores = ContentEASE(l2=7, content_weight=5).fit(train, content, seed=0).scores(train)
        np.testing.assert_allclose(scores, expected, atol=1e-4)

    def test_ranks_videos_nobody_has_watched(self, fitted: Any, train: sparse.csr_matrix) -> None:
        cold = np.arange(PER_CLUSTER - 1, NUM_VIDEOS, PER_CLUSTER)
        np.testing.assert_array_equal(fitted.scores(train[:4])[:, cold].argmax(axis=1), np.arange(4))

    def test_needs_content(self, train: sparse.csr_matrix) -> None:
        assert ContentEASE().unavailable(train, None) == "the dataset has no content features"


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


class TestTuned:
    def test_chooses_what_finds_the_held_out_positives(self) -> None:
        generator = np.random.default_rng(5)
        cluster = np.repeat(np.arange(20), 15)
        telling = np.eye(20, dtype=np.float32)[cluster] + generator.normal(scale=0.1, size=(300, 20)).astype(np.float32)
        noise = [generator.normal(size=(300, 4)).astype(np.float32) for _ in range(5)]
        watched = (cluster == np.arange(60)[:, None] % 20) & (generator.random((60, 300)) < 0.5)
        train, views = sparse.csr_matrix(watched.astype(np.float32)), content_of(telling, *noise)
        baseline, settings = tuned("content_knn", train, views, seed=0)
        assert settings == {"modalities": ["view0"]}
        alone = ContentKNN(["view0"]).fit(train, views, seed=0)
        np.testing.assert_array_equal(baseline.scores(train), alone.scores(train))

    def test_learns_from_all_of_the_training_part_in_the_end(self, train: sparse.csr_matrix) -> None:
        baseline, settings = tuned("ease", train, None, seed=0)
        np.testing.assert_array_equal(baseline.scores(train), EASE(**settings).fit(train, None, seed=0).scores(train))

    def test_leaves_the_training_matrix_as_it_was(self, train: sparse.csr_matrix) -> None:
        before = train.copy()
        tuned("user_knn", train, None, seed=0)
        assert (before != train).nnz == 0

    def test_takes_the_first_choice_where_nothing_can_be_held_out(self) -> None:
        lonely = sparse.csr_matrix(np.eye(4, dtype=np.float32))
        assert tuned("ease", lonely, None, seed=0)[1] == {}

    def test_has_no_settings_where_there_is_no_choice(self, train: sparse.csr_matrix) -> None:
        assert tuned("popularity", train, None, seed=0)[1] == {}
