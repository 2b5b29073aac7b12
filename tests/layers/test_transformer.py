"""Causal self-attention: what a step depends on, and its values in NumPy."""

import time

import numpy as np
import tensorflow as tf

from tfrec.layers.transformer import CausalTransformer, RootMeanSquareNormalization, age_buckets

UNITS, LENGTH = 4, 6


def make_transformer(**options) -> CausalTransformer:
    settings = {"units": UNITS, "num_blocks": 2, "num_heads": 2, "hidden_units": 8, "max_distance": 3, "dropout": 0.5}
    layer = CausalTransformer(**settings | options)
    layer(tf.zeros([1, LENGTH, UNITS]), ages=tf.zeros([1, LENGTH, LENGTH]))
    draw = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(draw.normal(scale=0.7, size=weight.shape))
    return layer


STEPS = np.random.default_rng(0).normal(size=(2, LENGTH, UNITS)).astype(np.float32)


def test_later_steps_never_change_earlier_ones():
    layer = make_transformer()
    before = layer(STEPS).numpy()
    for place in range(LENGTH):
        changed = STEPS.copy()
        changed[:, place] += 1
        after = layer(changed).numpy()
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (np.abs(after[:, place:] - before[:, place:]).max(axis=(0, 2)) > 1e-3).all()


def test_a_step_is_the_end_of_the_shorter_sequence():
    layer = make_transformer()
    whole = layer(STEPS).numpy()
    for length in range(1, LENGTH):
        np.testing.assert_allclose(layer(STEPS[:, :length])[:, -1], whole[:, length - 1], atol=1e-5)


def test_order_matters_up_to_the_largest_distance():
    layer = make_transformer(num_blocks=1)

    def last_after_swapping(one: int, other: int) -> np.ndarray:
        order = np.arange(LENGTH)
        order[[one, other]] = order[[other, one]]
        return layer(STEPS[:, order])[:, -1].numpy()

    np.testing.assert_allclose(last_after_swapping(0, 1), last_after_swapping(0, 0), atol=1e-5)
    assert np.abs(last_after_swapping(1, 3) - last_after_swapping(0, 0)).max() > 1e-3


def normalised(values: np.ndarray, scale: tf.Variable) -> np.ndarray:
    return values / np.sqrt((values**2).mean(axis=-1, keepdims=True) + 1e-6) * scale.numpy()


def test_one_block_equals_numpy():
    layer = make_transformer(num_blocks=1)
    (block,), steps = layer.blocks, STEPS[0]
    kernel = block.projections.kernel.numpy().reshape(UNITS, 3, 2, 2)
    query, key, value = np.einsum("tu,uphw->phtw", normalised(steps, block.before_attention.scale), kernel)
    joined = []
    for head in range(2):
        logits = query[head] @ key[head].T / np.sqrt(2)
        weights = np.zeros((LENGTH, LENGTH))
        for now in range(LENGTH):
            biased = [logits[now, past] + block.distance_bias[head, min(now - past, 3)] for past in range(now + 1)]
            weights[now, : now + 1] = np.exp(biased) / np.exp(biased).sum()
        joined.append(weights @ value[head])
    steps = steps + block.joined(np.concatenate(joined, axis=1).astype(np.float32)).numpy()
    steps = steps + block.out(block.hidden(normalised(steps, block.before_hidden.scale))).numpy()
    np.testing.assert_allclose(layer(STEPS)[0], normalised(steps, layer.normalise.scale), atol=1e-4)


def test_age_bias_chooses_among_steps_that_distance_takes_for_equal():
    """Only the bucket of a day has a bias, so attention is on the step that is a day old and hears nothing of the others."""
    layer = make_transformer(num_blocks=1, max_distance=0, age_bias=True)
    ages = np.full((2, LENGTH, LENGTH), 30.0, np.float32)
    ages[:, :, 2] = 1.0
    bias = np.zeros_like(layer.blocks[0].age_bias)
    bias[:, 11] = 100  # 1024 to 2047 minutes
    layer.blocks[0].age_bias.assign(bias)
    before = layer(STEPS, ages=ages).numpy()
    for place in (0, 1, 3, 4):
        np.testing.assert_allclose(layer(_moved(place), ages=ages)[:, -1], before[:, -1], atol=1e-5)
    assert np.abs(layer(_moved(2), ages=ages)[:, -1] - before[:, -1]).max() > 1e-3


def _moved(place: int) -> np.ndarray:
    changed = STEPS.copy()
    changed[:, place] += 1
    return changed


def test_buckets_of_ages():
    minutes = np.array([-1440, 0, 0.9, 1.1, 2.9, 3.1, 1030, 1440, 1e9], np.float32)
    assert age_buckets(minutes / 1440).numpy().tolist() == [0, 1, 1, 2, 2, 3, 11, 11, 23]


def test_normalisation_by_hand():
    layer = RootMeanSquareNormalization()
    result = layer(tf.constant([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(result, [[3 / np.sqrt(12.5), 4 / np.sqrt(12.5)], [0, 0]], rtol=1e-5)


def test_dropout_in_training_alone():
    layer = make_transformer()
    np.testing.assert_array_equal(layer(STEPS), layer(STEPS))
    assert np.abs(layer(STEPS, training=True) - layer(STEPS, training=True)).max() > 1e-3


def test_xla_is_no_slower_by_an_order():
    """With a bias added to the products, XLA took 35 times the processor time of plain TensorFlow."""
    layer, steps = CausalTransformer(64, 1, 2, 64, 100, dropout=0.0), tf.random.stateless_normal([32, 100, 64], [0, 0])
    layer(steps)
    seconds = []
    for jit_compile in (False, True):
        function = tf.function(layer, jit_compile=jit_compile, autograph=False)
        function(steps)
        start = time.process_time()
        function(steps).numpy()
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0]
