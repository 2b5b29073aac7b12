"""The project's own small BERT pair, for where no pretrained one is given.

Nothing is downloaded and nothing takes minutes: the vocabulary (words, beginnings of words, single CJK characters) and the
token embeddings are learned from the catalogue's own texts. All ops are TensorFlow's own, so what holds the pair loads where
TF-Text is not. The embeddings are those of latent semantic analysis: positive
pointwise mutual information of tokens in one text, factorised, weighted by rarity. Two transformer layers start near the
identity, so the pooled output starts as a rarity-weighted mean of good token vectors and fine-tuning takes it from there.

References:
    Levy and Goldberg, Neural word embedding as implicit matrix factorization, NIPS 2014.
    Arora et al., A simple but tough-to-beat baseline for sentence embeddings, ICLR 2017.
    Xiong et al., On layer normalization in the transformer architecture, ICML 2020.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from tfrec.encoders.hub import save_module
from tfrec.encoders.packing import DEFAULT_LENGTH, SpecialTokens, pack

_RESERVED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPECIAL = SpecialTokens(pad=0, unknown=1, start=2, end=3)
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}"
_SINGLE = rf"[[:punct:]]|[\p{{P}}\p{{S}}]|[{_CJK}]"

_NUM_WORDS, _NUM_STEMS = 6000, 2000
_STEM_CHARACTERS = 4
_FOLDED_CODES = 0x10000  # the basic plane, in which all letters with accents lie
_WIDTH, _NUM_LAYERS, _NUM_HEADS = 128, 2, 4
_MAX_TOKENS = 512
_WINDOW_TOKENS = 8
_RARITY = 1e-3  # Arora et al.: weight a / (a + frequency)
_RESIDUAL_SCALE = 0.01  # of what the layers add at first, beside token embeddings of mean square 1

TokenLists = list[NDArray[np.int32]]


def build_small_bert(folder: Path, texts: Sequence[str], seed: int = 0) -> tuple[Path, Path]:
    """Learns and saves a pair of TF Hub modules.

    Args:
        folder: where to put `preprocess/` and `encoder/`.
        texts: the texts to learn from.
        seed: the same texts and seed give the same pair.

    Returns:
        The folders of the preprocessor and the encoder.
    """
    vocabulary = learn_vocabulary(texts)
    preprocessor = SmallPreprocessor(vocabulary)
    tf.saved_model.save(preprocessor, str(folder / "preprocess"))
    tokens = list(_token_lists(preprocessor, texts))
    encoder = SmallEncoder(token_embeddings(tokens, len(vocabulary), seed), seed)
    save_module(encoder, folder / "encoder")
    return folder / "preprocess", folder / "encoder"


def learn_vocabulary(texts: Sequence[str]) -> list[str]:
    """Special tokens, the most frequent words, and beginnings of words (`play*`) that stand for words not among them."""
    words: Counter[str] = Counter()
    for batch in _batches(texts):
        words.update(word.decode() for word in split_words(tf.constant(batch, tf.string)).flat_values.numpy())
    stems: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) > _STEM_CHARACTERS:
            stems[f"{word[:_STEM_CHARACTERS]}*"] += count
    return [*_RESERVED, *_most_common(words, _NUM_WORDS), *_most_common(stems, _NUM_STEMS)]


def _most_common(counts: Counter[str], size: int) -> list[str]:
    return sorted(counts, key=lambda token: (-counts[token], token))[:size]


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Lower-case words without accents, punctuation and CJK characters on their own: `[batch, (words)]`."""
    codes = tf.strings.unicode_decode(texts, "UTF-8", errors="ignore")
    folded = tf.gather(_folding(), tf.minimum(codes.flat_values, _FOLDED_CODES - 1))
    folded = codes.with_flat_values(tf.where(codes.flat_values < _FOLDED_CODES, folded, codes.flat_values))
    kept = tf.ragged.boolean_mask(folded, folded > 0)
    plain = tf.strings.lower(tf.strings.unicode_encode(kept, "UTF-8"), encoding="utf-8")
    spaced = tf.strings.regex_replace(tf.strings.regex_replace(plain, r"\p{C}", " "), f"({_SINGLE})", r" \1 ")
    return tf.strings.split(spaced)


@cache
def _folding() -> NDArray[np.int32]:
    """int32 `[_FOLDED_CODES]`: each character's base character (NFKD, where that is one), 0 for what only marks another."""
    table = np.arange(_FOLDED_CODES, dtype=np.int32)
    for code in range(0x80, _FOLDED_CODES):
        if 0xD800 <= code < 0xE000:  # surrogates are no characters
            continue
        plain = "".join(c for c in unicodedata.normalize("NFKD", chr(code)) if unicodedata.category(c) != "Mn")
        if len(plain) <= 1:
            table[code] = ord(plain) if plain else 0
    return table


