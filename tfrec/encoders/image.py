"""Frames to vectors through a TF Hub image feature vector."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import ImageConfig
from tfrec.encoders.hub import call_module, check_output, load_module, module_version


class ImageEncoder(tf.Module):
    """Frames to vectors, in the graph and in bulk.

    Args:
        handle: of the module: float32 `[batch, height, width, 3]` in 0 .. 1 to `[batch, dim]`.
        config: image and batch size.

    Raises:
        TfrecError: If the module cannot be loaded, does not take `config.image_size`, or returns something else.
    """

    def __init__(self, handle: str, config: ImageConfig) -> None:
        super().__init__(name="image_encoder")
        self.handle, self._config = handle, config
        self.module = load_module(handle)
        size = config.image_size
        self._encode = tf.function(self.__call__, input_signature=[tf.TensorSpec([None, size, size, 3], tf.uint8)])
        self.dim = self._checked_dim()

    @property
    def version(self) -> str:
        """Changes whenever the same frame may get another vector."""
        return f"cnn-{module_version(self.handle)[:12]}-{self._config.image_size}"

    def __call__(self, frames: tf.Tensor) -> tf.Tensor:
        """Float32 `[batch, dim]` of uint8 frames `[batch, image_size, image_size, 3]`."""
        return self.module(tf.cast(frames, tf.float32) / 255.0)

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encodes many frames in batches.

        Args:
            frames: uint8 `[num_frames, image_size, image_size, 3]`.

        Returns:
            float32 `[num_frames, dim]`.
        """
        size = self._config.batch_size
        batches = [self._encode(frames[start : start + size]).numpy() for start in range(0, len(frames), size)]
        return np.concatenate(batches) if batches else np.zeros((0, self.dim), np.float32)

    def _checked_dim(self) -> int:
        size = self._config.image_size
        described = f"frames of {size} x {size} pixels (`features.image.image_size`)"
        output = call_module(self.handle, self.module, tf.zeros([1, size, size, 3]), described)
        fits = hasattr(output, "shape") and output.shape.rank == 2 and output.dtype == tf.float32
        check_output(self.handle, "output", output, "a feature vector, float32 [batch, dim]", fits)
        return int(output.shape[-1])
