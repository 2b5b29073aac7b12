"""Experts and gates against NumPy."""

import numpy as np
import tensorflow as tf

from tfrec.layers.experts import GatedExperts, Network

INPUTS = tf.constant([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]])


def test_each_task_weighs_the_experts_by_its_own_gate():
    layer = GatedExperts(num_tasks=2, num_experts=3, units=[4], dropout=0.5)
    layer(INPUTS)
    draw = np.random.default_rng(0)
    layer.set_weights([draw.normal(size=weights.shape) for weights in layer.get_weights()])
    opinions = [np.maximum(INPUTS @ expert.hidden[0].kernel + expert.hidden[0].bias, 0) for expert in layer.experts]
    logits = (INPUTS @ layer.gates.kernel + layer.gates.bias).numpy().reshape(3, 2, 3)
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    expected = sum(shares[:, :, expert, None] * opinions[expert][:, None, :] for expert in range(3))
    answer = layer(INPUTS).numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-5)
    assert not np.allclose(answer[:, 0], answer[:, 1])


def test_dropout_in_training_alone():
    network = Network([8, 8], dropout=0.5)
    tf.keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(network(INPUTS), network(INPUTS))
    assert not np.array_equal(network(INPUTS, training=True), network(INPUTS, training=True))
