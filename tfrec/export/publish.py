"""Publication: a version of a model appears whole or not at all, whatever stops the process that publishes it.

A *version* is a folder named by a number inside the model's folder; a server loads the highest. It is built in a hidden
folder beside it, which servers pass over, checked there, flushed to disk, and renamed. Each holds a `manifest.json` with the
checksums of its files and the release it belongs to, so whoever publishes a release twice adds no version.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec import __version__
from tfrec.errors import TfrecError
from tfrec.export.log_requests import Inputs, SignatureCall, tensors
from tfrec.export.ops import assert_stock, foreign, graph_ops
from tfrec.export.rollout import ModelRollout, Rollout, prune
from tfrec.export.versions import (
    HIDDEN,
    MANIFEST,
    alone,
    checksums,
    clear_leftovers,
    next_version,
    published_models,
    released_version,
    versions,
)
from tfrec.export.warmup import replay_warmup, write_warmup
from tfrec.run import atomic_file, write_json

_TOLERANCE = 1e-4


class Answer(NamedTuple):
    """What the trained model answers, and its export must answer too.

    Args:
        call: of a signature.
        outputs: by name.
    """

    call: SignatureCall
    outputs: Mapping[str, NDArray[Any]]


class Export(NamedTuple):
    """A model on its way from training to a folder.

    Args:
        save: writes the SavedModel.
        call: answers a signature in this process.
        calls: that warm it up, and are compared.
    """

    save: Callable[[Path], None]
    call: Callable[[str, Inputs], Mapping[str, NDArray[Any]]]
    calls: Sequence[SignatureCall]

    def write(self, name: str, folder: Path) -> None:
        """Writes the SavedModel `name` with its warm-up."""
        self.save(folder)
        write_warmup(folder, name, self.calls)

    def answers(self) -> Iterator[Answer]:
        """What the model answers before it is saved."""
        return (Answer(call, self.call(call.signature, call.inputs)) for call in self.calls)


def publish(
    build: Callable[[Path], None],
    models: Path,
    name: str,
    keep: int,
    *,
    stock: bool = True,
    expected: Iterable[Answer] = (),
    release: str | None = None,
    at_least: int = 1,
) -> int:
    """Adds a version of a model, once for each release, and removes those beyond `keep` that no server holds.

    Args:
        build: writes the SavedModel into the folder it is given.
        models: folder of all models.
        name: of the model.
        keep: versions kept, at least 1.
        stock: whether an unmodified TensorFlow Serving must be able to load it.
        expected: answers it has to give.
        release: what the version belongs to; where the model has one of it, that stays and nothing is built.
        at_least: lowest number of the new version, as `release_version` gives it for all models of a release.

    Returns:
        The number of the version; a new one's is `at_least`, or one more than the highest so far.

    Raises:
        TfrecError: If the model fails its check; the versions so far stay as they are.
    """
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        clear_leftovers(folder)
        version = released_version(folder, release) if release else None
        if version is None:
            version = max(next_version(folder), at_least)
            scratch = folder / f"{HIDDEN}{version}.building"
            try:
                build(scratch)
                check(scratch, stock, expected)
                write_json(scratch / MANIFEST, _manifest(scratch, name, version, release))
                _flush(scratch)
                scratch.rename(folder / str(version))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            _flush_file(folder)
        prune(folder, keep)
    return version


def check(saved_model: Path, stock: bool, expected: Iterable[Answer]) -> None:
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


def _manifest(scratch: Path, name: str, version: int, release: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "release": release,
        "created": _now(),
        "tfrec": __version__,
        "tensorflow": tf.__version__,
        "stock": not foreign(graph_ops(scratch)),
        "files": checksums(scratch),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    models: Path, served: Sequence[str], details: Mapping[str, Any], base_path: str | None = None
) -> None:
    """Writes what a server is started with, and the manifest of all models.

    Args:
        models: folder of all models.
        served: names that `models.config` lists: a server that cannot load one of them does not start.
        details: joined to the manifest: fingerprint of the configuration, encoders.
        base_path: where the server sees `models`, absolute; None for where it did before, `/models` at first.
    """
    with alone(models):
        rollout = Rollout.read(models)
        replace(rollout, served=tuple(served), base_path=base_path or rollout.base_path).write(models)
    if not (models / "batching.config").exists():  # it may have been measured since
        _write_text(models / "batching.config", _BATCHING)
    _write_text(models / "monitoring.config", _MONITORING)
    manifest = {
        "tfrec": __version__,
        "created": _now(),
        **details,
        "models": {name: _published(models / name, rollout.of(name)) for name in published_models(models)},
    }
    write_json(models / MANIFEST, manifest)


def _published(folder: Path, rollout: ModelRollout) -> dict[str, Any]:
    found = versions(folder)
    manifests = {str(version): json.loads((folder / str(version) / MANIFEST).read_text()) for version in found}
    return {"latest": rollout.usable(folder)[-1], "versions": manifests}


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


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
