"""Time-aware attention: weights in NumPy, padding, order, convexity."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers.attention import TimeAwareAttention, TimeEncoding

UNITS, LENGTH = 4, 5


@pytest.fixture(scope="module")
def attention() -> TimeAwareAttention:
    layer = TimeAwareAttention(UNITS, num_heads=2, length=LENGTH)
    layer(tf.zeros([1, LENGTH, UNITS]), tf.ones([1, LENGTH], tf.bool), tf.zeros([1, LENGTH]), True)
    draw = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    return layer


@pytest.fixture
def history() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, mask and ages of two users, one with three events."""
    draw = np.random.default_rng(1)
    events = draw.normal(size=(2, LENGTH, UNITS)).astype(np.float32)
    age = np.array([[90, 30, 5, 0, 0], [400, 50, 20, 3, 0.1]], np.float32)
    return events, np.arange(LENGTH) < np.array([[3], [5]]), age


def numpy_attention(layer: TimeAwareAttention, events: np.ndarray, extra: np.ndarray | float) -> np.ndarray:
    """The result for one history without padding; `extra` is added to the hidden values of its events."""
    kernel, bias = (weight.numpy() for weight in (layer.hidden.kernel, layer.hidden.bias))
    scores = np.tanh(events @ kernel + bias + extra) @ layer.score.kernel.numpy()
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    return np.concatenate([weights[:, 0] @ events[:, :2], weights[:, 1] @ events[:, 2:]])


def test_set_equals_numpy(attention, history):
    events, mask, age = history
    expected = [numpy_attention(attention, events[0, :3], 0.0), numpy_attention(attention, events[1], 0.0)]
    np.testing.assert_allclose(attention(events, mask, age, False), expected, rtol=1e-4)


def test_sequence_equals_numpy(attention, history):
    events, mask, age = history
    centres = np.linspace(0, 1, 16)
    expected = []
    for row, length in enumerate((3, 5)):
        position = np.log1p(age[row, :length] * 1440) / 15.5
        bumps = np.exp(-(((position[:, None] - centres) * 16) ** 2))
        time = bumps @ attention.time.projection.kernel.numpy()
        rank = attention.rank.embeddings.numpy()[np.arange(length, 0, -1)]  # 1 for the latest event
        expected.append(numpy_attention(attention, events[row, :length], time + rank))
    np.testing.assert_allclose(attention(events, mask, age, True), expected, rtol=1e-3)


@pytest.mark.parametrize("ordered", [True, False])
def test_ignores_padding(attention, history, ordered):
    events, mask, age = history
    expected = attention(events, mask, age, ordered)
    events, age = np.where(mask[:, :, None], events, 1e3).astype(np.float32), np.where(mask, age, 7.0)
    np.testing.assert_allclose(attention(events, mask, age.astype(np.float32), ordered), expected, rtol=1e-5)
    alone = attention(events[:1, :3], mask[:1, :3], age[:1, :3].astype(np.float32), ordered)
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-5)


def test_order_matters_to_sequences_only(attention, history):
    events, mask, age = (part[1:] for part in history)
    turned = events[:, ::-1]
    np.testing.assert_allclose(attention(turned, mask, age, False), attention(events, mask, age, False), rtol=1e-4)
    assert np.abs(attention(turned, mask, age, True) - attention(events, mask, age, True)).max() > 0.01


def test_age_matters_to_sequences_only(attention, history):
    events, mask, age = (part[1:] for part in history)
    np.testing.assert_array_equal(attention(events, mask, 2 * age, False), attention(events, mask, age, False))
    assert np.abs(attention(events, mask, 9 * age, True) - attention(events, mask, age, True)).max() > 0.01


def test_result_lies_among_the_events(attention, history):
    events, mask, age = history
    result = attention(events, mask, age, True).numpy()
    for row, length in enumerate((3, 5)):
        assert (result[row] >= events[row, :length].min(axis=0)).all()
        assert (result[row] <= events[row, :length].max(axis=0)).all()
    single = attention(events, np.arange(LENGTH)[None] < [[1], [1]], age, True)
    np.testing.assert_allclose(single, events[:, 0], rtol=1e-6)


def test_empty_history_and_empty_batch(attention, history):
    events, mask, age = history
    np.testing.assert_array_equal(attention(events, np.zeros_like(mask), age, True), np.zeros((2, UNITS)))
    assert attention(events[:0], mask[:0], age[:0], True).shape == (0, UNITS)


def test_time_encoding_tells_minutes_from_years():
    layer = TimeEncoding(16)
    layer(tf.zeros([1, 1]))
    layer.projection.kernel.assign(np.eye(16, dtype=np.float32))
    days = tf.constant([[0, 1 / 144, 1 / 24, 1, 30, 365, 3650]])
    answering = layer(days).numpy()[0].argmax(axis=1)  # the bump nearest to the logarithm of the age
    # Fifteen steps up to exp(15.5) minutes: log1p(10), log1p(60), log1p(1440), ... by 15.5 / 15.
    assert answering.tolist() == [0, 2, 4, 7, 10, 13, 15]
