"""Text encoders: the project's small pair, and a pretrained one."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub

from tfrec.config import TextConfig
from tfrec.encoders.small_bert import build_small_bert, learn_vocabulary, split_words
from tfrec.encoders.text import TextEncoder
from tfrec.errors import TfrecError

CATS = ["a small cat sleeps", "the cat and the kitten", "kitten sleeps on a sofa", "a cat purrs", "small kitten purrs"]
CARS = ["a fast car drives", "the car and the truck", "truck drives on a road", "a car honks", "fast truck honks"]
CHINESE = ["一只小猫在睡觉", "小猫和大猫", "小猫叫", "汽车在路上开", "快车和卡车", "卡车在路上"]
NAMES = ("input_word_ids", "input_mask", "input_type_ids")
TEXTS = [*CATS, *CARS, *CHINESE] * 2


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tuple(map(str, build_small_bert(tmp_path_factory.mktemp("bert"), TEXTS)))


def encoder_of(pair, **options) -> TextEncoder:
    return TextEncoder(*pair, TextConfig(*pair, **options))


def test_words_are_split_as_bert_does():
    text = tf.constant(["Élan, VITAL—東京タワー\u0007 ２x", "", b"bad \xff\xfe utf"])
    words = [[word.decode() for word in row.numpy()] for row in split_words(text)]
    assert words[0] == ["elan", ",", "vital", "—", "東", "京", "タ", "ワ", "ー", "2x"]
    assert words[1:] == [[], ["bad", "utf"]]


def test_vocabulary_keeps_words_beginnings_and_characters():
    vocabulary = learn_vocabulary(TEXTS)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"kitten", "kitt*", "truck", "猫", "车", "a"} <= set(vocabulary)
    assert len(set(vocabulary)) == len(vocabulary)


def test_vectors_know_what_goes_together(pair):
    vectors = encoder_of(pair).encode(["cat", "kitten", "car", "truck", "小猫", "卡车", "汽车"])
    assert vectors.shape == (7, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-3)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 3]
    assert near[2, 3] > near[1, 3]
    assert near[5, 6] > near[4, 5]


def test_batches_and_padding_change_nothing(pair):
    encoder = encoder_of(pair, batch_size=3)
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(encoder(tf.constant(TEXTS)), together, atol=1e-5)


def test_empty_unknown_and_very_long_texts(pair):
    vectors = encoder_of(pair, max_tokens=16).encode(["", "🙂🙂 ξένος", "cat " * 5000])
    assert np.isfinite(vectors).all()
    assert encoder_of(pair).encode([]).shape == (0, 128)


def test_same_texts_same_pair(pair, tmp_path):
    again = tuple(map(str, build_small_bert(tmp_path, TEXTS)))
    np.testing.assert_array_equal(encoder_of(again).encode(TEXTS), encoder_of(pair).encode(TEXTS))
    other = tuple(map(str, build_small_bert(tmp_path / "other", TEXTS[:4])))
    assert encoder_of(other).version != encoder_of(pair).version


def test_versions_tell_settings_apart(pair):
    versions = {encoder_of(pair, **options).version for options in ({}, {"max_tokens": 8}, {"pooling": "mean"})}
    assert len(versions) == 3


def test_follows_the_convention_and_can_be_fine_tuned(pair):
    preprocess = hub.KerasLayer(pair[0])
    packed = preprocess(tf.constant(["a cat", "小猫"]))
    assert set(packed) == {"input_word_ids", "input_mask", "input_type_ids"}
    assert {tuple(values.shape) for values in packed.values()} == {(2, 128)}
    np.testing.assert_array_equal(tf.reduce_sum(packed["input_mask"], 1), [4, 4])
    text = tf.keras.layers.Input([], dtype=tf.string)
    encoder = hub.KerasLayer(pair[1], trainable=True)
    output = tf.keras.layers.Dense(1, "sigmoid")(encoder(preprocess(text))["pooled_output"])
    model = tf.keras.Model(text, output)
    model.compile(tf.keras.optimizers.Adam(3e-4), "binary_crossentropy")
    before = [weight.numpy() for weight in encoder.trainable_weights]
    labels = np.array([1.0] * len(CATS) + [0.0] * len(CARS))
    losses = model.fit(tf.constant(CATS + CARS), labels, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert len(before) > 10
    changed = [np.any(old != new.numpy()) for old, new in zip(before, encoder.trainable_weights, strict=True)]
    assert all(changed)


def test_swapped_modules_are_named(pair):
    takes = r"does not take strings, as a preprocessor must; it takes input_mask int32 \[None, None\]"
    with pytest.raises(TfrecError, match=takes):
        TextEncoder(pair[1], pair[0], TextConfig(*pair))


def test_more_tokens_than_the_encoder_has_places_are_refused(shared):
    hub_folder = shared / "hub"
    pair = (hub_folder / "minilm_en_uncased_preprocess_core_ops", hub_folder / "minilm_en_uncased_L-6_H-384_A-12")
    with pytest.raises(TfrecError, match=r"L-6_H-384_A-12 does not take texts of 600 tokens.*; it says: .*512"):
        encoder_of(tuple(map(str, pair)), max_tokens=600)
    with pytest.raises(TfrecError, match="`max_tokens` must be 3 or more"):
        TextConfig(max_tokens=2)


def test_an_encoder_of_another_kind_is_refused(pair, tmp_path):
    class Wrong(tf.Module):
        @tf.function
        def __call__(self, inputs):
            return inputs["input_word_ids"]

    wrong = Wrong()
    wrong.variable = tf.Variable(1.0)
    wrong.__call__.get_concrete_function({name: tf.TensorSpec([None, None], tf.int32, name) for name in NAMES})
    tf.saved_model.save(wrong, str(tmp_path / "wrong"))
    with pytest.raises(TfrecError, match=r"wrong returns int32 \[1, 128\] as output; the tower needs a dict"):
        TextEncoder(pair[0], str(tmp_path / "wrong"), TextConfig(*pair))


def test_mean_pooling_needs_the_tokens(pair, tmp_path):
    class Pooled(tf.Module):
        @tf.function(input_signature=[{name: tf.TensorSpec([None, None], tf.int32, name) for name in NAMES}])
        def __call__(self, inputs):
            return {"pooled_output": tf.cast(inputs["input_mask"], tf.float32)}

    handle = str(tmp_path / "pooled")
    tf.saved_model.save(Pooled(), handle)
    with pytest.raises(TfrecError, match="returns a dict of pooled_output as output; the tower needs a dict with seq"):
        TextEncoder(pair[0], handle, TextConfig(pair[0], handle, pooling="mean"))


@pytest.mark.parametrize("preprocessor", ["minilm_en_uncased_preprocess", "minilm_en_uncased_preprocess_core_ops"])
def test_pretrained_pair_gives_the_reference_embeddings(shared, preprocessor):
    pretrained = (str(shared / "hub" / preprocessor), str(shared / "hub" / "minilm_en_uncased_L-6_H-384_A-12"))
    golden = np.load(shared / "hub" / "build" / "golden_text.npz")
    sentences = json.loads(golden["sentences_json"].tobytes())
    vectors = encoder_of(pretrained, max_tokens=128).encode(sentences)
    np.testing.assert_allclose(vectors, golden["embedding"], atol=1e-4)
