"""The indexes behind a model server: searches over gRPC with the native ScaNN op, with its tree in stock ops, and exact.

    python benchmarks/index_served.py [--videos 1000000] [--spread 1.0] [--leaves-per-root 2]
    python benchmarks/index_served.py --save DIR --only portable exact     # only writes the model, for another server
    python benchmarks/index_served.py --server HOST:PORT --only ...        # asks a server that has it, under the name `indexes`

Embeddings, leaves and turns are those of `index.py`. A time is that of a call, from the request, which is written anew, to the
answer as a message, one at a time over one connection. What a call costs by itself meets all contenders alike and brings their
ratios nearer to 1; `no_search`, which gives back what it was sent, tells how much that is. Without `--server`, the embedded
server serves the model in a process of its own. A server without the ScaNN op cannot load a model with `native` in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from index import DIM, RECALL_TARGET, clustered, milliseconds, recall
from index_formulations import K, Matrix
from serve_process import ServerProcess
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfrec.console import console
from tfrec.index.exact import ExactIndex
from tfrec.index.partition import partition
from tfrec.index.portable import PortableIndex
from tfrec.index.scann import ScannIndex
from tfrec.index.tune import LEAVES_PER_ROOT, exact_neighbours, fewest_leaves

MODEL = "indexes"
KINDS = ("native", "portable", "exact")
NO_SEARCH = "no_search"


def save(
    folder: Path, embeddings: Matrix, queries: Matrix, nearest: NDArray[np.int32], options: argparse.Namespace
) -> None:
    """One SavedModel as version 1, whose signatures are the indexes."""
    leaves = partition(embeddings, round(options.leaves_per_root * options.videos**0.5))
    chosen = fewest_leaves(leaves, queries, nearest, RECALL_TARGET)
    console.print(f"{options.videos:,} x {DIM}, {len(leaves.centroids)} leaves, {chosen} searched")
    build = {
        "native": lambda: ScannIndex(embeddings, len(leaves.centroids), chosen),
        "portable": lambda: PortableIndex(embeddings, leaves, chosen),
        "exact": lambda: ExactIndex(embeddings),
    }
    module = tf.Module()
    module.indexes = {kind: build[kind]() for kind in options.only}
    specs = [tf.TensorSpec([None, DIM], tf.float32, "queries")]

    def signature(kind: str) -> tf.types.experimental.PolymorphicFunction:
        search = module.indexes[kind].search_graph
        return tf.function(lambda queries: search(queries, K)._asdict(), specs, autograph=False)

    no_search = tf.function(lambda queries: {"scores": queries, "rows": tf.zeros([1], tf.int32)}, specs)
    signatures = {kind: signature(kind) for kind in options.only}
    tf.saved_model.save(module, str(folder / "1"), {**signatures, NO_SEARCH: no_search})


class Server:
    """Asks one signature of the model after the other over one connection.

    Args:
        address: host and port.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def call(self, signature: str, queries: tf.Tensor) -> predict_pb2.PredictResponse:
        """The answer as a message."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = MODEL, signature
        request.inputs["queries"].CopyFrom(tf.make_tensor_proto(queries.numpy()))
        return self._stub.Predict(request, timeout=600)

    def search(self, signature: str, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores and rows."""
        outputs = self.call(signature, queries).outputs
        return tuple(tf.constant(tf.make_ndarray(outputs[name])) for name in ("scores", "rows"))


def compare(server: Server, kinds: list[str], queries: Matrix, nearest: NDArray[np.int32]) -> None:
    """A line per kind; ratios are to the first."""
    times = [
        milliseconds({kind: partial(server.call, kind) for kind in [*kinds, NO_SEARCH]}, queries, batch_size)
        for batch_size in (1, 32)
    ]
    table = Table("", "recall", "ms b1", "ratio", "ms/q b32", "ratio", title="over gRPC")
    for kind in [*kinds, NO_SEARCH]:
        found = f"{recall(partial(server.search, kind), queries, nearest):.4f}" if kind in kinds else ""
        cells = [
            cell
            for by_kind in times
            for cell in (f"{by_kind[kind][0]:.3f}", f"{by_kind[kind][0] / by_kind[kinds[0]][0]:.2f}")
        ]
        table.add_row(kind, found, *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--spread", type=float, default=1.0, help="noise around the cluster centres")
    parser.add_argument("--leaves-per-root", type=float, default=LEAVES_PER_ROOT, help="of the number of videos")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="the first is what ratios are to")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the model to DIR and end")
    parser.add_argument("--server", metavar="HOST:PORT", help="ask this one, over gRPC")
    options = parser.parse_args()
    embeddings, queries = clustered(options.videos, options.spread)
    nearest = exact_neighbours(embeddings, queries, K)
    if options.server:
        return compare(Server(options.server), options.only, queries, nearest)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.save or Path(scratch)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose memory is free while the server runs
            pool.submit(save, folder, embeddings, queries, nearest, options).result()
        if not options.save:
            with ServerProcess(folder, MODEL) as server:
                server.start()
                compare(Server(server.grpc.removeprefix("grpc://")), options.only, queries, nearest)


if __name__ == "__main__":
    main()
