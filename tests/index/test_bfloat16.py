"""The index for GPUs beyond the contract."""

import numpy as np

from tfrec.export.ops import function_ops, without_gpu_kernel
from tfrec.index.bfloat16 import BFloat16Index
from tfrec.index.exact import ExactIndex

GRAPH_ONLY = {"NoOp", "Placeholder", "PartitionedCall", "StatefulPartitionedCall"}
"""Ops that the runtime handles itself, on any device."""


def test_every_op_of_a_search_has_a_gpu_kernel() -> None:
    index = BFloat16Index(np.ones([3, 2]))
    ops = function_ops(index.search_graph.get_concrete_function()) - GRAPH_ONLY
    assert "MatMul" in ops
    assert without_gpu_kernel(ops) == set()


def test_an_op_for_strings_has_none() -> None:
    assert without_gpu_kernel({"MatMul", "StringJoin"}) == {"StringJoin"}


def test_order_is_that_of_float32_where_bfloat16_cannot_tell() -> None:
    generator = np.random.default_rng(0)
    embeddings = 1 + 1e-3 * generator.normal(size=(500, 8)).astype(
        np.float32
    )  # the same number in bfloat16, nearly all
    queries = generator.normal(size=(20, 8)).astype(np.float32)
    index, exact = BFloat16Index(embeddings), ExactIndex(embeddings)
    found, expected = index.search(queries, 250), exact.search(queries, 250)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
