"""What the embedded server costs: `recommend` over gRPC against the bare signature, turn by turn in one process.

    python benchmarks/serve_overhead.py [--models runs/demo/models] [--rounds 10] [--calls 100]

The server runs in this process with its default flags. The bare call is `tf.saved_model.load(...).signatures["recommend"]` on
tensors that exist already; the call over gRPC is a serialised request that exists already, one at a time on one connection.
Turns alternate, so that other load on the machine meets both alike; the ratio is the median over rounds of the ratios of p50.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import tfrec  # noqa: F401  (before TensorFlow)

import grpc  # isort: skip
import tensorflow as tf  # isort: skip

from serve_process import free_port

from serving.embedded.flags import Flags
from serving.embedded.lifecycle import serve_until
from serving.remote import calls, wire
from serving.server import SWITCH_SECONDS
from tfrec.console import console
from tfrec.export.log_requests import tensors
from tfrec.export.versions import versions


@contextmanager
def embedded_server(folder: Path) -> Iterator[int]:
    """Serves one model in this process; yields the gRPC port."""
    flags = Flags(port=free_port(), model_name="recommender", model_base_path=str(folder.resolve()))
    loop, stopping, opened = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve_until(stopping, flags, opened.set)))
    thread.start()
    opened.wait()
    try:
        yield flags.port
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


def p50_ms(call: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds) * 1000)


def measure(options: argparse.Namespace) -> None:
    folder = options.models / "recommender"
    call = calls.recommend([calls.Query("u00050", [f"v{row:04d}" for row in range(options.history)], k=options.k)])
    loaded = tf.saved_model.load(str(folder / str(versions(folder)[-1])))
    signature, inputs = loaded.signatures[call.signature], tensors(call.inputs)
    request = wire.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "recommender", call.signature
    for name, array in call.inputs.items():
        wire.write_tensor(request.tensors[name], array)
    body = request.SerializeToString()
    sys.setswitchinterval(SWITCH_SECONDS)
    with embedded_server(folder) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        turns = {"bare": lambda: signature(**inputs)["video_id"].numpy(), "grpc": lambda: predict(body)}
        for turn in turns.values():
            p50_ms(turn, options.calls)
        rounds = [{name: p50_ms(turn, options.calls) for name, turn in turns.items()} for _ in range(options.rounds)]
    ratio = np.median([round_["grpc"] / round_["bare"] for round_ in rounds])
    bare, over_grpc = (np.median([round_[name] for round_ in rounds]) for name in ("bare", "grpc"))
    console.print(f"p50 of `recommend`: bare signature {bare:.2f} ms, over gRPC {over_grpc:.2f} ms, ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("runs/demo/models"))
    for name, number in (("rounds", 10), ("calls", 100), ("history", 8), ("k", 10)):
        parser.add_argument(f"--{name}", type=int, default=number)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
