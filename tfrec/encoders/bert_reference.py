"""BERT once more, in Python and NumPy, one text at a time: what a converted pair is held against.

It shares no code with the modules: the tokenizer works on strings instead of tables, the network on plain arrays.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from tfrec.encoders.hugging_face import BertCheckpoint

Array = NDArray[np.float32]
_INVISIBLE = {"Cc", "Cf", "Cs", "Co"}
_SPACES = {"Zs", "Zl", "Zp"}
_IDEOGRAPHS = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH")


def reference_ids(checkpoint: BertCheckpoint, text: str, length: int) -> list[int]:
    """Ids of `[CLS]`, the text's pieces and `[SEP]`, at most `length`."""
    ids = {token: number for number, token in enumerate(checkpoint.vocabulary)}
    pieces = [piece for word in _words(checkpoint, text) for piece in _pieces(word, ids)]
    return [ids[token] for token in ("[CLS]", *pieces[: length - 2], "[SEP]")]


def reference_outputs(checkpoint: BertCheckpoint, ids: list[int]) -> tuple[Array, Array]:
    """Vectors of a text.

    Args:
        checkpoint: the model.
        ids: of its tokens.

    Returns:
        float32 `[tokens, width]` of the tokens and `[width]` of the text.
    """
    weights, config = checkpoint.weights, checkpoint.config
    words = weights["embeddings.word_embeddings.weight"][ids]
    states = words + weights["embeddings.position_embeddings.weight"][: len(ids)]
    states = _norm(checkpoint, "embeddings.LayerNorm", states + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layer.{layer}"
        attended = _linear(checkpoint, f"{name}.attention.output.dense", _attention(checkpoint, name, states))
        states = _norm(checkpoint, f"{name}.attention.output.LayerNorm", states + attended)
        inner = _activation(config.hidden_act, _linear(checkpoint, f"{name}.intermediate.dense", states))
        states = _norm(
            checkpoint, f"{name}.output.LayerNorm", states + _linear(checkpoint, f"{name}.output.dense", inner)
        )
    return states, _pool(checkpoint, states)


def _words(checkpoint: BertCheckpoint, text: str) -> list[str]:
    visible = [c for c in text if c in "\t\n\r" or (c != "\ufffd" and unicodedata.category(c) not in _INVISIBLE)]
    spaced = "".join(f" {c} " if unicodedata.name(c, "").startswith(_IDEOGRAPHS) else c for c in visible)
    spaced = "".join(" " if unicodedata.category(c) in _SPACES else c for c in spaced)
    if checkpoint.strip_accents:
        spaced = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    if checkpoint.lower_case:
        spaced = "".join(c.lower() for c in spaced)  # one by one: a final sigma stays a sigma
    return [part for word in spaced.split() for part in _split_punctuation(word)]


def _split_punctuation(word: str) -> list[str]:
    marked = "".join(f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in word)
    return marked.split(" ")


def _pieces(word: str, ids: dict[str, int]) -> list[str]:
    if len(word) > 100:
        return ["[UNK]"]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in ids), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def _attention(checkpoint: BertCheckpoint, name: str, states: Array) -> Array:
    heads = checkpoint.config.num_attention_heads
    query, key, value = (
        np.stack(np.split(_linear(checkpoint, f"{name}.attention.self.{part}", states), heads, axis=1))
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.concatenate(list(weights / weights.sum(axis=-1, keepdims=True) @ value), axis=1)


def _linear(checkpoint: BertCheckpoint, name: str, values: Array) -> Array:
    return values @ checkpoint.weights[f"{name}.weight"].T + checkpoint.weights[f"{name}.bias"]


def _norm(checkpoint: BertCheckpoint, name: str, values: Array) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + checkpoint.config.layer_norm_eps)
    return centred / deviation * checkpoint.weights[f"{name}.weight"] + checkpoint.weights[f"{name}.bias"]


def _activation(name: str, values: Array) -> Array:
    if name == "relu":
        return np.maximum(values, 0)
    if name == "silu":
        return values / (1 + np.exp(-values))
    if name == "gelu":
        return values * (1 + erf(values / np.sqrt(2))) / 2
    return values * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3))) / 2


def _pool(checkpoint: BertCheckpoint, states: Array) -> Array:
    pooled = states.mean(axis=0) if checkpoint.pooling == "mean" else states[0]
    if checkpoint.pooling == "pooler":
        pooled = np.tanh(_linear(checkpoint, "pooler.dense", pooled))
    return pooled / np.linalg.norm(pooled) if checkpoint.normalize else pooled
