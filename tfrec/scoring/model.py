"""Models that can be asked, and the one that is loaded into this process."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
from numpy.typing import NDArray

from tfrec.errors import TfrecError
from tfrec.export.log_requests import Inputs, tensors
from tfrec.export.ops import graph_ops
from tfrec.export.versions import MANIFEST

Answer = dict[str, NDArray[Any]]
"""Outputs of a signature by name; strings are bytes."""


class Model(Protocol):
    """One signature of one version of a model."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def digest(self) -> str | None:
        """Differs where the model differs; None where nobody can tell."""

    @property
    def num_in_flight(self) -> int:
        """Questions that it answers best at once."""

    def prepared(self, inputs: Inputs) -> Any:
        """The question that asks for `inputs` of the signature."""

    def answer(self, question: Any) -> Answer:
        """What the signature answers."""


class PublishedModel:
    """A version of a model; its signatures answer as a server's would.

    Args:
        folder: of the version.
        signature: the one to ask.

    Raises:
        TfrecError: If it cannot be loaded here, or has no such signature.
    """

    num_in_flight = 1  # TensorFlow spreads one call over all cores

    def __init__(self, folder: Path, signature: str) -> None:
        self.version = int(folder.name)
        self.digest = _digest(folder)
        try:
            _load_op_libraries(graph_ops(folder))
            self._loaded = tf.saved_model.load(str(folder))  # kept: the signature alone does not hold its variables
        except (OSError, tf.errors.OpError, ValueError) as error:
            raise TfrecError(f"{folder} cannot be loaded: {' '.join(str(error).split())}") from error
        signatures = self._loaded.signatures
        if signature not in signatures:
            raise TfrecError(f"{folder} has no signature `{signature}`. It has: {', '.join(sorted(signatures))}.")
        self._function = signatures[signature]

    def prepared(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """The inputs as tensors."""
        return tensors(inputs)

    def answer(self, question: dict[str, tf.Tensor]) -> Answer:
        """What the signature answers."""
        return {name: output.numpy() for name, output in self._function(**question).items()}


def _digest(folder: Path) -> str:
    """SHA-256 of a version's manifest, which has the checksums of all files; of its graph, where it has none."""
    path = folder / MANIFEST
    with (path if path.exists() else folder / "saved_model.pb").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_op_libraries(ops: Set[str]) -> None:
    """Imports the libraries of the ops that TensorFlow alone does not have."""
    further = ops - set(dir(tf.raw_ops))
    scann = {op for op in further if op.startswith("Scann>")}
    for library, needed in (("scann", scann), ("tensorflow_text", further - scann)):
        if needed:
            try:
                import_module(library)
            except (ImportError, tf.errors.NotFoundError) as error:
                raise TfrecError(f"The model needs ops of `{library}`, which cannot be imported: {error}") from error
