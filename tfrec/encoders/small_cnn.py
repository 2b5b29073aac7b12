"""The project's own small image feature vector, for where no pretrained CNN is given.

Its filters are learned without labels from the catalogue's own frames, in seconds: whitened patches are clustered, the
centres are convolution kernels, one layer after the other. Means and deviations of both layers over the picture, and a
soft histogram of colours, are projected onto their principal components.

References:
    Coates and Ng, Learning feature representations with k-means, Neural Networks: Tricks of the Trade, 2012.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from tfrec.encoders.hub import save_module

_NUM_KERNELS = (32, 64)
_PATCH_PIXELS = (6, 3)
_STRIDE, _POOL = 2, 4
_NUM_COLOURS = 32
_COLOUR_SHARPNESS = 60.0
_THRESHOLD = 0.25
_CONTRAST_FLOOR = 1e-3  # variance of a patch, pixels in 0 .. 1, below which it counts as flat
_WHITENING_FLOOR = 0.1  # of the mean eigenvalue
_DIM = 128
_MAX_FRAMES = 320
_NUM_PATCHES = 12_000

FloatArray = NDArray[np.float32]


def build_small_cnn(folder: Path, frames: NDArray[np.uint8], seed: int = 0) -> Path:
    """Learns and saves a TF Hub image feature vector.

    Args:
        folder: where to save it.
        frames: uint8 `[num_frames, height, width, 3]` to learn from; some hundreds are enough.
        seed: the same frames and seed give the same module.

    Returns:
        The folder.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(frames))[:_MAX_FRAMES])
    images = frames[chosen].astype(np.float32) / 255
    module = SmallCnn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a handful of frames may have fewer patches than kernels
        module.colours.assign(_colour_centres(images, random, seed))
        module.first.learn(_patches(images, _PATCH_PIXELS[0], random), seed)
        module.second.learn(_patches(_map(module.middle, images), _PATCH_PIXELS[1], random), seed)
    module.project_on(_map(module.statistics, images), random)
    save_module(module, folder)
    return folder


class SmallCnn(tf.Module):
    """Two convolutions with learned patch kernels and global statistics."""

    def __init__(self) -> None:
        super().__init__(name="small_cnn")
        self.first = _PatchLayer("layer_1", _PATCH_PIXELS[0], 3, _NUM_KERNELS[0], _STRIDE)
        self.second = _PatchLayer("layer_2", _PATCH_PIXELS[1], 2 * _NUM_KERNELS[0], _NUM_KERNELS[1], 1)
        self.colours = tf.Variable(tf.zeros([_NUM_COLOURS, 3]), name="colours")
        width = 4 * sum(_NUM_KERNELS) + _NUM_COLOURS
        self.centre = tf.Variable(tf.zeros([width]), name="centre")
        self.components = tf.Variable(tf.zeros([width, _DIM]), name="components")

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """From the picture to the projection: who trains the top layers alone goes by this order."""
        layers = (*self.first.trainable_variables, *self.second.trainable_variables)
        return (self.colours, *layers, self.centre, self.components)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """float32 `[batch, dim]` of images `[batch, height, width, 3]` in 0 .. 1."""
        return tf.matmul(self.statistics(images) - self.centre, self.components)

    def statistics(self, images: tf.Tensor) -> tf.Tensor:
        """What the projection is made of: per channel mean and deviation, and the share of each colour."""
        first = self.first(images)
        second = self.second(_pooled(first))
        parts = [*_mean_and_deviation(first), *_mean_and_deviation(second), self._colour_shares(images)]
        return tf.sqrt(tf.maximum(tf.concat(parts, axis=-1), 1e-8))

    def middle(self, images: tf.Tensor) -> tf.Tensor:
        """What the second layer sees."""
        return _pooled(self.first(images))

    def project_on(self, statistics: FloatArray, random: np.random.Generator) -> None:
        """Sets the projection to the principal components of `[num_images, width]`, each statistic scaled to deviation 1."""
        self.centre.assign(statistics.mean(axis=0))
        scale = 1 / (statistics.std(axis=0) + 1e-3)
        _, vectors = np.linalg.eigh(np.cov(statistics.T * scale[:, None]))
        components = vectors[:, ::-1][:, :_DIM] * scale[:, None]
        # Turned at random, every dimension carries a like share: standardising them later does not blow up the weak ones.
        self.components.assign((components @ _rotation(_DIM, random)).astype(np.float32))

    def _colour_shares(self, images: tf.Tensor) -> tf.Tensor:
        pixels = tf.nn.avg_pool2d(images, _POOL, _POOL, "SAME")
        distance = (
            tf.reduce_sum(tf.square(pixels), -1, keepdims=True)
            - 2 * tf.tensordot(pixels, self.colours, [[3], [1]])
            + tf.reduce_sum(tf.square(self.colours), -1)
        )
        return tf.reduce_mean(tf.nn.softmax(-_COLOUR_SHARPNESS * distance), axis=[1, 2])