def token_embeddings(tokens: TokenLists, vocabulary_size: int, seed: int) -> NDArray[np.float32]:
    """Latent semantic analysis of tokens.

    Args:
        tokens: token ids of each text.
        vocabulary_size: number of token ids.
        seed: of the factorisation.

    Returns:
        float32 `[vocabulary_size, width]`: unit vectors less the corpus mean, times rarity, scaled to mean square 1 so that an
        optimiser's steps are small beside them; 0 for what never occurs.
    """
    counts = np.bincount(np.concatenate([*tokens, np.zeros(0, np.int32)]), minlength=vocabulary_size)
    information = _positive_information(_co_occurrence(tokens, vocabulary_size))
    rank = min(_WIDTH, vocabulary_size - 1)
    left, values, _ = randomized_svd(information, rank, n_iter=3, random_state=seed)
    vectors = np.zeros((vocabulary_size, _WIDTH))
    vectors[:, :rank] = left * np.sqrt(values)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    weights = _RARITY / (_RARITY + counts / max(counts.sum(), 1))
    mean = (counts * weights) @ vectors / max((counts * weights).sum(), 1e-9)
    weighted = np.where(counts[:, None] > 0, (vectors - mean) * weights[:, None], 0)
    deviation = np.sqrt(np.mean(weighted[counts > 0] ** 2)) if counts.any() else 1.0
    return (weighted / max(deviation, 1e-9)).astype(np.float32)


class SmallPreprocessor(tf.Module):
    """Strings to BERT inputs, with the methods of TF Hub's preprocessing modules.

    Args:
        vocabulary: the tokens, in the order of their ids.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__(name="preprocess")
        # In the graph, not in a file: a file's path would end up in the module and change its checksum.
        ids = tf.lookup.KeyValueTensorInitializer(list(vocabulary), np.arange(len(vocabulary), dtype=np.int32))
        self._ids = tf.lookup.StaticHashTable(ids, default_value=-1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of the encoder, cut or padded to 128 tokens."""
        return self.bert_pack_inputs([self.tokenize(texts)], tf.constant(DEFAULT_LENGTH))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """int32 `[batch, (words)]`."""
        words = split_words(texts)
        word = self._ids.lookup(words.flat_values)
        stems = tf.strings.substr(words.flat_values, 0, _STEM_CHARACTERS, unit="UTF8_CHAR") + "*"
        stem = self._ids.lookup(stems)
        return words.with_flat_values(tf.where(word >= 0, word, tf.where(stem >= 0, stem, _SPECIAL.unknown)))

    @tf.function(
        input_signature=[
            [tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)],
            tf.TensorSpec([], tf.int32),
        ]
    )
    def bert_pack_inputs(self, inputs: list[tf.RaggedTensor], seq_length: tf.Tensor) -> dict[str, tf.Tensor]:
        """[CLS] text [SEP], cut or padded to `seq_length`."""
        return pack(inputs[0], seq_length, _SPECIAL)


