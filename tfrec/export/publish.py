"""Publication: a version of a model appears whole or not at all, whatever stops the process that publishes it.

A *version* is a folder named by a number inside the model's folder; a server loads the highest. It is built in a hidden
folder beside it, which servers pass over, checked there, flushed to disk, and renamed. Each holds a `manifest.json` with the
checksums of its files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec import __version__
from tfrec.errors import TfrecError
from tfrec.export.log_requests import SignatureCall, tensors
from tfrec.export.ops import assert_stock, foreign, graph_ops
from tfrec.export.warmup import replay_warmup
from tfrec.run import atomic_file, write_json

MANIFEST = "manifest.json"
_TOLERANCE = 1e-4
_HIDDEN = "."


class Answer(NamedTuple):
    """What the trained model answers, and its export must answer too.

    Args:
        call: of a signature.
        outputs: by name.
    """

    call: SignatureCall
    outputs: Mapping[str, NDArray[Any]]


def publish(
    build: Callable[[Path], None],
    models: Path,
    name: str,
    keep: int,
    *,
    stock: bool = True,
    expected: Sequence[Answer] = (),
) -> int:
    """Adds a version of a model and removes those beyond `keep`.

    Args:
        build: writes the SavedModel into the folder it is given.
        models: folder of all models.
        name: of the model.
        keep: versions kept, at least 1.
        stock: whether an unmodified TensorFlow Serving must be able to load it.
        expected: answers it has to give.

    Returns:
        The number of the new version, one more than the highest so far.

    Raises:
        TfrecError: If the model fails its check; the versions so far stay as they are.
    """
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _clear_leftovers(folder)
        version = max(versions(folder), default=0) + 1
        scratch = folder / f"{_HIDDEN}{version}.building"
        try:
            build(scratch)
            check(scratch, stock, expected)
            write_json(scratch / MANIFEST, _manifest(scratch, name, version))
            _flush(scratch)
            scratch.rename(folder / str(version))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _flush_file(folder)
        _prune(folder, keep)
    return version


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def check(saved_model: Path, stock: bool, expected: Sequence[Answer]) -> None:
    """Loads a SavedModel, replays its warm-up and compares its answers.

    Raises:
        TfrecError: If it uses ops that it may not, a warm-up request fails or an answer differs.
    """
    if stock:
        assert_stock(saved_model)
    loaded = tf.saved_model.load(str(saved_model))
    replay_warmup(saved_model, loaded)
    for call, outputs in expected:
        answered = loaded.signatures[call.signature](**tensors(call.inputs))
        _compare(call.signature, {name: answered[name].numpy() for name in outputs}, outputs)


def _compare(signature: str, received: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    for name, values in expected.items():
        same = received[name].shape == values.shape and _same(received[name], values)
        if name != "score" and "score" in expected and values.shape == expected["score"].shape:
            same = same | _interchangeable(expected["score"])
        if not np.all(same):
            raise TfrecError(
                f"The export answers otherwise than the trained model: `{name}` of `{signature}` is {received[name]}, "
                f"expected {values}."
            )


def _same(received: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool in the shape of both."""
    if np.issubdtype(expected.dtype, np.inexact):
        return np.isclose(received, expected, _TOLERANCE, _TOLERANCE)
    return received == expected


def _interchangeable(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool `[B, K]`: slots that rounding may fill otherwise, being as good as a neighbour, or as what comes after the last."""
    close = np.abs(np.diff(scores, axis=1)) < _TOLERANCE
    return np.pad(close, [[0, 0], [1, 0]]) | np.pad(close, [[0, 0], [0, 1]], constant_values=True)


def verify(version_folder: Path) -> None:
    """Compares the files of a version with its manifest.

    Raises:
        TfrecError: If a file is missing or was changed.
    """
    manifest = json.loads((version_folder / MANIFEST).read_text())
    files = _checksums(version_folder)
    changed = sorted(name for name, digest in manifest["files"].items() if files.get(name) != digest)
    if changed:
        raise TfrecError(f"{version_folder} differs from its manifest: {', '.join(changed)}. Publish it again.")


def _manifest(scratch: Path, name: str, version: int) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "created": _now(),
        "tfrec": __version__,
        "tensorflow": tf.__version__,
        "stock": not foreign(graph_ops(scratch)),
        "files": _checksums(scratch),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by path inside the folder."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process publishes here; the lock goes with the process that holds it."""
    with (folder / f"{_HIDDEN}lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left."""
    for path in folder.glob(f"{_HIDDEN}*"):
        if path.is_dir():
            shutil.rmtree(path)


def _prune(folder: Path, keep: int) -> None:
    for version in versions(folder)[:-keep]:
        doomed = folder / f"{_HIDDEN}{version}.removing"
        (folder / str(version)).rename(doomed)  # a server never sees a version that is half there
        shutil.rmtree(doomed)


def _flush(folder: Path) -> None:
    """Makes sure that files and folders are on disk before a rename makes them visible."""
    for path in (*folder.rglob("*"), folder):
        _flush_file(path)


def _flush_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_serving_config(
    models: Path, served: Sequence[str], details: Mapping[str, Any], base_path: str = "/models"
) -> None:
    """Writes what a server is started with, and the manifest of all models.

    Args:
        models: folder of all models.
        served: names that `models.config` lists: a server that cannot load one of them does not start.
        details: joined to the manifest: fingerprint of the configuration, encoders.
        base_path: where the server sees `models`; TensorFlow Serving takes absolute paths only.
    """
    _write_text(models / "models.config", _MODELS.format(configs="".join(map(_model_config(base_path), served))))
    _write_text(models / "batching.config", _BATCHING)
    _write_text(models / "monitoring.config", _MONITORING)
    published = {path.name: path for path in sorted(models.iterdir()) if path.is_dir() and versions(path)}
    manifest = {
        "tfrec": __version__,
        "created": _now(),
        **details,
        "models": {name: _published(path) for name, path in published.items()},
    }
    write_json(models / MANIFEST, manifest)


def _published(folder: Path) -> dict[str, Any]:
    found = versions(folder)
    manifests = {str(version): json.loads((folder / str(version) / MANIFEST).read_text()) for version in found}
    return {"latest": found[-1], "versions": manifests}


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _model_config(base_path: str) -> Callable[[str], str]:
    return lambda name: _MODEL.format(name=name, path=f"{base_path.rstrip('/')}/{name}")


_MODELS = """\
# For tensorflow_model_server --model_config_file=. The paths are those inside the container of docker-compose.yml, which
# mounts this folder there; TensorFlow Serving takes absolute paths only.
model_config_list {{
{configs}}}
"""

_MODEL = """\
  config {{
    name: "{name}"
    base_path: "{path}"
    model_platform: "tensorflow"
  }}
"""

_BATCHING = """\
# For tensorflow_model_server --enable_batching --batching_parameters_file=. Requests join a batch only if `history` and
# `exclude` are equally wide: let clients pad them to one width. Never set pad_variable_length_inputs: it repeats the first
# element, which would lengthen histories.
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 4 }
"""

_MONITORING = """\
# For tensorflow_model_server --monitoring_config_file=; needs --rest_api_port.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