class _PatchLayer(tf.Module):
    """Contrast-normalised patches against learned kernels; two channels per kernel, one for each sign.

    Args:
        name: of the layer, with which the names of its variables begin.
        size: height and width of a patch.
        channels: channels that come in.
        kernels: number of kernels.
        stride: step between patches.
    """

    def __init__(self, name: str, size: int, channels: int, kernels: int, stride: int) -> None:
        super().__init__(name=name)
        self._size, self._stride = size, stride
        self.kernels = tf.Variable(tf.zeros([size, size, channels, kernels]), name=f"{name}/kernels")
        self.bias = tf.Variable(tf.zeros([kernels]), name=f"{name}/bias")

    def __call__(self, maps: tf.Tensor) -> tf.Tensor:
        mean, deviation = self._contrast(maps)
        response = tf.nn.conv2d(maps, self.kernels, self._stride, "SAME")
        response = (response - mean * tf.reduce_sum(self.kernels, axis=[0, 1, 2])) / deviation + self.bias
        return tf.nn.relu(tf.concat([response, -response], axis=-1) - _THRESHOLD)

    def learn(self, patches: FloatArray, seed: int) -> None:
        """Sets the kernels from `[num_patches, size, size, channels]`."""
        flat = patches.reshape(len(patches), -1)
        variance = flat.var(axis=1, keepdims=True)
        flat = (flat - flat.mean(axis=1, keepdims=True)) / np.sqrt(variance + _CONTRAST_FLOOR)
        centre = flat.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(flat.T))
        whitening = vectors / np.sqrt(np.maximum(values, 0) + _WHITENING_FLOOR * values.mean()) @ vectors.T
        white = _unit((flat - centre) @ whitening)
        clusters = KMeans(self.bias.shape[0], n_init=1, max_iter=10, random_state=seed).fit(white)
        kernels = whitening @ _unit(clusters.cluster_centers_).T
        kernels /= ((flat - centre) @ kernels).std(axis=0)
        self.kernels.assign(kernels.reshape(self.kernels.shape))
        self.bias.assign(-centre @ kernels)

    def _contrast(self, maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and deviation of the patch around each place, over all channels."""

        def around(values: tf.Tensor) -> tf.Tensor:
            across = tf.reduce_mean(values, axis=-1, keepdims=True)
            ones = tf.ones([self._size, self._size, 1, 1]) / self._size**2
            return tf.nn.conv2d(across, ones, self._stride, "SAME")

        mean = around(maps)
        variance = tf.maximum(around(tf.square(maps)) - tf.square(mean), 0.0)
        return mean, tf.sqrt(variance + _CONTRAST_FLOOR)


def _pooled(maps: tf.Tensor) -> tf.Tensor:
    return tf.nn.avg_pool2d(maps, _POOL, _POOL, "SAME")


def _mean_and_deviation(maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean, variance = tf.nn.moments(maps, axes=[1, 2])
    return mean, tf.sqrt(variance + 1e-8)


def _patches(maps: FloatArray, size: int, random: np.random.Generator) -> FloatArray:
    """Patches from random places."""
    image = random.integers(len(maps), size=_NUM_PATCHES)
    row = random.integers(maps.shape[1] - size + 1, size=_NUM_PATCHES)
    column = random.integers(maps.shape[2] - size + 1, size=_NUM_PATCHES)
    windows = np.lib.stride_tricks.sliding_window_view(maps, (size, size), axis=(1, 2))  # type: ignore[call-overload]  # its stub knows one axis
    return windows[image, row, column].transpose(0, 2, 3, 1)


def _colour_centres(images: FloatArray, random: np.random.Generator, seed: int) -> FloatArray:
    pixels = images.reshape(-1, 3)[random.integers(images.size // 3, size=_NUM_PATCHES)]
    return KMeans(_NUM_COLOURS, n_init=1, max_iter=10, random_state=seed).fit(pixels).cluster_centers_


def _map(function: tf.types.experimental.Callable, images: FloatArray, size: int = 64) -> FloatArray:
    compiled = tf.function(function)
    return np.concatenate([compiled(images[start : start + size]).numpy() for start in range(0, len(images), size)])


def _rotation(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(random.normal(size=(size, size)))[0]


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
