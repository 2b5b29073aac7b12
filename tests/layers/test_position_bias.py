"""What a position adds, and that none adds nothing."""

import numpy as np
import tensorflow as tf

from tfrec.layers.position_bias import NUM_POSITIONS, PositionBias


def test_biases_by_position():
    layer = PositionBias(num_tasks=2)
    positions = tf.constant([[1, 2, 0], [NUM_POSITIONS, NUM_POSITIONS + 7, 2]])
    layer(positions)
    table = np.arange(2 * (NUM_POSITIONS + 1), dtype=np.float32).reshape(-1, 2) + 1
    layer.table.set_weights([table])
    last = table[NUM_POSITIONS]
    np.testing.assert_array_equal(layer(positions), [[table[1], table[2], [0, 0]], [last, last, table[2]]])
