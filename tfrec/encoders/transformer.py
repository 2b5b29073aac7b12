"""BERT's transformer as a TF Hub encoder module.

References:
    Devlin et al., BERT, NAACL 2019.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.encoders.hugging_face import BertCheckpoint, BertConfig, Weights

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
_ACTIVATIONS = {
    "gelu": tf.nn.gelu,
    "gelu_new": lambda values: tf.nn.gelu(values, approximate=True),
    "gelu_pytorch_tanh": lambda values: tf.nn.gelu(values, approximate=True),
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
}


class BertEncoder(tf.Module):
    """Token ids to vectors, with the outputs of TF Hub's BERT encoders.

    Args:
        checkpoint: whose weights it takes.
    """

    def __init__(self, checkpoint: BertCheckpoint) -> None:
        super().__init__(name="encoder")
        config, weights = checkpoint.config, checkpoint.weights
        self._pooling, self._normalize = checkpoint.pooling, checkpoint.normalize
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        self._words, self._positions, self._types = (
            _variable(weights[f"embeddings.{name}.weight"], f"embeddings/{name}") for name in names
        )
        self._norm = _Norm(weights, "embeddings.LayerNorm", "embeddings/layer_norm", config)
        self._layers = [_TransformerLayer(weights, layer, config) for layer in range(config.num_hidden_layers)]
        self._pooler = _Linear(weights, "pooler.dense", "pooler") if self._pooling == "pooler" else None

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """From the embeddings up to the pooler: who trains the top layers alone goes by this order."""
        parts: list[tf.Module] = [self._norm, *self._layers, *([self._pooler] if self._pooler else [])]
        embeddings = (self._words, self._positions, self._types)
        return (*embeddings, *(variable for part in parts for variable in part.trainable_variables))

    @tf.function(
        input_signature=[{name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}], autograph=False
    )
    def __call__(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`sequence_output` `[batch, tokens, width]`, `encoder_outputs` of each layer, `pooled_output` `[batch, width]`."""
        ids, mask = inputs["input_word_ids"], inputs["input_mask"]
        states = tf.gather(self._words, ids) + tf.gather(self._types, inputs["input_type_ids"])
        states = self._norm(states + self._positions[: tf.shape(ids)[1]])
        outputs = []
        for layer in self._layers:
            states = layer(states, mask)
            outputs.append(states)
        pooled = self._pooled(states, mask)
        return {"sequence_output": states, "encoder_outputs": outputs, "pooled_output": pooled, "default": pooled}

    def _pooled(self, states: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        if self._pooling == "mean":
            weights = tf.cast(mask, tf.float32)[..., tf.newaxis]
            pooled = tf.reduce_sum(states * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)
        else:
            pooled = states[:, 0]
        if self._pooler is not None:
            pooled = tf.tanh(self._pooler(pooled))
        return tf.math.l2_normalize(pooled, axis=-1) if self._normalize else pooled


class _TransformerLayer(tf.Module):
    """Self-attention and a feed-forward network, each added to what comes in and normalised.

    Args:
        weights: of the checkpoint.
        layer: number, from 0.
        config: sizes.
    """

    def __init__(self, weights: Weights, layer: int, config: BertConfig) -> None:
        source, name = f"encoder.layer.{layer}", f"encoder/layer_{layer}"
        super().__init__(name=f"layer_{layer}")
        self._heads = config.num_attention_heads
        self._activation = _ACTIVATIONS[config.hidden_act]
        self._query, self._key, self._value = (
            _Linear(weights, f"{source}.attention.self.{part}", f"{name}/attention/{part}")
            for part in ("query", "key", "value")
        )
        self._attended = _Linear(weights, f"{source}.attention.output.dense", f"{name}/attention/output")
        self._attended_norm = _Norm(weights, f"{source}.attention.output.LayerNorm", f"{name}/attention/norm", config)
        self._rise = _Linear(weights, f"{source}.intermediate.dense", f"{name}/intermediate")
        self._fall = _Linear(weights, f"{source}.output.dense", f"{name}/output")
        self._norm = _Norm(weights, f"{source}.output.LayerNorm", f"{name}/norm", config)

    def __call__(self, states: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        states = self._attended_norm(states + self._attended(self._attend(states, mask)))
        return self._norm(states + self._fall(self._activation(self._rise(states))))

    def _attend(self, states: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(states)
        query, key, value = (self._split(part(states)) for part in (self._query, self._key, self._value))
        scores = tf.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
        scores += (1.0 - tf.cast(mask, tf.float32))[:, tf.newaxis, tf.newaxis, :] * -1e9
        return tf.reshape(tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores), value), shape)

    def _split(self, states: tf.Tensor) -> tf.Tensor:
        """`[batch, tokens, heads, width / heads]`."""
        shape = tf.shape(states)
        return tf.reshape(states, [shape[0], shape[1], self._heads, states.shape[-1] // self._heads])


class _Linear(tf.Module):
    def __init__(self, weights: Weights, source: str, name: str) -> None:
        super().__init__(name="linear")
        self._kernel = _variable(weights[f"{source}.weight"].T, f"{name}/kernel")
        self._bias = _variable(weights[f"{source}.bias"], f"{name}/bias")

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(values, self._kernel, 1) + self._bias


class _Norm(tf.Module):
    def __init__(self, weights: Weights, source: str, name: str, config: BertConfig) -> None:
        super().__init__(name="norm")
        self._gamma = _variable(weights[f"{source}.weight"], f"{name}/gamma")
        self._beta = _variable(weights[f"{source}.bias"], f"{name}/beta")
        self._epsilon = config.layer_norm_eps

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(values, axes=[-1], keepdims=True)
        return (values - mean) * tf.math.rsqrt(variance + self._epsilon) * self._gamma + self._beta


def _variable(value: NDArray[np.float32], name: str) -> tf.Variable:
    return tf.Variable(value, name=name)
