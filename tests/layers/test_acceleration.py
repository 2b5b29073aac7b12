"""Products in bfloat16 by NumPy's rounding, where they are and where they are not; what XLA compiles."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import AccelerationConfig
from tfrec.layers.acceleration import Dense, accelerated, compiled, product

MIXED, XLA = AccelerationConfig(mixed_precision=True), AccelerationConfig(xla=True)
DRAW = np.random.default_rng(0)
LEFT, RIGHT = (DRAW.normal(size=shape).astype(np.float32) for shape in ((2, 5, 8), (8, 3)))


def rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest number with 8 bits of mantissa, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def test_products_are_of_rounded_values():
    with accelerated(MIXED):
        result = product(LEFT[0], RIGHT)
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, rounded(result.numpy()))  # sums are rounded too
    np.testing.assert_allclose(result, rounded(LEFT[0]) @ rounded(RIGHT), rtol=2**-8)
    np.testing.assert_allclose(product(LEFT[0], RIGHT), LEFT[0] @ RIGHT, rtol=1e-5)


@pytest.mark.parametrize("inputs", [LEFT, LEFT[0]])
def test_a_dense_layer_keeps_its_bias_and_variables(inputs):
    layer = Dense(3, activation="tanh", bias_initializer=tf.constant_initializer(1 + 2**-12))
    plain = layer(inputs)
    with accelerated(MIXED):
        mixed = layer(inputs)
    assert mixed.shape == plain.shape
    assert {variable.dtype for variable in layer.variables} == {tf.float32}
    summed = product(inputs.reshape(-1, 8), layer.kernel).numpy().reshape(plain.shape)
    np.testing.assert_allclose(plain, np.tanh(summed + layer.bias), atol=1e-6)
    difference = np.abs(mixed - plain)
    assert 0 < difference.max() < 0.02


def test_gradients_are_float32():
    layer = Dense(3)
    layer(LEFT)
    with accelerated(MIXED), tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(LEFT))
    kernel = tape.gradient(loss, layer.kernel)
    assert kernel.dtype == tf.float32
    np.testing.assert_allclose(kernel[:, 0], LEFT.sum(axis=(0, 1)), rtol=0.02, atol=0.05)


def test_only_what_is_asked_for_is_compiled():
    assert compiled(tf.nn.relu) is tf.nn.relu
    layer = Dense(3)
    plain = layer(LEFT)
    with accelerated(XLA):
        function = compiled(layer)
        np.testing.assert_allclose(function(LEFT), plain, atol=1e-5)
    assert "HloModule" in function.experimental_get_compiler_ir(tf.constant(LEFT))("hlo")
