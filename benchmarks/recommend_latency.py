"""Latency of `recommend`: one request at a time, in this process by stage, and through the embedded server over gRPC.

    python benchmarks/recommend_latency.py [--videos 1000000] [--candidates 500] [--k 20] [--calls 300]

The models are those of a default run, with random weights: latency does not depend on what they learned. Embeddings lie around
4 times as many centres as the root of the number of videos, and the leaves of the portable index are these clusters, since the
time of a search depends on the sizes of leaves and not on who found them. Each user has watched 40 videos of a few clusters.

Besides the time on the clock, which other load on the machine moves, the CPU time of the calls in this process is printed.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tfrec  # noqa: F401  (before TensorFlow)

import tensorflow as tf  # isort: skip

from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfrec.config import ExportConfig, RankingConfig, RetrievalConfig
from tfrec.console import console
from tfrec.data.catalog import catalog_of_ids
from tfrec.data.input_pipeline import HistoryLog, RetrievalBatches
from tfrec.data.schema import Dataset, FeatureColumns, Interactions, Part, Users
from tfrec.export.log_requests import tensors
from tfrec.export.recommender import Recommender, ServingModel, save_recommender
from tfrec.export.request import QUERY_SPECS, RawRequest
from tfrec.features.content import ContentFeatures
from tfrec.index.partition import Partition
from tfrec.index.portable import PortableIndex
from tfrec.index.tune import LEAVES_PER_ROOT, leaves_that_hold
from tfrec.models.ranking import RankingModel
from tfrec.models.retrieval import RetrievalModel

DIM, HISTORY, NUM_USERS = 64, 40, 1000
LEAVES_SEARCHED = 15
NUM_REQUESTS = 64
MAX_MESSAGE = 64 << 20

Requests = list[dict[str, NDArray[Any]]]


def platform(num_videos: int, seed: int = 0) -> Dataset:
    """A catalogue of ids, and a log just long enough to build the models on."""
    draw, num_events = np.random.default_rng(seed), 50 * NUM_USERS
    user = np.sort(draw.integers(NUM_USERS, size=num_events)).astype(np.int32)
    video = draw.integers(num_videos, size=num_events).astype(np.int32)
    labels = {name: draw.integers(2, size=num_events).astype(np.int8) for name in ("finish", "like")}
    labels["click"] = np.ones(num_events, np.int8)
    part = np.zeros(num_events, np.int8)
    log = Interactions(user, video, 1_700_000_000 + np.arange(num_events), labels, part, NUM_USERS, num_videos)
    users = Users(np.array([f"u{row}" for row in range(NUM_USERS)], object), FeatureColumns.none())
    videos = catalog_of_ids(np.array([f"v{row}" for row in range(num_videos)], object))
    return Dataset("random", Path(), users, videos, log, {})


def clusters(num_videos: int, seed: int = 1) -> tuple[NDArray[np.float32], Partition]:
    """Embeddings around centres, and the clusters as leaves."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((round(LEAVES_PER_ROOT * num_videos**0.5), DIM), np.float32) / DIM**0.5
    leaf = draw.integers(len(centres), size=num_videos).astype(np.int32)
    vectors = draw.standard_normal((num_videos, DIM), np.float32)
    vectors *= 0.7 / DIM**0.5
    vectors += centres[leaf]
    return vectors, Partition(centres, leaf)


def make_recommender(
    dataset: Dataset, leaves: Partition, embeddings: NDArray[np.float32], candidates: int
) -> Recommender:
    batches = RetrievalBatches(dataset.interactions, 50, 64, 64, 0, 1)
    retrieval = RetrievalModel(RetrievalConfig(), dataset, ContentFeatures({}, {}), batches)
    ranking = RankingModel(RankingConfig(), dataset, retrieval, embeddings)
    log = HistoryLog.of(dataset.interactions, (Part.TRAIN,), 50)
    query = log.latest(tf.constant([0]), tf.constant([1], tf.int64))
    events = tf.gather(embeddings, tf.maximum(query.history, 0))
    ranking.probabilities(query, retrieval.query_tower(query, events), events, tf.zeros([1, 2], tf.int32))
    searched = max(LEAVES_SEARCHED, leaves_that_hold(leaves, candidates + HISTORY))
    return Recommender(
        ServingModel(
            user_ids=dataset.users.ids,
            video_ids=dataset.videos.ids,
            query_tower=retrieval.query_tower,
            video_embeddings=ranking.video_embeddings,
            history_embeddings=ranking.history_embeddings,
            is_cold=dataset.interactions.train_counts == 0,
            ranking=ranking,
            index=PortableIndex(embeddings, leaves, searched),
            history_length=50,
            log_end=int(dataset.interactions.timestamp.max()),
            temperature=1.0,
            config=ExportConfig(num_candidates=candidates),
        )
    )


