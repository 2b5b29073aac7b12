"""Which variables are trained."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from tfrec.encoders.blocks import trained_variables
from tfrec.encoders.hub import load_module
from tfrec.errors import TfrecError

NAMES = ("word_embeddings", "layer_0/kernel", "layer_0/bias", "layer_1/kernel", "layer_10/kernel", "pooler/kernel")


def module_of(*names):
    return SimpleNamespace(trainable_variables=[tf.Variable(1.0, name=name) for name in names])


def chosen(module, training, count=1):
    return [variable.name.split(":")[0] for variable in trained_variables("handle", module, training, count)]


def test_modes():
    module = module_of(*NAMES)
    assert chosen(module, "frozen") == []
    assert chosen(module, "full") == list(NAMES)
    assert chosen(module, "top_layers") == ["layer_10/kernel", "pooler/kernel"]
    assert chosen(module, "top_layers", 3) == list(NAMES[1:])


def test_what_cannot_be_trained_is_named():
    with pytest.raises(
        TfrecError, match="`trainable_layers` is 4, but the variables of the module handle name 3 blocks"
    ):
        chosen(module_of(*NAMES), "top_layers", 4)
    with pytest.raises(TfrecError, match="The module handle has no trainable variables"):
        chosen(SimpleNamespace(), "full")


@pytest.mark.parametrize(
    ("name", "num_variables", "first"),
    [("minilm_en_uncased_L-6_H-384_A-12", 16, "encoder/layer_5/"), ("squeezenet_v11_feature_vector", 6, "fire9/")],
)
def test_pretrained_modules(shared, name, num_variables, first):
    names = chosen(load_module(str(shared / "hub" / name)), "top_layers")
    assert len(names) == num_variables
    assert all(name.startswith(first) for name in names)
