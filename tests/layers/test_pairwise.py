"""The pairwise loss, worked by hand."""

import numpy as np
import tensorflow as tf

from tfrec.layers.pairwise import bayesian_personalised_ranking
from tfrec.layers.pooling import MASKED


def test_mean_over_the_negatives():
    logits = tf.constant([[2.0, 0.0, 1.0], [0.0, 0.0, np.log(3.0)]])
    losses = bayesian_personalised_ranking(tf.constant([0, 1]), logits)
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    # In the second row the target is as good as one negative, and beaten by the other: sigmoid(-log 3) = 1 / 4.
    np.testing.assert_allclose(losses, [-np.log(sigmoid).mean(), (np.log(2) + np.log(4)) / 2], rtol=1e-6)


def test_masked_candidates_do_not_count():
    logits = tf.constant([[1.0, MASKED, 0.0], [1.0, MASKED, MASKED]])
    losses = bayesian_personalised_ranking(tf.constant([0, 0]), logits)
    np.testing.assert_allclose(losses, [np.log1p(np.exp(-1)), 0.0], rtol=1e-6)
