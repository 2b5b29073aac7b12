"""BERT models as Hugging Face keeps them: a folder with `config.json`, `model.safetensors` and `vocab.txt`.

A *checkpoint* is such a folder, read and checked. Folders of the sentence-transformers library also say how a sentence's
vector is made of its tokens' (`1_Pooling/config.json`, `modules.json`). Nothing here needs TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tfrec.errors import TfrecError

Pooling = Literal["pooler", "mean", "cls"]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"]
Weights = Mapping[str, NDArray[np.float32]]

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocab.txt"
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT model, by their names in `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: Activation
    layer_norm_eps: float

    @classmethod
    def of(cls, values: Mapping[str, Any], path: Path) -> BertConfig:
        """Takes what the converter needs.

        Args:
            values: of `config.json`.
            path: of the file, for errors.

        Raises:
            TfrecError: If the model is no BERT, or a number is missing or cannot be.
        """
        _require(path, "model_type", values.get("model_type", "bert"), ("bert",))
        _require(path, "position_embedding_type", values.get("position_embedding_type", "absolute"), ("absolute",))
        _require(path, "hidden_act", values.get("hidden_act", "gelu"), get_args(Activation))
        defaults: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2}
        known = defaults | {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        if lacking := sorted(set(cls.__dataclass_fields__) - set(known)):
            raise TfrecError(f"{path} lacks {', '.join(lacking)}. Expected the configuration of a BERT model.")
        config = cls(**known)
        sizes = {name: value for name, value in known.items() if name not in ("hidden_act", "layer_norm_eps")}
        if bad := {name: value for name, value in sizes.items() if not isinstance(value, int) or value < 1}:
            raise TfrecError(f"{path} must give positive whole numbers. Received: {bad}.")
        if config.hidden_size % config.num_attention_heads:
            raise TfrecError(
                f"{path}: `hidden_size` must be a multiple of `num_attention_heads`. Received: {config.hidden_size} and "
                f"{config.num_attention_heads}."
            )
        return config


def expected_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each weight that a BERT model needs, `[out, in]` for a matrix; the pooler is not among them."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        **_vectors("embeddings.LayerNorm", width),
    }
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _linear(f"{prefix}.{part}", width, width)
        shapes |= _linear(f"{prefix}.intermediate.dense", inner, width) | _linear(
            f"{prefix}.output.dense", width, inner
        )
        shapes |= _vectors(f"{prefix}.attention.output.LayerNorm", width) | _vectors(
            f"{prefix}.output.LayerNorm", width
        )
    return shapes


@dataclass(frozen=True)
class BertCheckpoint:
    """A BERT model that was read and checked.

    Args:
        config: its sizes.
        weights: float32 by name, as `expected_shapes` and, if it has one, `pooler.dense`.
        vocabulary: tokens in the order of their ids.
        lower_case: whether its tokenizer makes letters lower-case.
        strip_accents: whether its tokenizer removes accents.
        pooling: how one vector is made of the tokens': by the trained pooler, their mean, or that of `[CLS]`.
        normalize: whether that vector is brought to length 1.
    """

    config: BertConfig
    weights: Weights
    vocabulary: list[str]
    lower_case: bool
    strip_accents: bool
    pooling: Pooling
    normalize: bool

    @classmethod
    def read(cls, folder: Path) -> BertCheckpoint:
        """Reads a folder.

        Raises:
            TfrecError: If a file is missing, the model is not a BERT, or a weight is missing or of another shape.
        """
        if lacking := [name for name in (CONFIG, WEIGHTS, VOCABULARY) if not (folder / name).is_file()]:
            raise TfrecError(
                f"{folder} lacks {', '.join(lacking)}. Expected the folder of a BERT model: {CONFIG}, {WEIGHTS} and "
                f"{VOCABULARY}."
            )
        config = BertConfig.of(_json(folder / CONFIG), folder / CONFIG)
        weights = _read_weights(folder / WEIGHTS)
        _check_shapes(folder / WEIGHTS, weights, expected_shapes(config))
        tokenizer = _json(folder / "tokenizer_config.json")
        _require(folder, "tokenize_chinese_chars", tokenizer.get("tokenize_chinese_chars", True), (True,))
        lower_case = bool(tokenizer.get("do_lower_case", True))
        strip_accents = tokenizer.get("strip_accents")
        return cls(
            config,
            weights,
            _read_vocabulary(folder / VOCABULARY, config.vocab_size),
            lower_case,
            lower_case if strip_accents is None else bool(strip_accents),
            _pooling(folder, weights, config.hidden_size),
            any(module.get("type", "").endswith(".Normalize") for module in _json(folder / "modules.json", [])),
        )


def _require(path: Path, name: str, received: object, supported: tuple[object, ...]) -> None:
    if received not in supported:
        names = ", ".join(map(repr, supported))
        raise TfrecError(f"{path}: `{name}` {received!r} is not supported. Expected: {names}.")


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _vectors(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _json(path: Path, default: Any = None) -> Any:
    """The content of a file; `default` (or nothing) where there is no such file."""
    if not path.is_file():
        return {} if default is None else default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TfrecError(f"{path} is no JSON: {error}. Download it again.") from None


def _read_weights(path: Path) -> Weights:
    """Weights by their plain names: without the prefix `bert.`, norms as `weight` and `bias`."""
    weights = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                weights[_plain_name(name)] = np.asarray(file.get_tensor(name)).astype(np.float32)
    except (SafetensorError, TypeError, OSError) as error:
        raise TfrecError(f"{path} cannot be read: {error}. Expected float weights in safetensors format.") from None
    return weights


def _plain_name(name: str) -> str:
    *parts, last = name.removeprefix("bert.").split(".")
    return ".".join([*parts, _OLD_NAMES.get(last, last)])


def _check_shapes(path: Path, weights: Weights, expected: Mapping[str, tuple[int, ...]]) -> None:
    if missing := [name for name in expected if name not in weights]:
        raise TfrecError(f"{path} lacks {len(missing)} weights of a BERT model, such as `{missing[0]}`.")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise TfrecError(f"{path}: `{name}` is of shape {weights[name].shape}, but {CONFIG} makes it {shape}.")


def _read_vocabulary(path: Path, size: int) -> list[str]:
    vocabulary = path.read_text(encoding="utf-8").splitlines()
    if len(set(vocabulary)) != len(vocabulary):
        raise TfrecError(f"{path} holds a token twice. Download it again.")
    if len(vocabulary) > size:
        raise TfrecError(f"{path} holds {len(vocabulary)} tokens, but {CONFIG} makes room for {size} (`vocab_size`).")
    return vocabulary


def _pooling(folder: Path, weights: Weights, width: int) -> Pooling:
    """What a sentence-transformers folder says; else the pooler, where it was trained; else the mean."""
    settings = _json(folder / "1_Pooling" / "config.json")
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    if modes:
        known: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        _require(folder / "1_Pooling", "pooling_mode", modes, tuple([name] for name in known))
        return known[modes[0]]
    if "pooler.dense.weight" not in weights:
        return "mean"
    _check_shapes(folder / WEIGHTS, weights, _linear("pooler.dense", width, width))
    return "pooler"
