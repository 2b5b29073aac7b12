"""BERT's tokenizer as a TF Hub preprocessing module, by TensorFlow's own ops: any server loads it.

A *word* is what lies between spaces after cleaning: control characters are gone, punctuation and CJK characters stand alone,
and where the model wants it, letters are lower-case without accents. A *piece* is an entry of the vocabulary; one that goes on
with a word begins with `##`. A word is cut greedily into the longest pieces; one that cannot be cut is unknown.

Assumption. `[CLS]`, `[SEP]` and the like written in a text are ordinary characters.

References:
    Wu et al., Google's neural machine translation system, arXiv 1609.08144; Devlin et al., BERT, NAACL 2019.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.encoders.packing import DEFAULT_LENGTH, SpecialTokens, pack
from tfrec.errors import TfrecError

CONTINUED = "##"
MAX_WORD_CHARACTERS = 100
_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CODES = 0x32000  # what lies above is unassigned, private, or only marks a character before it
_CONTROL = frozenset({"Cc", "Cf", "Co", "Cs"})  # not Cn: what is unassigned here may be a letter in a newer Unicode
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_PIECES = tf.RaggedTensorSpec([None, None, None], tf.int32, ragged_rank=2)


class WordPiecePreprocessor(tf.Module):
    """Strings to BERT inputs, with the methods of TF Hub's preprocessing modules.

    Args:
        vocabulary: the pieces, in the order of their ids.
        lower_case: whether letters become lower-case.
        strip_accents: whether accents go.
        length: tokens that a call cuts or pads to.

    Raises:
        TfrecError: If the vocabulary lacks a special token.
    """

    def __init__(
        self, vocabulary: Sequence[str], lower_case: bool, strip_accents: bool, length: int = DEFAULT_LENGTH
    ) -> None:
        super().__init__(name="preprocess")
        self._length = length
        self._special = special_tokens(vocabulary)
        self._longest = min(MAX_WORD_CHARACTERS, max(len(piece.removeprefix(CONTINUED)) for piece in vocabulary))
        # In the graph, not in a file: a file's path would end up in the module and change its checksum.
        ids = tf.lookup.KeyValueTensorInitializer(list(vocabulary), np.arange(len(vocabulary), dtype=np.int32))
        self._ids = tf.lookup.StaticHashTable(ids, default_value=-1)
        self._cleaned, self._ends = cleaning_table(lower_case, strip_accents)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of the encoder."""
        return self.bert_pack_inputs([self.tokenize(texts)], tf.constant(self._length))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """int32 `[batch, (words), (pieces)]`."""
        words = self._split_words(texts)
        unique, place = tf.unique(words.flat_values)
        return words.with_flat_values(tf.gather(self._cut(unique), place))

    @tf.function(input_signature=[[_PIECES], tf.TensorSpec([], tf.int32)], autograph=False)
    def bert_pack_inputs(self, inputs: list[tf.RaggedTensor], seq_length: tf.Tensor) -> dict[str, tf.Tensor]:
        """[CLS] text [SEP], cut or padded to `seq_length`."""
        return pack(inputs[0].merge_dims(1, 2), seq_length, self._special)

    def _split_words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """String `[batch, (words)]`."""
        codes = tf.strings.unicode_decode(texts, "UTF-8", errors="ignore")
        cleaned = tf.RaggedTensor.from_row_splits(self._cleaned, self._ends, validate=False)
        codes = codes.with_flat_values(tf.gather(cleaned, tf.minimum(codes.flat_values, _CODES)))
        return tf.strings.split(tf.strings.unicode_encode(codes.merge_dims(1, 2), "UTF-8"))

    def _cut(self, words: tf.Tensor) -> tf.RaggedTensor:
        """int32 `[words, (pieces)]`: one piece of every unfinished word per round."""
        length = tf.strings.length(words, unit="UTF8_CHAR")
        known = length <= MAX_WORD_CHARACTERS
        nothing = tf.zeros([0], tf.int32)
        state = (tf.where(known, 0, length), known, nothing, nothing)
        flat = tf.TensorShape([None])
        _, known, owners, pieces = tf.while_loop(
            lambda start, *_: tf.reduce_any(start < length),
            lambda *state: self._round(words, length, *state),
            state,
            (flat, flat, flat, flat),
        )
        unknown = tf.cast(tf.where(~known)[:, 0], tf.int32)
        kept = tf.gather(known, owners)
        owners = tf.concat([owners[kept], unknown], 0)
        pieces = tf.concat([pieces[kept], tf.fill(tf.shape(unknown), self._special.unknown)], 0)
        order = tf.argsort(owners, stable=True)
        return tf.RaggedTensor.from_value_rowids(
            tf.gather(pieces, order), tf.cast(tf.gather(owners, order), tf.int64), nrows=tf.size(words, tf.int64)
        )

    def _round(
        self, words: tf.Tensor, length: tf.Tensor, start: tf.Tensor, known: tf.Tensor, owners: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Finds the longest piece at `start` of each word that has characters left; one without any is unknown and done."""
        active = tf.cast(tf.where(start < length)[:, 0], tf.int32)
        begin = tf.gather(start, active)
        spans = tf.range(1, self._longest + 1)
        shape = [tf.size(active), self._longest]
        pieces = tf.strings.substr(
            tf.broadcast_to(tf.gather(words, active)[:, None], shape),
            tf.broadcast_to(begin[:, None], shape),
            tf.broadcast_to(spans, shape),
            unit="UTF8_CHAR",
        )
        found = self._ids.lookup(tf.where(begin > 0, CONTINUED, "")[:, None] + pieces)
        span = tf.reduce_max(tf.where(found >= 0, spans, 0), axis=1)
        piece = tf.gather(found, tf.maximum(span - 1, 0), batch_dims=1)
        end = tf.gather(length, active)
        begin = tf.where(span > 0, tf.minimum(begin + span, end), end)
        return (
            tf.tensor_scatter_nd_update(start, active[:, None], begin),
            tf.tensor_scatter_nd_update(known, active[:, None], tf.gather(known, active) & (span > 0)),
            tf.concat([owners, active], 0),
            tf.concat([ids, piece], 0),
        )


def special_tokens(vocabulary: Sequence[str]) -> SpecialTokens:
    """Ids of the special tokens.

    Raises:
        TfrecError: If one is not in the vocabulary.
    """
    if lacking := [name for name in _NAMES if name not in vocabulary]:
        raise TfrecError(
            f"The vocabulary lacks {', '.join(lacking)}. Expected that of a BERT model, one token per line."
        )
    return SpecialTokens(*map(vocabulary.index, _NAMES))


@cache
def cleaning_table(lower_case: bool, strip_accents: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """What each character becomes.

    Args:
        lower_case: whether letters become lower-case.
        strip_accents: whether accents go.

    Returns:
        Characters one after the other, and where those of each character begin and end, `[_CODES + 2]`; the last one, which
        stands for all beyond, becomes nothing.
    """
    cleaned = [*(_clean(chr(code), lower_case, strip_accents) for code in range(_CODES)), ""]
    ends = np.cumsum([0, *map(len, cleaned)])
    return np.array([ord(character) for character in "".join(cleaned)], np.int32), ends


def _clean(character: str, lower_case: bool, strip_accents: bool) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category.startswith("Z"):
        return " "
    if character == "\ufffd" or category in _CONTROL:
        return ""
    alone = any(first <= ord(character) <= last for first, last in _CJK)
    if strip_accents:
        character = "".join(c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c) != "Mn")
    if lower_case:
        character = "".join(c.lower() for c in character)
    return "".join(f" {c} " if alone or _is_punctuation(c) else c for c in character)


def _is_punctuation(character: str) -> bool:
    # All that is neither letter nor digit in ASCII counts, such as "$", which Unicode calls a symbol.
    visible_ascii = "!" <= character <= "~" and not character.isalnum()
    return visible_ascii or unicodedata.category(character).startswith("P")
