"""What `TF_CONFIG` and the options make of a run, and batches that cannot be shared out."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import DistributionConfig
from tfrec.distribution import ONE_DEVICE, Distribution, open_distribution
from tfrec.errors import TfrecError


@pytest.mark.parametrize(
    "described", ["", '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}']
)
def test_one_worker_is_one_device(described, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described)
    assert open_distribution(DistributionConfig()) == ONE_DEVICE


@pytest.mark.parametrize("described", ["{", "[]", '{"cluster": {"worker": 3}}', '{"cluster": [1]}'])
def test_a_broken_cluster_description_is_shown(described, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described)
    with pytest.raises(TfrecError, match=r"TF_CONFIG is no cluster description\. Received: "):
        open_distribution(DistributionConfig())


def test_many_workers_need_a_description(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(TfrecError, match="needs the environment variable TF_CONFIG"):
        open_distribution(DistributionConfig(strategy="multi_worker"))


def test_batches_must_be_shared_out_equally():
    class Three(Distribution):
        num_replicas = 3

    Three().check_batch_size("retrieval.batch_size", 12)
    with pytest.raises(TfrecError, match=r"`retrieval.batch_size` must be a multiple .* 3, .* Received: 16."):
        Three().check_batch_size("retrieval.batch_size", 16)


def test_one_worker_asks_nobody():
    values = np.array([1.0, 2.0])
    assert ONE_DEVICE.from_chief(values) is values
    with pytest.raises(tf.errors.InternalError), ONE_DEVICE.noticing_lost_workers():
        raise tf.errors.InternalError(None, None, "not for want of a worker")
