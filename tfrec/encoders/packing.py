"""From word pieces to the inputs of a BERT encoder, by TensorFlow's own ops."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

DEFAULT_LENGTH = 128
"""Tokens that a preprocessing module of TF Hub cuts or pads to unless told otherwise."""


class SpecialTokens(NamedTuple):
    """Ids of the tokens that stand for no text.

    Args:
        pad: fills up.
        unknown: stands for a word that the vocabulary cannot spell.
        start: opens a text, `[CLS]`.
        end: closes it, `[SEP]`.
    """

    pad: int
    unknown: int
    start: int
    end: int


def pack(tokens: tf.RaggedTensor, length: tf.Tensor, special: SpecialTokens) -> dict[str, tf.Tensor]:
    """[CLS] text [SEP], cut or padded.

    Args:
        tokens: int32 `[batch, (tokens)]` ragged.
        length: tokens of the result, a scalar of at least 2.
        special: ids of the special tokens.

    Returns:
        int32 `[batch, length]`: `input_word_ids`, `input_mask`, `input_type_ids`.
    """
    pieces = tokens[:, : length - 2]
    ends = tf.ones([pieces.nrows(), 1], tf.int32)
    ids = tf.concat([special.start * ends, pieces, special.end * ends], axis=1)
    longest = ids.to_tensor(special.pad)
    padded = tf.pad(longest, [[0, 0], [0, length - tf.shape(longest)[1]]], constant_values=special.pad)
    mask = tf.sequence_mask(ids.row_lengths(), tf.shape(padded)[1], tf.int32)
    return {"input_word_ids": padded, "input_mask": mask, "input_type_ids": tf.zeros_like(padded)}
