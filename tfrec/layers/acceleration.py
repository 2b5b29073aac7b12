"""Training steps in mixed precision, and through XLA.

Both are properties of the step that is traced, not of the model: within `accelerated` the products of layers are computed in
bfloat16 and what `compiled` wraps goes through XLA. The variables and their checkpoints are those of any other training, and
validation, evaluation and export, which are traced outside, stay as they are: float32 and stock ops.

bfloat16 has the exponents of float32, so no gradient vanishes and no loss needs scaling; its 8 bits of mantissa are kept from
whatever sums, compares or accumulates: embedding tables, residual sums, normalisations, the scores of candidates, softmax,
losses and the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from tfrec.config import AccelerationConfig

_PLAIN = AccelerationConfig()
_current: ContextVar[AccelerationConfig] = ContextVar("acceleration", default=_PLAIN)


@contextmanager
def accelerated(config: AccelerationConfig) -> Iterator[None]:
    """Traces what is called in the block as the configuration says."""
    token = _current.set(config)
    try:
        yield
    finally:
        _current.reset(token)


def product(left: tf.Tensor, right: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """`tf.matmul` of float32 tensors to float32, in mixed precision of their bfloat16 values."""
    if not _current.get().mixed_precision:
        return tf.matmul(left, right, transpose_b=transpose_b)
    rounded = (tf.cast(values, tf.bfloat16) for values in (left, right))
    return tf.cast(tf.matmul(*rounded, transpose_b=transpose_b), tf.float32)


class Dense(tf.keras.layers.Dense):
    """Keras' dense layer, whose product may be computed in mixed precision; bias and activation never are."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """From float32 `[..., D]` to float32 `[..., units]`."""
        if not _current.get().mixed_precision:
            return super().call(inputs)
        rows = product(tf.reshape(inputs, [-1, inputs.shape[-1]]), self.kernel)
        outputs = tf.reshape(rows, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
        outputs = tf.ensure_shape(outputs, [*inputs.shape[:-1], self.units])
        return self.activation(outputs + self.bias if self.use_bias else outputs)


def is_compiled() -> bool:
    """Whether `compiled` compiles."""
    return _current.get().xla


def compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A function of tensors that XLA compiles where that is asked for; a layer that it calls must be built by then.

    Each new shape of an argument is compiled anew, so shapes must be the same in every step.
    """
    config = _current.get()
    if not config.xla:
        return function

    def traced(*arguments: Any, **options: Any) -> tf.Tensor:
        with accelerated(config):  # a function may be traced later, and elsewhere
            return function(*arguments, **options)

    return tf.function(traced, jit_compile=True, autograph=False)
