"""Texts to vectors through a TF Hub BERT pair.

The *preprocessor* turns strings into a dict of int32 `input_word_ids`, `input_mask`, `input_type_ids`, all
`[batch, tokens]`; the *encoder* turns that dict into a dict with `pooled_output` (or `default`) `[batch, dim]` and
`sequence_output` `[batch, tokens, dim]`. Both are the convention of the BERT modules of TF Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import TextConfig
from tfrec.encoders.hub import call_module, check_output, load_module, module_version

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
_POOLED = ("pooled_output", "default")


class TextEncoder(tf.Module):
    """Strings to vectors, in the graph and in bulk.

    Args:
        preprocessor: handle of the preprocessing module.
        encoder: handle of the encoder module.
        config: batch size, token limit and pooling.

    Raises:
        TfrecError: If a module cannot be loaded, or does not follow the convention.
    """

    def __init__(self, preprocessor: str, encoder: str, config: TextConfig) -> None:
        super().__init__(name="text_encoder")
        self.handles = (preprocessor, encoder)
        self._config = config
        self.preprocessor = load_module(preprocessor)
        self.encoder = load_module(encoder)
        self._encode = tf.function(self.__call__, input_signature=[tf.TensorSpec([None], tf.string)])
        self.dim = self._checked_dim()

    @property
    def version(self) -> str:
        """Changes whenever the same text may get another vector."""
        modules = "-".join(module_version(handle)[:12] for handle in self.handles)
        return f"bert-{modules}-{self._config.max_tokens}-{self._config.pooling}"

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Float32 `[batch, dim]` of strings `[batch]`."""
        return self.encode_packed(self.pack(texts))

    def encode_packed(self, packed: dict[str, tf.Tensor]) -> tf.Tensor:
        """Float32 `[batch, dim]` of what `pack` returns; gradients reach the encoder's variables."""
        outputs = self.encoder(packed)
        pooled = (
            next((outputs[name] for name in _POOLED if name in outputs), None) if isinstance(outputs, dict) else None
        )
        if self._config.pooling == "pooled" and pooled is not None:
            return pooled
        sequence = outputs["sequence_output"]
        weights = tf.cast(packed["input_mask"], sequence.dtype)[..., tf.newaxis]
        return tf.reduce_sum(sequence * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encodes many texts, batched by length so that little is padded.

        Args:
            texts: the texts.

        Returns:
            float32 `[num_texts, dim]`.
        """
        vectors = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), self._config.batch_size):
            rows = order[start : start + self._config.batch_size]
            vectors[rows] = self._encode(tf.constant([texts[row] for row in rows], tf.string)).numpy()
        return vectors

    def pack(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of the encoder, int32 `[batch, tokens]`.

        Tokens are padded to the batch's longest text where the preprocessor can, else to its own fixed length.
        """
        if not hasattr(self.preprocessor, "bert_pack_inputs"):
            return {name: values[:, : self._config.max_tokens] for name, values in self.preprocessor(texts).items()}
        tokens = self.preprocessor.tokenize(texts)
        pieces = tokens.merge_dims(1, -1) if tokens.shape.rank > 2 else tokens
        longest = tf.cast(tf.reduce_max(tf.concat([[0], pieces.row_lengths()], 0)), tf.int32)
        length = tf.minimum(longest + 2, self._config.max_tokens)  # [CLS] and [SEP]
        return self.preprocessor.bert_pack_inputs([tokens], seq_length=length)

    def _checked_dim(self) -> int:
        preprocessor, encoder = self.handles
        text = tf.constant(["a text"])
        packed = call_module(preprocessor, self.preprocessor, text, "strings, as a preprocessor must")
        convention = f"a dict of {', '.join(INPUTS)}"
        check_output(
            preprocessor, "output", packed, convention, isinstance(packed, dict) and set(INPUTS) <= set(packed)
        )
        outputs = call_module(encoder, self.encoder, packed, f"{convention}, as an encoder must")
        needed = {"sequence_output"} if self._config.pooling == "mean" else {*_POOLED, "sequence_output"}
        fits = isinstance(outputs, dict) and bool(set(outputs) & needed)
        check_output(encoder, "output", outputs, f"a dict with {' or '.join(sorted(needed))}", fits)
        if hasattr(self.preprocessor, "bert_pack_inputs"):
            longest = tf.zeros([1, self._config.max_tokens], tf.int32)
            described = f"texts of {self._config.max_tokens} tokens (`features.text.max_tokens`)"
            call_module(encoder, self.encoder, dict.fromkeys(INPUTS, longest), described)
        vectors = self._encode(text)
        check_output(encoder, "pooled output", vectors, "float32 [batch, dim]", _is_vectors(vectors))
        return int(vectors.shape[-1])


def _is_vectors(output: Any) -> bool:
    return output.dtype == tf.float32 and output.shape.rank == 2
