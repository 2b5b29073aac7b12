"""Queue, popular and hard negatives, and frequency as a stream, worked by hand or in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import CandidateConfig, QueryConfig, RetrievalConfig
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.errors import TfrecError
from tfrec.features.content import ContentFeatures
from tfrec.models.negatives import POOL_PER_HARD_NEGATIVE, CandidateQueue, StreamingFrequency, hard_negatives
from tfrec.models.retrieval import RetrievalModel

CONFIG = RetrievalConfig(
    embedding_dim=4,
    query=QueryConfig(history_length=3, user_id_dropout=0.0),
    candidate=CandidateConfig(id_dropout=0.0),
    num_uniform_negatives=3,
    num_popular_negatives=2,
    num_hard_negatives=2,
    queue_size=6,
    temperature=0.5,
    dropout=0.0,
    batch_size=4,
)


def held(queue: CandidateQueue, candidates: list[int]) -> dict[int, list[float]]:
    videos, embeddings = queue.beside(tf.constant(candidates, tf.int32))
    assert len(set(videos.numpy())) == len(videos)
    return {int(video): row.tolist() for video, row in zip(videos, embeddings.numpy(), strict=True)}


def test_queue_holds_the_latest_of_each_video_that_is_no_candidate():
    queue = CandidateQueue(size=4, embedding_dim=1, num_videos=9)
    assert held(queue, [1, 2]) == {}
    queue.push(tf.constant([3, 5]), tf.constant([[0.3], [0.5]]))
    assert held(queue, [1]) == {3: [np.float32(0.3)], 5: [np.float32(0.5)]}
    assert queue.filled == 2
    queue.push(tf.constant([5, 7, 8]), tf.constant([[5.0], [7.0], [8.0]]))  # over the 3
    assert held(queue, [8, 0]) == {5: [5.0], 7: [7.0]}
    assert queue.filled == 4
    queue.push(tf.constant([1, 2, 3, 4, 6]), tf.constant([[1.0], [2.0], [3.0], [4.0], [6.0]]))  # more than fit
    assert held(queue, [0]) == {2: [2.0], 3: [3.0], 4: [4.0], 6: [6.0]}


def test_queue_has_no_gradient():
    queue = CandidateQueue(2, 1, 3)
    value = tf.Variable([[2.0]])
    with tf.GradientTape() as tape:
        queue.push(tf.constant([1]), value * 3.0)
        loss = tf.reduce_sum(queue.beside(tf.constant([0]))[1])
    assert float(loss) == 6
    assert tape.gradient(loss, value) is None


def test_streaming_frequency_finds_the_true_one():
    """From counts that are wrong, with draws by hand: video 0 in every second batch, 1 in every tenth, 2 in each."""
    stream = StreamingFrequency(np.array([0.2, 0.1, 0.7]), batch_size=2)
    np.testing.assert_allclose(stream.in_batch, [0.36, 0.19, 0.91], atol=1e-6)
    for step in range(1, 1201):
        stream.update(tf.constant([2, 2] + [0] * (step % 2 == 0) + [1] * (step % 10 == 0)))
    np.testing.assert_allclose(stream.in_batch, [0.5, 0.1, 1.0], rtol=0.25)


def test_hard_negatives_take_most_of_the_softmax():
    """Six videos; 0 is a candidate, and the second user has watched 4, so for them it is no negative."""
    logits = tf.constant([[9.0, 1.0, 0.0, 2.0, 1.5, 0.0], [9.0, 0.0, 1.0, 0.5, 9.0, 0.0]])
    shares = np.exp([[1.0, 0.0, 2.0, 1.5], [0.0, 1.0, 0.5, -np.inf]])  # of videos 1, 2, 3 and 4: 5 is not in the pool
    shares = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0)
    expected = [[1, 2, 3, 4][place] for place in np.argsort(-shares)[:2]]
    arguments = (
        tf.zeros([2, 3]),
        tf.constant([4, 2, 0, 1, 3, 3, 2]),
        lambda videos: tf.gather(logits, videos, axis=1),
        tf.constant([0]),
        tf.ragged.constant([[5], [4]], dtype=tf.int32),
    )
    assert hard_negatives(*arguments, 2, 6).numpy().tolist() == expected
    assert sorted(hard_negatives(*arguments, 9, 6).numpy()) == [1, 2, 3, 4]
    in_graph = tf.function(lambda *known: hard_negatives(known[0], known[1], arguments[2], known[2], known[3], 2, 6))
    known = (arguments[0], arguments[1], arguments[3], arguments[4])
    assert in_graph.get_concrete_function(*known).output_shapes.rank == 1
    assert in_graph(*known).numpy().tolist() == expected


def make(dataset, **changes) -> tuple[RetrievalModel, RetrievalBatches]:
    config = replace(CONFIG, **changes)
    batches = RetrievalBatches(
        dataset.interactions, 3, 4, 3, 0, seed=1,
        num_popular_negatives=config.num_popular_negatives,
        pool_size=POOL_PER_HARD_NEGATIVE * config.num_hard_negatives,
    )  # fmt: skip
    model = RetrievalModel(config, dataset, ContentFeatures({}, {}), batches)
    model.compute_loss(next(iter(batches.epoch(0))))
    draw = np.random.default_rng(3)
    for weight in model.trainable_variables:
        weight.assign(draw.normal(scale=0.7, size=weight.shape))
    return model, batches


@pytest.mark.parametrize("frequency", ["exact", "streaming"])
def test_loss_with_all_of_them_equals_numpy(dataset, frequency):
    model, batches = make(dataset, frequency=frequency)
    counts = dataset.interactions.train_counts
    share, num_warm = counts / counts.sum(), int((counts > 0).sum())
    popularity = counts**0.75 / (counts**0.75).sum()
    first, second = list(batches.epoch(0))[:2]
    model.compute_loss(first, training=True)
    # No weight has changed, so embeddings in the queue are those of now.
    table = model.candidate_tower(tf.range(model.num_videos)).numpy()
    query, targets = second["query"], second["video"].numpy()
    asked = model.query_tower(query, tf.gather(table, tf.maximum(query.history, 0))).numpy()
    appeal = model.appeal(query.timestamp, tf.range(model.num_videos)).numpy()
    logits = (asked @ table.T + appeal) / 0.5
    candidates = set(targets) | set(second["negatives"].numpy())
    assert len(second["negatives"]) == 5
    pool = sorted(set(second["pool"].numpy()) - candidates)
    shares = np.zeros(len(pool))
    for row, positives in zip(logits, second["positives"].numpy(), strict=True):
        weights = np.where(np.isin(pool, positives), 0, np.exp(row[pool]))
        shares += weights / weights.sum()
    hard = {pool[place] for place in np.argsort(-shares)[:2]}
    queued = set(first["video"].numpy()) - candidates - hard
    everything = np.array(sorted(candidates | hard | queued))
    assert len(hard) == 2
    assert queued
    uniform = np.where(np.isin(everything, list(hard)), 3 + 16, 3)
    missed = (1 - popularity[everything]) ** 2 * (1 - 1 / num_warm) ** uniform
    if frequency == "exact":
        missed *= (1 - share[everything]) ** (4 + 4)
    else:
        stream = StreamingFrequency(share, 4)
        stream.update(first["video"])
        stream.update(second["video"])
        missed *= (1 - stream.in_batch.numpy()[everything]) ** (1 + 1)
    corrected = logits[:, everything] - np.log(1 - missed)
    losses = []
    for row, target, positives in zip(corrected, targets, second["positives"].numpy(), strict=True):
        kept = row[~np.isin(everything, positives) | (everything == target)]
        losses.append(np.logaddexp.reduce(kept) - row[everything == target][0])
    assert float(model.compute_loss(second, training=True)) == pytest.approx(np.mean(losses), rel=1e-3)
    assert set(first["video"].numpy()[-2:]) | set(targets) == set(model.queue.videos.numpy())


def test_streaming_frequency_holds_for_batches_of_another_size(dataset):
    """As the cold-start head has them: eight targets are two batches of retrieval."""
    model, batches = make(dataset, frequency="streaming", num_popular_negatives=0, num_hard_negatives=0, queue_size=0)
    model.compute_loss(next(iter(batches.epoch(0))), training=True)
    num_warm = len(dataset.interactions.warm_videos)
    missed = (1 - model.streaming.in_batch.numpy()) ** 2 * (1 - 1 / num_warm) ** 3
    counted = model._log_inclusion(tf.range(model.num_videos), tf.constant(8.0), None)
    np.testing.assert_allclose(counted, np.log(1 - missed), rtol=1e-4, atol=1e-6)


def test_popular_negatives_are_drawn_by_their_counts(dataset):
    counts = dataset.interactions.train_counts
    batches = RetrievalBatches(dataset.interactions, 3, 64, 1, 0, seed=1, num_popular_negatives=2000)
    drawn = np.concatenate([batch["negatives"][1:] for batch in batches.epoch(0)])
    expected = counts**0.75 / (counts**0.75).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(counts)) / len(drawn), expected, atol=0.01)


def test_they_train(dataset):
    """In a graph, several steps to a call."""
    model, batches = make(dataset, frequency="streaming")
    model.compile(optimizer=tf.keras.optimizers.Adam(0.01), steps_per_execution=4)
    losses = [model.fit(batches.epoch(epoch).take(32), verbose=0).history["loss"][-1] for epoch in (0, 0)]
    assert losses[-1] < losses[0]
    assert model.queue.pushed > 100


def test_a_whole_catalogue_leaves_nothing_to_sample(dataset):
    model = RetrievalModel(
        replace(CONFIG, num_uniform_negatives=100), dataset, ContentFeatures({}, {}),
        RetrievalBatches(dataset.interactions, 3, 4, 100, 0, seed=1, num_popular_negatives=2, pool_size=16),
    )  # fmt: skip
    batch = next(iter(RetrievalBatches(dataset.interactions, 3, 4, 100, 0, 1, num_popular_negatives=2).epoch(0)))
    assert model.queue is None
    assert len(batch["negatives"]) == (dataset.interactions.train_counts > 0).sum()
    assert np.isfinite(model.compute_loss(batch, training=True))


def test_sequences_have_none_of_these():
    with pytest.raises(TfrecError, match="`queue_size` must be 0 unless `training` is events"):
        RetrievalConfig(training="sequences", query=QueryConfig(encoder="gru"), queue_size=8)
