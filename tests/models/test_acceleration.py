"""Accelerated training steps of retrieval and ranking: near plain ones, and nothing outside of a step is touched."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import AccelerationConfig, RankingConfig
from tfrec.data.input_pipeline import RankingBatches
from tfrec.data.schema import Part
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel


@pytest.fixture(params=["retrieval", "ranking"])
def make(request, dataset, content, retrieval, retrieval_config, batches):
    """Makes a model whose variables are all there, and its first batch."""

    def untrained():
        tf.keras.utils.set_random_seed(1)
        if request.param == "retrieval":
            model, stream = RetrievalModel(retrieval_config, dataset, content, batches), batches
        else:
            events = np.flatnonzero(dataset.interactions.part == Part.VALIDATION)
            stream = RankingBatches(dataset.interactions, events, (Part.TRAIN,), 8, 64, 4, seed=1)
            config = RankingConfig(hidden_units=[16], dropout=0.0)  # XLA draws other numbers
            model = RankingModel(config, dataset, retrieval, retrieval.embed_catalogue())
        batch = next(iter(stream.epoch(0)))
        model.compute_loss(batch)
        return model, batch

    return untrained


@pytest.mark.parametrize(
    "acceleration", [AccelerationConfig(mixed_precision=True), AccelerationConfig(xla=True)], ids=["mixed", "xla"]
)
def test_a_step_is_nearly_the_plain_one(make, acceleration):
    losses, weights, untouched = [], [], []
    for config in (AccelerationConfig(), acceleration):
        model, batch = make()
        model.acceleration = config
        model.compile(optimizer=tf.keras.optimizers.SGD(0.1))
        untouched.append(float(model.compute_loss(batch)))
        losses.append(float(model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history["loss"][0]))
        weights.append(np.concatenate([weight.numpy().ravel() for weight in model.trainable_variables]))
        assert all(variable.dtype == tf.float32 for variable in model.trainable_variables)
    assert untouched[0] == untouched[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3 if acceleration.mixed_precision else 1e-5)
    np.testing.assert_allclose(weights[1], weights[0], atol=5e-3 if acceleration.mixed_precision else 1e-5)
    assert (weights[0] != weights[1]).any(), "the option has an effect"