def make_requests(dataset: Dataset, leaves: Partition, k: int, seed: int = 2) -> Requests:
    """One request each, of users who watch videos of three clusters."""
    draw = np.random.default_rng(seed)
    by_leaf, requests = np.argsort(leaves.leaf, kind="stable"), []
    ends = np.cumsum(leaves.sizes)
    for number in range(NUM_REQUESTS):
        leaf = draw.integers(len(ends), size=3)
        watched = np.concatenate([by_leaf[ends[one] - leaves.sizes[one] : ends[one]] for one in leaf])
        history = dataset.videos.ids[draw.choice(watched, HISTORY)][None]
        now = 1_700_100_000
        requests.append(
            {
                "user_id": dataset.users.ids[number : number + 1],
                "history": history,
                "history_timestamp": now - np.arange(HISTORY, 0, -1)[None] * 3600,
                "timestamp": np.array([now]),
                "exclude": np.full((1, 1), "", object),
                "k": np.array([k], np.int32),
            }
        )
    return requests


def stages(recommender: Recommender) -> dict[str, Callable[..., Any]]:
    """`recommend`, cut off after each of its stages."""

    def traced(last: int) -> Callable[..., Any]:
        def call(*inputs: tf.Tensor) -> Any:
            embedded = recommender._embed(RawRequest(*inputs))
            if last == 0:
                return embedded.embeddings, embedded.request.filters
            candidates = recommender._nearest(embedded)
            if last == 1:
                return candidates
            return recommender._score(embedded, candidates, tf.constant([recommender._weights]))

        return tf.function(call, QUERY_SPECS, autograph=False).get_concrete_function()

    names = ("embed the request", "+ retrieve", "+ rank")
    return {name: traced(last) for last, name in enumerate(names)} | {
        "+ slate: recommend": recommender.functions["recommend"]
    }


def measure(calls: dict[str, Callable[[int], Any]], num_calls: int) -> None:
    """The contenders take turns."""
    for call in calls.values():
        for number in range(3):
            call(number)
    clock: dict[str, list[float]] = {name: [] for name in calls}
    cpu = dict.fromkeys(calls, 0.0)
    for number in range(num_calls):
        for name, call in calls.items():
            started, used = time.perf_counter(), time.process_time()
            call(number)
            clock[name].append((time.perf_counter() - started) * 1000)
            cpu[name] += (time.process_time() - used) * 1000
    table = Table("ms per call", "p50", "p90", "p99", "CPU")
    for name, values in clock.items():
        table.add_row(name, *(f"{np.percentile(values, q):.2f}" for q in (50, 90, 99)), f"{cpu[name] / num_calls:.2f}")
    console.print(table)


@contextmanager
def served(model: Path) -> Iterator[grpc.Channel]:
    """A server process, ready."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    flags = [
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        "--model_name=recommender",
        f"--model_base_path={model}",
    ]
    process = subprocess.Popen([sys.executable, "-m", "serving.server", *flags])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{ports[0]}", [("grpc.max_send_message_length", MAX_MESSAGE)]) as channel:
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "recommender"
            status = model_service_pb2_grpc.ModelServiceStub(channel)
            status.GetModelStatus(request, wait_for_ready=True, timeout=900)
            yield channel
    finally:
        process.terminate()
        process.wait(60)


def predict_requests(requests: Requests) -> list[predict_pb2.PredictRequest]:
    messages = []
    for inputs in requests:
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "recommender"
        for name, values in tensors(inputs).items():
            message.inputs[name].CopyFrom(tf.make_tensor_proto(values.numpy(), values.dtype, values.shape))
        messages.append(message)
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--no-server", action="store_true", help="in this process alone")
    arguments = parser.parse_args()
    dataset = platform(arguments.videos)
    embeddings, leaves = clusters(arguments.videos)
    recommender = make_recommender(dataset, leaves, embeddings, arguments.candidates)
    requests = make_requests(dataset, leaves, arguments.k)
    arrays = [[values[spec.name] for spec in QUERY_SPECS] for values in map(tensors, requests)]
    console.print(f"{arguments.videos:,} videos, {arguments.candidates} ranked, {arguments.k} slots, batch 1")
    in_process = {
        name: lambda number, call=call: call(*arrays[number % NUM_REQUESTS])
        for name, call in stages(recommender).items()
    }
    measure(in_process, arguments.calls)
    if arguments.no_server:
        return
    with tempfile.TemporaryDirectory() as folder:
        save_recommender(recommender, Path(folder, "1"))
        with served(Path(folder)) as channel:
            stub, messages = prediction_service_pb2_grpc.PredictionServiceStub(channel), predict_requests(requests)
            whole = in_process["+ slate: recommend"]
            remote = lambda number: stub.Predict(messages[number % NUM_REQUESTS], timeout=60)  # noqa: E731
            measure({"recommend, in process": whole, "recommend, server, gRPC": remote}, arguments.calls)


if __name__ == "__main__":
    main()
