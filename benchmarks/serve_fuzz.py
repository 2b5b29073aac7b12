"""Hostile requests against the embedded server: it must not crash, hang, leak memory or show its insides.

    python benchmarks/serve_fuzz.py [--minutes 10] [--seed 0]

Starts `python -m serving.server` on a small model and sends, from several threads, REST requests that hypothesis makes (any
JSON in any place, deep nesting, broken UTF-8, wrong lengths, path escapes), gRPC messages (random tensors, negative and huge
dimensions, truncated and random bytes), large bodies, and connections that send a byte at a time. Between them a good request
must be answered rightly within `PATIENCE_SECONDS`. Fails where the process ends, a good request is not answered, an answer is
a 5xx that says more than it should, or memory keeps growing: the median of the last quarter may be `GROWTH` above that of the
second.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc
import numpy as np
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from serve_process import ServerProcess

from serving.remote import wire

PATIENCE_SECONDS = 60.0
GROWTH = 1.15
_GROWTH_BYTES = 64 << 20  # below this, it is noise of the allocator
_ALLOWED_5XX = (501, 503, 504)
_LARGE_BYTES = 100 << 20
_EXAMPLES = 20

_SAVE = """
import sys
import tensorflow as tf
half = tf.function(lambda x: {"y": x * 0.5 + 1.0}, [tf.TensorSpec([None], tf.float32, "x")])
join = tf.function(
    lambda text, k: {"joined": tf.strings.join([text, "!"]), "k": k},
    [tf.TensorSpec([None, None], tf.string, "text"), tf.TensorSpec([None], tf.int32, "k")],
)
tf.saved_model.save(tf.Module(), sys.argv[1], {"serving_default": half, "join": join})
"""


class Target:
    """The server under fire.

    Args:
        server: it.
        log: its output.
    """

    def __init__(self, server: ServerProcess, log: Path) -> None:
        self.server, self.log = server, log
        self.rest, self.grpc = server.rest.removeprefix("http://"), server.grpc.removeprefix("grpc://")

    def check(self) -> None:
        """A good request is answered rightly and in time."""
        assert self.server.process is not None
        code = self.server.process.poll()
        assert code is None, f"the server ended with {code}"
        url = f"{self.server.rest}/v1/models/m:predict"
        answer = requests.post(url, json={"instances": [1.0, 2.0]}, timeout=PATIENCE_SECONDS)
        assert answer.json() == {"predictions": [1.5, 2.0]}, answer.text

    def memory_bytes(self) -> int:
        """Memory that it holds."""
        assert self.server.process is not None
        status = Path(f"/proc/{self.server.process.pid}/statm").read_text()
        return int(status.split()[1]) * 4096


@contextmanager
def running() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-c", _SAVE, str(folder / "m" / "1")], check=True, capture_output=True)
        with ServerProcess(folder / "m", "m", folder / "server.log") as server:
            server.start()
            yield Target(server, folder / "server.log")


# ------------------------------------------------------------------------------------------------ REST

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_ANY = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
_NAMES = st.sampled_from(["x", "text", "k", "b64", ""]) | st.text(max_size=4)
_INPUTS = st.dictionaries(_NAMES, _ANY, max_size=4) | st.lists(_ANY, max_size=5)
_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "inputs": _INPUTS,
        "instances": _INPUTS,
        "signature_name": st.sampled_from(["join", "serving_default", "no"]) | _ANY,
        "examples": _INPUTS,
        "context": _ANY,
    },
)
_TEXTS = st.one_of(
    _BODIES.map(lambda body: json.dumps(body).encode()),
    _ANY.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=200),
    st.tuples(_BODIES, st.integers(0, 200)).map(lambda pair: json.dumps(pair[0]).encode()[: pair[1]]),
)
_PATHS = st.one_of(
    st.sampled_from(
        ["m:predict", "m:classify", "m:regress", "m/versions/1:predict", "m/labels/x:predict", "m/metadata"]
    ),
    st.sampled_from(["..%2F..%2Fetc%2Fpasswd:predict", "%2Fetc:predict", "../../etc", "m/versions/-1", "m%00:predict"]),
    st.sampled_from([f"m/versions/{10**30}:predict", "m" * 5000, "%FF%FE:predict", "m/versions/1/2/3"]),
)
_FIRST_USER = Path("/etc/passwd").read_text().partition("\n")[0]
_HEADERS = st.dictionaries(
    st.sampled_from(["Content-Encoding", "Content-Type", "Expect", "Origin", "Range"]),
    st.sampled_from(["gzip", "identity", "application/json", "100-continue", "x" * 100, "http://a"]),
    max_size=2,
)


def ask_rest(target: Target, body: bytes, path: str, headers: dict[str, str]) -> str:
    """Sends one body; returns what came of it."""
    try:
        url = f"{target.server.rest}/v1/models/{path}"
        answer = requests.post(url, data=body, headers=headers, timeout=PATIENCE_SECONDS)
    except requests.ConnectionError:
        return "REST: closed"
    assert answer.status_code < 500 or answer.status_code in _ALLOWED_5XX, f"{answer.status_code}: {answer.text[:500]}"
    assert "Traceback" not in answer.text, answer.text[:500]
    assert _FIRST_USER not in answer.text, answer.text[:500]
    return f"REST: {answer.status_code}"


def special_bodies(draw: random.Random) -> bytes:
    """Bodies that hypothesis would not come upon."""
    depth = draw.choice([100, 10_000, 1_000_000])
    return draw.choice(
        [
            lambda: b'{"instances": ' + b"[" * depth,
            lambda: b'{"instances": ' + b"[" * depth + b"1" + b"]" * depth + b"}",
            lambda: b'{"a": ' * depth + b"1" + b"}" * depth,
            lambda: b'{"instances": [' + b"9" * 400 + b"]}",
            lambda: b'{"instances": [1e' + b"9" * draw.randrange(1, 40) + b"]}",
            lambda: b'{"instances": [' + b"1," * 500_000 + b"1]}",
            lambda: b'{"instances": ["' + b"\\ud800" * 1000 + b'"]}',
            lambda: b'{"instances": [{"b64": "' + b"A" * 100_000 + b'"}]}',
        ]
    )()


# ------------------------------------------------------------------------------------------------ gRPC

_SIZES = [0, 1, 2, 3, -1, -(2**62), 2**31, 2**40, 2**62]
_METHODS = [
    f"PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")
]
_METHODS += ["ModelService/GetModelStatus", "ModelService/HandleReloadConfigRequest"]


def random_message(draw: random.Random) -> bytes:
    """A predict request, whole, truncated, with bytes changed, or noise."""
    kind = draw.random()
    if kind < 0.1:
        return draw.randbytes(draw.randrange(300))
    request = wire.PredictRequest()
    spec = request.model_spec
    spec.name = draw.choice(["m", "m", "m", "no", "../../etc", "\x00", "m" * 10_000])
    spec.signature_name = draw.choice(["", "join", "no"])
    if draw.random() < 0.2:
        spec.version.value = draw.choice([1, 2, -1, 2**62])
    for name in draw.sample(["x", "text", "k", "", "z"], draw.randrange(4)):
        _fill(request.tensors[name], draw)
    data = bytearray(request.SerializeToString())
    if kind < 0.4 and data:
        del data[draw.randrange(len(data)) :]
    for _ in range(draw.choice([0, 0, 0, 1, 5]) if data else 0):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _fill(tensor: object, draw: random.Random) -> None:
    tensor.dtype = draw.choice([1, 1, 7, 3, 0, 9, 10, 14, 20, 21, 99, -5])
    for _ in range(draw.choice([0, 1, 1, 2, 3, 40, 300])):
        tensor.tensor_shape.dim.add(size=draw.choice(_SIZES))
    count = draw.choice([0, 1, 2, 6])
    tensor.float_val.extend([draw.choice([0.0, 1.5, np.inf, np.nan])] * count)
    tensor.string_val.extend([draw.randbytes(draw.randrange(9))] * count)
    tensor.int_val.extend([draw.randrange(-5, 9)] * count)
    if draw.random() < 0.2:
        tensor.tensor_content = draw.randbytes(draw.randrange(40))


def ask_grpc(channel: grpc.Channel, method: str, data: bytes) -> str:
    """Sends one message; returns what came of it."""
    call = channel.unary_unary(f"/tensorflow.serving.{method}").future(data, timeout=PATIENCE_SECONDS)
    code, details = call.code(), call.details() or ""  # waits
    assert "Traceback" not in details, details
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} hangs"
    return f"gRPC: {code.name}"


# ----------------------------------------------------------------------------------------------- threads


class Fuzzer:
    """Threads that send until time is over or something is wrong.

    Args:
        target: the server.
        seconds: how long.
        number: of the random sequence.
    """

    def __init__(self, target: Target, seconds: float, number: int) -> None:
        self._target, self._seed = target, number
        self._end = time.monotonic() + seconds
        self._failed = threading.Event()
        self.failures: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.memory: list[int] = []

    def run(self) -> None:
        """Returns when time is over, or after the first failure."""
        kinds = (self._rest, self._special, self._grpc, self._large, self._slow, self._watch)
        threads = [threading.Thread(target=self._repeat, args=(kind, number)) for number, kind in enumerate(kinds)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _over(self) -> bool:
        return self._failed.is_set() or time.monotonic() > self._end

    def _repeat(self, kind: Callable[[random.Random], None], number: int) -> None:
        draw = random.Random(1000 * self._seed + number)
        while not self._over():
            try:
                kind(draw)
            except Exception:
                self.failures.append(f"{kind.__name__}: {traceback.format_exc()[-2000:]}")
                self._failed.set()

    def _rest(self, draw: random.Random) -> None:
        @seed(draw.randrange(2**31))
        @settings(
            max_examples=_EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(_TEXTS, _PATHS, _HEADERS)
        def send(body: bytes, path: str, headers: dict[str, str]) -> None:
            self.outcomes[ask_rest(self._target, body, path, headers)] += 1

        send()

    def _special(self, draw: random.Random) -> None:
        self.outcomes[ask_rest(self._target, special_bodies(draw), "m:predict", {})] += 1

    def _grpc(self, draw: random.Random) -> None:
        with grpc.insecure_channel(self._target.grpc) as channel:
            for _ in range(100):
                if self._over():
                    return
                method = draw.choice(_METHODS[:-1]) if draw.random() < 0.2 else _METHODS[0]
                self.outcomes[ask_grpc(channel, method, random_message(draw))] += 1

    def _large(self, draw: random.Random) -> None:
        """100 MB over REST, announced or not, and over gRPC."""
        if draw.random() < 0.5:
            chunks = (b" " * (1 << 20) for _ in range(_LARGE_BYTES >> 20))
            self.outcomes[ask_rest(self._target, chunks, "m:predict", {})] += 1  # type: ignore[arg-type]
        else:
            options = [("grpc.max_send_message_length", -1)]
            with grpc.insecure_channel(self._target.grpc, options) as channel:
                self.outcomes[ask_grpc(channel, _METHODS[0], b"\x00" * _LARGE_BYTES)] += 1
        time.sleep(1)

    def _slow(self, draw: random.Random) -> None:
        """Connections that send a byte now and then, or nothing, or leave in the middle."""
        head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
        connections = []
        for _ in range(20):
            with suppress(OSError):
                port = draw.choice([self._target.rest, self._target.grpc]).rpartition(":")[2]
                connection = socket.create_connection(("127.0.0.1", int(port)), 10)
                connection.sendall(head[: draw.randrange(len(head))])
                connections.append(connection)
        for _ in range(5):
            time.sleep(0.5)
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(b"a")
        for connection in connections:
            connection.close()
        self.outcomes["slow connections"] += len(connections)

    def _watch(self, _: random.Random) -> None:
        self._target.check()
        self.memory.append(self._target.memory_bytes())
        time.sleep(0.5)

    def growth(self) -> str:
        """What is wrong with the memory; empty if nothing."""
        quarter = len(self.memory) // 4
        if not quarter:
            return ""
        before, after = (
            float(np.median(part)) for part in (self.memory[quarter : 2 * quarter], self.memory[-quarter:])
        )
        is_flat = after < before * GROWTH or after - before < _GROWTH_BYTES
        return "" if is_flat else f"memory grew from {before / 2**20:.0f} to {after / 2**20:.0f} MiB"


def fuzz(minutes: float, number: int) -> Fuzzer:
    """Fuzzes a fresh server.

    Raises:
        AssertionError: Saying what was wrong.
    """
    with running() as target:
        fuzzer = Fuzzer(target, minutes * 60, number)
        fuzzer.run()
        problems = [*fuzzer.failures, fuzzer.growth()]
        if not fuzzer.failures:
            target.check()
        log = target.log.read_text(errors="replace")
        problems.append(
            "the log has a traceback:\n" + log[log.index("Traceback") :][:2000] if "Traceback" in log else ""
        )
    assert not any(problems), "\n".join(filter(None, problems))
    return fuzzer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fuzzer = fuzz(options.minutes, options.seed)
    for outcome, count in sorted(fuzzer.outcomes.items()):
        print(f"{count:8,} {outcome}")
    first, *_, last = memory = np.array(fuzzer.memory) / 2**20
    print(f"{len(memory):,} good requests between them, all answered")
    print(f"memory {first:.0f} MiB at first, {last:.0f} MiB at last, {memory.max():.0f} MiB at most")


if __name__ == "__main__":
    main()