class SmallEncoder(tf.Module):
    """A pre-norm transformer over token embeddings, with the outputs of TF Hub's BERT encoders.

    Args:
        embeddings: float32 `[vocabulary_size, width]`.
        seed: of the transformer's weights.
    """

    def __init__(self, embeddings: NDArray[np.float32], seed: int) -> None:
        super().__init__(name="encoder")
        random = np.random.default_rng(seed)
        self._tokens = tf.Variable(embeddings, name="token_embeddings")
        self._positions = _normal(random, (_MAX_TOKENS, _WIDTH), _RESIDUAL_SCALE, "position_embeddings")
        self._types = tf.Variable(tf.zeros([2, _WIDTH]), name="type_embeddings")
        self._layers = [_TransformerLayer(random, f"layer_{number}") for number in range(_NUM_LAYERS)]

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """From the embeddings up: who trains the top layers alone goes by this order."""
        layers = (variable for layer in self._layers for variable in layer.trainable_variables)
        return (self._tokens, self._positions, self._types, *layers)

    @tf.function(
        input_signature=[
            {
                name: tf.TensorSpec([None, None], tf.int32, name)
                for name in ("input_word_ids", "input_mask", "input_type_ids")
            }
        ]
    )
    def __call__(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`sequence_output` `[batch, tokens, width]`, `pooled_output` = `default` `[batch, width]` of length 1."""
        ids, mask = inputs["input_word_ids"], inputs["input_mask"]
        states = tf.gather(self._tokens, ids) + tf.gather(self._types, inputs["input_type_ids"])
        states += self._positions[: tf.shape(ids)[1]]
        outputs = []
        for layer in self._layers:
            states = layer(states, mask)
            outputs.append(states)
        weights = tf.cast(mask, tf.float32)[..., tf.newaxis]
        mean = tf.reduce_sum(states * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)
        pooled = tf.math.l2_normalize(mean, axis=-1)
        return {"sequence_output": states, "encoder_outputs": outputs, "pooled_output": pooled, "default": pooled}


class _TransformerLayer(tf.Module):
    """Self-attention and a feed-forward network, both added to what comes in.

    Args:
        random: source of the weights.
        name: of the layer, with which the names of its variables begin.
    """

    def __init__(self, random: np.random.Generator, name: str) -> None:
        super().__init__(name=name)
        spread = _WIDTH**-0.5
        self._scales = tf.Variable(tf.ones([2, _WIDTH]), name=f"{name}/norm_scales")
        self._offsets = tf.Variable(tf.zeros([2, _WIDTH]), name=f"{name}/norm_offsets")
        self._query_key_value = _normal(random, (_WIDTH, 3 * _WIDTH), spread, f"{name}/query_key_value")
        self._attended = _normal(random, (_WIDTH, _WIDTH), spread * _RESIDUAL_SCALE, f"{name}/attended")
        self._rise = _normal(random, (_WIDTH, 4 * _WIDTH), spread, f"{name}/rise")
        self._rise_bias = tf.Variable(tf.zeros([4 * _WIDTH]), name=f"{name}/rise_bias")
        self._fall = _normal(random, (4 * _WIDTH, _WIDTH), spread * _RESIDUAL_SCALE, f"{name}/fall")

    def __call__(self, states: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        states += self._attend(self._normalized(states, 0), mask)
        inner = tf.nn.gelu(tf.tensordot(self._normalized(states, 1), self._rise, 1) + self._rise_bias)
        return states + tf.tensordot(inner, self._fall, 1)

    def _normalized(self, states: tf.Tensor, index: int) -> tf.Tensor:
        mean, variance = tf.nn.moments(states, axes=[-1], keepdims=True)
        return (states - mean) * tf.math.rsqrt(variance + 1e-12) * self._scales[index] + self._offsets[index]

    def _attend(self, states: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(states)
        mixed = tf.reshape(
            tf.tensordot(states, self._query_key_value, 1),
            [shape[0], shape[1], 3, _NUM_HEADS, _WIDTH // _NUM_HEADS],
        )
        query, key, value = tf.unstack(mixed, axis=2)
        scores = tf.einsum("bqhd,bkhd->bhqk", query, key) * (_WIDTH // _NUM_HEADS) ** -0.5
        scores += (1.0 - tf.cast(mask, tf.float32))[:, tf.newaxis, tf.newaxis, :] * -1e9
        attended = tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores), value)
        return tf.tensordot(tf.reshape(attended, shape), self._attended, 1)


def _normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float, name: str) -> tf.Variable:
    return tf.Variable(random.normal(0, deviation, shape).astype(np.float32), name=name)


def _batches(texts: Sequence[str], size: int = 512) -> Iterable[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _token_lists(preprocessor: SmallPreprocessor, texts: Sequence[str]) -> Iterable[NDArray[np.int32]]:
    for batch in _batches(texts):
        tokens = preprocessor.tokenize(tf.constant(batch, tf.string))
        yield from np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])


def _co_occurrence(tokens: TokenLists, vocabulary_size: int) -> sparse.csr_matrix:
    """`[vocabulary_size, vocabulary_size]`: pairs at most a window apart in one text, nearer ones weighing more."""
    ids = np.concatenate([*tokens, np.zeros(0, np.int32)])
    text = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    total = sparse.csr_matrix((vocabulary_size, vocabulary_size))
    for distance in range(1, _WINDOW_TOKENS + 1):
        together = text[distance:] == text[:-distance]
        pair = (ids[distance:][together], ids[:-distance][together])
        weight = np.full(len(pair[0]), 1 / np.sqrt(distance))
        total += sparse.csr_matrix((weight, pair), shape=total.shape)
    return total + total.T


def _positive_information(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Positive pointwise mutual information; contexts smoothed by the power 3/4."""
    row = np.asarray(counts.sum(axis=1)).ravel()
    context = row**0.75
    pairs = counts.tocoo()
    expected = row[pairs.row] * context[pairs.col] / max(context.sum(), 1e-9)
    values = np.maximum(np.log(pairs.data / np.maximum(expected, 1e-9)), 0)
    return sparse.csr_matrix((values, (pairs.row, pairs.col)), shape=counts.shape)
