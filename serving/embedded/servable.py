"""A loaded version in service, which is freed only when the last request on it has ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving.embedded.inference import Inference
from serving.embedded.saved_model import SavedModel


class Servable:
    """A version that requests hold while they use it.

    Args:
        name: The model.
        version: The version number.
        model: What is freed at the end.
        inference: The calls on it.
    """

    def __init__(self, name: str, version: int, model: SavedModel, inference: Inference) -> None:
        self.name = name
        self.version = version
        self.inference = inference
        self.signatures = model.signatures
        self._model = model
        self._holders = 0
        self._released = threading.Condition()

    @contextmanager
    def held(self) -> Iterator[Servable]:
        """Releases, at the end, a hold that the manager took."""
        try:
            yield self
        finally:
            with self._released:
                self._holders -= 1
                self._released.notify_all()

    def hold(self) -> None:
        """Keeps the version from being freed; only the manager, which knows that it still serves, may ask."""
        with self._released:
            self._holders += 1

    def close_when_idle(self) -> None:
        """Waits for the requests on this version to end, then frees it. No new hold may be taken."""
        with self._released:
            self._released.wait_for(lambda: not self._holders)
        self._model.close()
        gc.collect()  # a graph's Python objects refer to each other
