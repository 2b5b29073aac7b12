"""Generation metadata as strings and numbers of a request: `tfrec/features/generation.py` in the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrec.export.request import row_table
from tfrec.features.generation import GenerationEncoder


class GenerationInput(tf.Module):
    """What `GenerationEncoder.encode` gives, from tensors.

    Args:
        encoder: fitted to the catalogue.
        embed_text: strings `[B]` to float32 `[B, encoder.prompt_dim]`; None for a catalogue without prompts.
    """

    def __init__(self, encoder: GenerationEncoder, embed_text: Callable[[tf.Tensor], tf.Tensor] | None) -> None:
        super().__init__(name="generation_input")
        self._encoder = encoder
        self._embed_text = embed_text
        self._methods = row_table(np.array(encoder.methods, object))

    def __call__(
        self, generate_method: tf.Tensor, gen_params: tf.Tensor, prompt: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One vector per video.

        Args:
            generate_method: string `[B]`, "" or an unknown one is missing.
            gen_params: float32 `[B, G]`, `G` as in the catalogue; missing in rows with a number that is not finite, and where
                `G` is 0.
            prompt: string `[B]`, "" is missing; None where none has one.

        Returns:
            float32 `[B, dim]`, and int32 `[B]`: 0 for a video of which nothing is known.
        """
        code = self._methods.lookup(tf.strings.strip(generate_method)) + 1
        params, has_params = self._params(gen_params)
        parts = [
            tf.one_hot(code, len(self._encoder.methods) + 1),
            params,
            tf.cast(has_params, tf.float32)[:, tf.newaxis],
        ]
        known = (code > 0) | has_params
        if self._embed_text is None or prompt is None:
            parts.append(tf.zeros([tf.size(code), self._encoder.prompt_dim]))
        else:
            has_prompt = prompt != ""
            parts.append(tf.where(has_prompt[:, tf.newaxis], self._embed_text(prompt), 0.0))
            known |= has_prompt
        return tf.where(known[:, tf.newaxis], tf.concat(parts, axis=1), 0.0), tf.cast(known, tf.int32)

    def _params(self, gen_params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Standardised float32 `[B, num_params]`, 0 where missing, and bool `[B]`, whether they are present."""
        width, given = len(self._encoder.mean), tf.shape(gen_params)[1]
        fits = (given == width) | (given == 0) if width else tf.constant(True)
        expected = f"`gen_params` must have {width} numbers per video, or none. Received:"
        with tf.control_dependencies([tf.debugging.Assert(fits, [expected, given])]):
            params = tf.identity(gen_params)[:, :width]
        params = tf.pad(params, [[0, 0], [0, width - tf.shape(params)[1]]], constant_values=np.nan)
        present = tf.reduce_all(tf.math.is_finite(params), axis=1) & (width > 0)
        standardised = (params - self._encoder.mean) / self._encoder.deviation
        return tf.where(present[:, tf.newaxis], standardised, 0.0), present
