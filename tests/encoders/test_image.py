"""Image encoders: the project's small CNN, and pretrained ones."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub

from tfrec.config import ImageConfig
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.small_cnn import build_small_cnn
from tfrec.errors import TfrecError

NUM_KINDS = 4


def drawn(random: np.random.Generator, kind: int) -> np.ndarray:
    """A noisy 48 x 48 picture: red or blue, with horizontal or vertical stripes of random phase."""
    rows, columns = np.indices((48, 48))
    along = rows if kind % 2 else columns
    stripes = (along + random.integers(8)) // 4 % 2
    picture = random.integers(0, 40, (48, 48, 3))
    picture[..., 2 * (kind // 2)] += (150 * stripes + 40).astype(picture.dtype)
    return picture.astype(np.uint8)


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    kinds = np.arange(160) % NUM_KINDS
    return np.stack([drawn(random, kind) for kind in kinds]), kinds


@pytest.fixture(scope="module")
def small(tmp_path_factory, pictures):
    return str(build_small_cnn(tmp_path_factory.mktemp("cnn") / "module", pictures[0]))


def test_like_pictures_lie_together(small, pictures):
    images, kinds = pictures
    vectors = ImageEncoder(small, ImageConfig(small, image_size=48)).encode(images)
    assert vectors.shape == (160, 128)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T - 2 * np.eye(160)
    assert np.mean(kinds[near.argmax(axis=1)] == kinds) > 0.95


def test_batches_change_nothing(small, pictures):
    images = pictures[0][:10]
    whole = ImageEncoder(small, ImageConfig(small, image_size=48, batch_size=32)).encode(images)
    parts = ImageEncoder(small, ImageConfig(small, image_size=48, batch_size=3)).encode(images)
    np.testing.assert_allclose(whole, parts, rtol=1e-3, atol=1e-3)


def test_same_frames_same_module(small, pictures, tmp_path):
    again = str(build_small_cnn(tmp_path / "again", pictures[0]))
    config = ImageConfig(small, image_size=48)
    first, second = ImageEncoder(small, config), ImageEncoder(again, config)
    np.testing.assert_array_equal(first.encode(pictures[0][:5]), second.encode(pictures[0][:5]))


def test_few_frames_are_enough(tmp_path, pictures):
    folder = str(build_small_cnn(tmp_path / "module", pictures[0][:2]))
    assert np.isfinite(ImageEncoder(folder, ImageConfig(folder, image_size=48)).encode(pictures[0][:5])).all()


def test_can_be_fine_tuned(small, pictures):
    images, kinds = pictures
    layer = hub.KerasLayer(small, trainable=True)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input([48, 48, 3]),
            layer,
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.Dense(NUM_KINDS, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    before = [weight.numpy() for weight in layer.trainable_weights]
    losses = model.fit(images / np.float32(255), kinds, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.any(old != new.numpy()) for old, new in zip(before, layer.trainable_weights, strict=True))


def test_a_module_of_a_fixed_size_says_so(tmp_path):
    model = tf.Module()
    model.weight = tf.Variable(1.0)
    model.__call__ = tf.function(
        lambda images: tf.reduce_mean(images, [1, 2]) * model.weight,
        input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)],
    )
    tf.saved_model.save(model, str(tmp_path / "fixed"))
    handle = str(tmp_path / "fixed")
    assert ImageEncoder(handle, ImageConfig(handle, image_size=32)).dim == 3
    with pytest.raises(TfrecError, match="does not take frames of 48 x 48"):
        ImageEncoder(handle, ImageConfig(handle, image_size=48))


def test_an_output_of_another_kind_is_refused(tmp_path):
    model = tf.Module()
    model.weight = tf.Variable(1.0)
    model.__call__ = tf.function(
        lambda images: images * model.weight, input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)]
    )
    tf.saved_model.save(model, str(tmp_path / "map"))
    with pytest.raises(TfrecError, match=r"map returns float32 \[1, 48, 48, 3\] as output; the tower needs a feature"):
        ImageEncoder(str(tmp_path / "map"), ImageConfig(str(tmp_path / "map"), image_size=48))


@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [("squeezenet_v11_feature_vector", 512, 96), ("mobilenet_v2_100_224_feature_vector", 1280, 224)],
)
def test_pretrained_modules(shared, pictures, name, dim, size):
    handle = str(shared / "hub" / name)
    encoder = ImageEncoder(handle, ImageConfig(handle, image_size=size))
    frames = np.repeat(np.repeat(pictures[0][:2], 5, 1), 5, 2)[:, :size, :size]
    vectors = encoder.encode(frames)
    assert vectors.shape == (2, dim)
    expected = hub.load(handle)(tf.constant(frames / np.float32(255)))
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)
