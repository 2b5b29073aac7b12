"""Directions of content against content-kNN."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from tfrec.features.content import ContentFeatures, Modality
from tfrec.models.baselines import ContentKNN
from tfrec.models.content_block import ContentBlock

NUM_VIDEOS = 20


@pytest.fixture(scope="module")
def content() -> ContentFeatures:
    """Pictures of every video, of which two dimensions are enough; sounds of one to three steps, but for the last two videos."""
    draw = np.random.default_rng(0)
    pictures = draw.normal(size=(NUM_VIDEOS, 2)) @ draw.normal(size=(2, 5)) + 3.0
    lengths = (np.arange(NUM_VIDEOS) % 3 + 1).astype(np.int32)
    lengths[-2:] = 0
    sounds = draw.normal(size=(NUM_VIDEOS, 3, 4)) * (np.arange(3) < lengths[:, None])[:, :, None]
    modalities = {
        "pictures": Modality(pictures.astype(np.float32), np.ones(NUM_VIDEOS, np.int32)),
        "sounds": Modality(sounds.astype(np.float16), lengths),
    }
    return ContentFeatures(modalities, {})


@pytest.fixture(scope="module")
def seen() -> sparse.csr_matrix:
    """What five users watched: of the videos that have all modalities."""
    watched = np.random.default_rng(1).random((5, NUM_VIDEOS)) < 0.4
    watched[:, -2:] = False
    assert watched.any(axis=1).all()
    return sparse.csr_matrix(watched.astype(np.float32))


@pytest.mark.parametrize(("names", "dim"), [(["pictures"], 5), (["sounds"], 4), (["pictures", "sounds"], 9)])
def test_products_are_those_of_content_knn(content, seen, names, dim):
    block = ContentBlock(content, names, 64)
    assert block.dim == dim
    asked = seen @ block.catalogue / seen.sum(axis=1)
    expected = ContentKNN(names).fit(seen, content, 0).scores(seen, np.arange(5))
    complete = slice(None, -2)
    np.testing.assert_allclose(np.asarray(asked @ block.catalogue.T)[:, complete], expected[:, complete], atol=1e-3)


def test_shortened_without_loss_where_that_is_possible(content):
    """Two dimensions and the mean, which is subtracted: two principal components hold everything."""
    whole, short = (ContentBlock(content, ["pictures"], dim) for dim in (64, 2))
    assert short.catalogue.shape == (NUM_VIDEOS, 2)
    np.testing.assert_allclose(short.catalogue @ short.catalogue.T, whole.catalogue @ whole.catalogue.T, atol=1e-5)


@pytest.mark.parametrize("names", [["pictures"], ["sounds"], ["sounds", "pictures"]])
def test_unit_vectors_also_of_videos_in_no_catalogue(content, names):
    block = ContentBlock(content, names, 64)
    rows = np.array([3, 19, 4])
    values = {name: tf.constant(modality.values[rows]) for name, modality in content.modalities.items()}
    lengths = {name: tf.constant(modality.lengths[rows]) for name, modality in content.modalities.items()}
    embedded = block.embed(values, lengths).numpy()
    np.testing.assert_allclose(embedded, block.catalogue[rows], atol=1e-5)
    norms = np.linalg.norm(embedded, axis=1)
    np.testing.assert_allclose(norms, [1, 0 if names == ["sounds"] else 1, 1], atol=1e-4)
