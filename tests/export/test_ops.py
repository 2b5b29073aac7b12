"""What may be in an export, tried on real SavedModels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text

from tfrec.errors import TfrecError
from tfrec.export.ops import TF_TEXT_OPS, assert_stock, foreign, graph_ops
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex
from tfrec.index.scann import ScannIndex


def test_the_recommender_is_stock(saved: Path) -> None:
    assert_stock(saved)
    ops = graph_ops(saved)
    assert {"TopKV2", "LookupTableFindV2", "LowerBound"} <= ops
    assert not {"PyFunc", "EagerPyFunc"} & ops


def test_the_portable_index_is_stock(model: ServingModel, tmp_path: Path) -> None:
    embeddings = model.video_embeddings.numpy()
    index = PortableIndex(embeddings, partition(embeddings, 6, 0), 3)
    save_recommender(Recommender(replace(model, index=index)), tmp_path)
    assert_stock(tmp_path)


def test_the_native_index_is_not_stock_but_serves_the_same_slates(
    model: ServingModel, recommender: Recommender, tmp_path: Path
) -> None:
    native = Recommender(replace(model, index=ScannIndex(model.video_embeddings.numpy())))
    save_recommender(native, tmp_path)
    with pytest.raises(TfrecError, match=r"Scann>ScannSearchBatched.*stock=False"):
        assert_stock(tmp_path)
    request = {
        "user_id": tf.constant(["u3"]), "history": tf.constant([["视频 4", "视频 9"]]), "exclude": tf.constant([["视频 1"]]),
        "history_timestamp": tf.constant([[1_701_000_000, 1_701_500_000]], tf.int64),
        "timestamp": tf.constant([1_702_000_000], tf.int64), "k": tf.constant([10]),
    }  # fmt: skip
    answer = tf.saved_model.load(str(tmp_path)).signatures["recommend"](**request)
    expected = recommender.functions["recommend"](**request)
    np.testing.assert_array_equal(answer["video_id"], expected["video_id"])


def test_ops_inside_functions_are_found_and_python_is_refused(tmp_path: Path) -> None:
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def split(texts: tf.Tensor) -> tf.Tensor:
        words = tf.map_fn(lambda text: tf_text.normalize_utf8(text[None])[0], texts)
        return tf.py_function(lambda values: values, [words], tf.string)

    module.split = split
    tf.saved_model.save(module, str(tmp_path))
    assert "NormalizeUTF8" in graph_ops(tmp_path)
    assert foreign(graph_ops(tmp_path)) == {"EagerPyFunc"}


def test_the_text_ops_exist_and_are_not_tensorflows() -> None:
    """Asked of a process that has loaded TensorFlow alone, and of this one, which has loaded TF-Text."""
    code = "import tensorflow as tf; print(*(name for name in dir(tf.raw_ops)))"
    core = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not TF_TEXT_OPS & set(core)
    assert {"MatMul", "StatefulPartitionedCall", "RestoreV2"} <= set(core)
    from tensorflow.python.framework import op_def_registry

    assert all(op_def_registry.get(name) is not None for name in TF_TEXT_OPS)


def test_a_trimmer_that_servers_lack_is_refused(tmp_path: Path) -> None:
    module = tf.Module()

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def trim(tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf_text.RoundRobinTrimmer(4).trim([tokens])[0]

    module.trim = trim
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(TfrecError, match="TFText>RoundRobinTrim"):
        assert_stock(tmp_path)
