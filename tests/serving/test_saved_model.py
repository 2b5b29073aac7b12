"""SavedModels that the embedded server loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.embedded.saved_model import SavedModel


class Lookup(tf.Module):
    """Numbers the words of a file."""

    def __init__(self, vocabulary: Path) -> None:
        words, numbers = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        source = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, words, tf.int64, numbers)
        self.table = tf.lookup.StaticHashTable(source, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def number(self, word: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": self.table.lookup(word)}


def test_a_model_finds_its_own_copy_of_a_vocabulary(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("cat\ndog\n")
    lookup = Lookup(vocabulary)
    tf.saved_model.save(lookup, str(tmp_path / "saved"), signatures=lookup.number)
    vocabulary.unlink()
    (tmp_path / "saved").rename(tmp_path / "1")
    model = SavedModel(tmp_path / "1", ["serve"], tf.compat.v1.ConfigProto())
    signature = model.signatures["serving_default"]
    words = np.array([b"dog", b"bird", b"cat"], object)
    (numbers,) = model.run({signature.inputs["word"]: words}, [signature.outputs["number"]], 0)
    assert numbers.tolist() == [1, -1, 0]
