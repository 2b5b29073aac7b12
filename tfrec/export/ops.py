"""Which ops an exported graph needs, and whether a stock TensorFlow Serving 2.16 has them.

Such a server registers the ops of TensorFlow itself and those of TF-Text that it links in. Ops of other libraries (ScaNN,
tensorflow-io, newer TF-Text) load in the Python process that made the model, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import kernels

from tfrec.errors import TfrecError

TF_TEXT_OPS = frozenset(
    {
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TFText>BoiseTagsToOffsets",
        "TFText>ByteSplitByOffsets",
        "TFText>ByteSplitWithOffsets",
        "TFText>FastSentencepieceDetokenize",
        "TFText>FastSentencepieceTokenize",
        "TFText>FastWordpieceDetokenize",
        "TFText>NgramsStringJoin",
        "TFText>OffsetsToBoiseTags",
        "TFText>PhraseDetokenize",
        "TFText>WhitespaceTokenizeWithOffsetsV2",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    }
)
"""TF-Text ops of TensorFlow Serving 2.16.1: it links `//tensorflow_text:ops_lib` (tensorflow_serving/model_servers/BUILD) of
TF-Text 2.12.1 (tensorflow_serving/workspace.bzl), which lacks the trimmers (`TFText>RoundRobinTrim`) and `TFText>Utf8Binarize`
that later releases have."""

PYTHON_OPS = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
"""TensorFlow's, but a server has no Python to run them."""


def graph_ops(saved_model: Path) -> set[str]:
    """Names of all ops in the graphs and functions of a SavedModel.

    Args:
        saved_model: its folder.
    """
    model = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    return set().union(*(_ops(meta_graph.graph_def) for meta_graph in model.meta_graphs))


def function_ops(function: tf.types.experimental.ConcreteFunction) -> set[str]:
    """Names of all ops in a function and those that it calls."""
    return _ops(function.graph.as_graph_def())


def _ops(graph: graph_pb2.GraphDef) -> set[str]:
    functions = {function.signature.name for function in graph.library.function}
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return {node.op for body in bodies for node in body} - functions


def foreign(ops: Set[str]) -> set[str]:
    """Those of `ops` that a stock TensorFlow Serving 2.16 does not have, or cannot run."""
    # `tf.raw_ops` holds the ops of TensorFlow alone, whatever else this process has loaded.
    core = {op for op in dir(tf.raw_ops) if op not in PYTHON_OPS}
    return set(ops) - core - TF_TEXT_OPS


def without_gpu_kernel(ops: Set[str]) -> set[str]:
    """Those of `ops` that this TensorFlow has no GPU kernel for; a build without GPUs knows those of none."""
    listed = {op: kernels.get_registered_kernels_for_op(op).kernel for op in ops}
    return {op for op, found in listed.items() if not {kernel.device_type for kernel in found} & {"GPU", "DEFAULT"}}


def assert_stock(saved_model: Path) -> None:
    """Refuses a SavedModel that a stock TensorFlow Serving 2.16 cannot load.

    Raises:
        TfrecError: If an op is neither TensorFlow's nor among `TF_TEXT_OPS`, or needs Python.
    """
    lacking = foreign(graph_ops(saved_model))
    if lacking:
        raise TfrecError(
            f"{saved_model.name} uses ops that stock TensorFlow Serving 2.16 lacks: {', '.join(sorted(lacking))}. "
            "Publish it with `stock=False` for a server that has them, or choose an encoder or index without them."
        )
