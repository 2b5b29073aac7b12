"""TF Hub modules: found, checked, loaded.

A *handle* is the URL of a module or the folder of a SavedModel. What a URL names is kept in TensorFlow Hub's own cache
(`TFHUB_CACHE_DIR`, else a folder of the system's temporary files). That cache may hold what an interrupted download or
an error page left, so a module is checked before it is used; an incomplete one is put aside and downloaded again.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  (registers the ops of text modules)

from tfrec.errors import TfrecError

_URL = re.compile(r"^[a-z0-9]+://", re.IGNORECASE)
_READ_BYTES = 2**20
_NO_SUCH_INPUT = ("Could not find matching concrete function", "Binding inputs to tf.function failed")


def load_module(handle: str) -> Any:
    """Loads a module, with its variables trainable where it was made so.

    Args:
        handle: URL or folder.

    Returns:
        What `hub.load` returns.

    Raises:
        TfrecError: If the module is not there, cannot be downloaded, or is damaged.
    """
    folder = resolve(handle)
    try:
        return hub.load(str(folder))
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise TfrecError(
            f"The module {handle} cannot be loaded from {folder}: {_first_line(error)}. "
            "It is damaged or of another TensorFlow version; replace the folder."
        ) from error


class _Reusable(tf.Module):
    """A module whose variables are attributes, as `hub.KerasLayer` expects; a property would not be saved."""

    variables: Any = ()
    trainable_variables: Any = ()


def save_module(module: tf.Module, folder: Path) -> None:
    """Saves a module in TF Hub's format: callable, with its variables trainable.

    Args:
        module: with a `tf.function` as `__call__`.
        folder: where to save it.
    """
    reusable = _Reusable()
    reusable.__call__ = module.__call__
    reusable.variables = list(module.variables)
    reusable.trainable_variables = list(module.trainable_variables)
    reusable.regularization_losses = []
    tf.saved_model.save(reusable, str(folder))


@lru_cache(maxsize=16)
def module_version(handle: str) -> str:
    """SHA-256 over the names and contents of a module's files: equal for equal modules wherever they lie."""
    folder = resolve(handle)
    digest = hashlib.sha256()
    for path in _content_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def resolve(handle: str) -> Path:
    """The local folder of a module, downloaded if its handle is a URL that is not cached.

    Raises:
        TfrecError: If there is no complete module under this handle.
    """
    if _URL.match(handle):
        return _resolve_url(handle)
    folder = Path(handle)
    if problem := missing_part(folder):
        raise TfrecError(
            f"The module `{handle}` is no TF Hub module: {problem}. Expected a folder with `saved_model.pb` and "
            "`variables/` (for an archive: the unpacked folder), or a URL."
        )
    return folder


def missing_part(folder: Path) -> str | None:
    """What a folder lacks to be a whole SavedModel; None if it lacks nothing."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    graph = folder / "saved_model.pb"
    if not graph.is_file() or not graph.stat().st_size:
        return f"{graph} is missing or empty"
    index = folder / "variables" / "variables.index"
    if not index.is_file() or not index.stat().st_size:
        return f"{index} is missing or empty"
    return _missing_shard(folder / "variables")


def call_module(handle: str, module: Any, inputs: Any, described: str) -> Any:
    """Calls a module for the first time.

    Args:
        handle: of the module.
        module: the module.
        inputs: what to call it with.
        described: the inputs, in words.

    Raises:
        TfrecError: If it does not take them, naming both.
    """
    try:
        return module(inputs)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise TfrecError(f"The module {handle} does not take {described}; {_why_not(module, error)}.") from error


def check_output(handle: str, name: str, output: Any, expected: str, fits: bool) -> None:
    """Raises unless a module's output fits what a tower needs.

    Args:
        handle: of the module.
        name: of the output.
        output: a tensor or anything else that came.
        expected: what the tower needs, in words.
        fits: whether it fits.

    Raises:
        TfrecError: Naming both.
    """
    if not fits:
        raise TfrecError(f"The module {handle} returns {describe(output)} as {name}; the tower needs {expected}.")


def describe(output: Any) -> str:
    """Type and shape of a module's output, in words."""
    if isinstance(output, dict):
        return "a dict of " + ", ".join(sorted(map(str, output)))
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return f"{tf.as_dtype(output.dtype).name} {list(output.shape)}"
    return type(output).__name__


def _resolve_url(handle: str) -> Path:
    cached = cached_folder(handle)
    note = ""
    if cached.is_dir() and (problem := missing_part(cached)):
        aside = Path(tempfile.mkdtemp(prefix=f"{cached.name}.incomplete-", dir=cached.parent))
        cached.rename(aside)  # over the empty folder
        note = f" What was cached is incomplete ({problem}) and now lies in {aside}."
    try:
        folder = Path(hub.resolve(handle))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise TfrecError(
            f"The module {handle} is not cached and cannot be downloaded: {_first_line(error)}.{note} Download it (on another "
            "machine: open the URL with `?tf-hub-format=compressed` and unpack the archive) and pass the folder as the "
            f"handle, or unpack it into {cached}."
        ) from error
    if problem := missing_part(folder):
        raise TfrecError(
            f"What {handle} delivered is no complete module: {problem}. Delete {folder} and try again, or download the "
            "module by hand and pass its folder as the handle."
        )
    return folder


def cached_folder(handle: str) -> Path:
    """Where TensorFlow Hub keeps the module of a URL."""
    cache = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")
    return Path(cache) / hashlib.sha1(handle.encode()).hexdigest()


def _missing_shard(variables: Path) -> str | None:
    shards = sorted(variables.glob("variables.data-*-of-*"))
    if not shards:
        return f"{variables} holds no variables"
    expected = int(shards[0].name.rsplit("-", 1)[1])
    return None if len(shards) == expected else f"{variables} holds {len(shards)} of {expected} files of variables"


def _why_not(module: Any, error: Exception) -> str:
    """What a module takes, where it was called with something else; else what it says."""
    reason = _first_line(error)
    functions = getattr(module.__call__, "concrete_functions", None) if reason.startswith(_NO_SUCH_INPUT) else None
    if functions:
        inputs = functions[0].structured_input_signature[0]
        specs = [spec for spec in tf.nest.flatten(inputs) if isinstance(spec, tf.TensorSpec)]
        return "it takes " + ", ".join(f"{spec.name.rsplit('/', 1)[-1]} {describe(spec)}" for spec in specs)
    return f"it says: {reason[:200]}"


def _content_files(folder: Path) -> Iterable[Path]:
    """What the module computes with; fingerprints and other by-products stay out."""
    yield folder / "saved_model.pb"
    for part in ("assets", "variables"):
        yield from sorted(path for path in (folder / part).rglob("*") if path.is_file())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
