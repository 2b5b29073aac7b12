"""Fusion: one vector from the modalities that a video has.

An *output* is what one modality's tower gives: its values, float `[B, units]`, and whether each video shows the modality,
float `[B, 1]`, 1 or 0. A strategy joins the outputs of all modalities, always given in the same order. In each of them the
values of a modality that is not shown reach neither the result nor any gradient, and a video that shows none gets zeros.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import tensorflow as tf

from tfrec.config import Fusion
from tfrec.layers.acceleration import Dense
from tfrec.layers.pooling import AttentionPooling, masked_softmax

Output = tuple[tf.Tensor, tf.Tensor]

_NUM_HEADS = 4


class FusionLayer(tf.keras.layers.Layer):
    """A strategy.

    Args:
        names: of the modalities, in their order.
        units: width of an output and of the result.
    """

    def __init__(self, names: Sequence[str], units: int) -> None:
        super().__init__()
        self.names, self.units = tuple(names), units

    @abstractmethod
    def fuse(self, outputs: Iterable[Output]) -> tf.Tensor:
        """The outputs, one per name, as `[B, units]`. They are made while they are read, so that layers build in turn."""


class GatedSum(FusionLayer):
    """The sum of linear maps, each through a gate (0 to 1) that its own modality opens.

    References:
        Arevalo et al., Gated multimodal units for information fusion, 2017.
    """

    def __init__(self, names: Sequence[str], units: int) -> None:
        super().__init__(names, units)
        self.gates = {name: tf.keras.layers.Dense(1) for name in self.names}
        self.maps = {name: Dense(units) for name in self.names}

    def fuse(self, outputs: Iterable[Output]) -> tf.Tensor:
        """See `FusionLayer.fuse`."""
        total = 0.0
        for name, (values, present) in zip(self.names, outputs, strict=True):
            total += present * tf.sigmoid(self.gates[name](values)) * self.maps[name](values)
        return total


class WeightedSum(FusionLayer):
    """The mean of linear maps, weighted by a learned softmax over the modalities that a video shows."""

    def __init__(self, names: Sequence[str], units: int) -> None:
        super().__init__(names, units)
        self.maps = {name: Dense(units) for name in self.names}
        self.logits = self.add_weight("logits", (len(self.names),), initializer="zeros")

    def fuse(self, outputs: Iterable[Output]) -> tf.Tensor:
        """See `FusionLayer.fuse`."""
        mapped, shown = [], []
        for name, (values, present) in zip(self.names, outputs, strict=True):
            mapped.append(self.maps[name](values))
            shown.append(present)
        presence = tf.concat(shown, axis=1)
        weights = masked_softmax(self.logits * tf.ones_like(presence), presence > 0)
        return tf.einsum("bm,mbd->bd", weights, tf.stack(mapped))


class Concatenation(FusionLayer):
    """A dense layer over the outputs side by side, zeros for what is not shown, and the mask of what is."""

    def __init__(self, names: Sequence[str], units: int) -> None:
        super().__init__(names, units)
        self.joint = Dense(units)

    def fuse(self, outputs: Iterable[Output]) -> tf.Tensor:
        """See `FusionLayer.fuse`."""
        pairs = list(outputs)
        presence = tf.concat([present for _, present in pairs], axis=1)
        joined = tf.concat([values * present for values, present in pairs], axis=1)
        return self.joint(tf.concat([joined, presence], axis=1)) * tf.reduce_max(presence, axis=1, keepdims=True)


class CrossModalAttention(FusionLayer):
    """Self-attention over one token per modality shown, then attention pooling.

    A token is the linear map of an output plus what is learned of its modality.

    References:
        Vaswani et al., Attention is all you need, NeurIPS 2017.
    """

    def __init__(self, names: Sequence[str], units: int) -> None:
        super().__init__(names, units)
        self.maps = {name: Dense(units) for name in self.names}
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-5)
        self.attention = tf.keras.layers.MultiHeadAttention(_NUM_HEADS, max(1, units // _NUM_HEADS))
        self.pool = AttentionPooling()

    def fuse(self, outputs: Iterable[Output]) -> tf.Tensor:
        """See `FusionLayer.fuse`."""
        mapped, shown = [], []
        for name, (values, present) in zip(self.names, outputs, strict=True):
            mapped.append(self.maps[name](values))  # its bias is what is learned of the modality
            shown.append(present)
        tokens, mask = tf.stack(mapped, axis=1), tf.concat(shown, axis=1) > 0
        normal = self.norm(tokens)
        tokens += self.attention(normal, normal, attention_mask=mask[:, tf.newaxis])
        return self.pool(tokens, mask)


_STRATEGIES: dict[Fusion, type[FusionLayer]] = {
    "gated": GatedSum,
    "weighted": WeightedSum,
    "concat": Concatenation,
    "attention": CrossModalAttention,
}


def make_fusion(strategy: Fusion, names: Sequence[str], units: int) -> FusionLayer:
    """The layer of a strategy; see `FusionLayer` for the arguments."""
    return _STRATEGIES[strategy](names, units)
