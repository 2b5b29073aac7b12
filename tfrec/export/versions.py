"""Version folders of a published model, and what may happen to them without loading any.

A *version* is a folder named by a number inside the model's folder. Servers pass over every other name, so a version is
*withdrawn* by one rename to a hidden one, and removed behind such a name too. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfrec.errors import TfrecError

MANIFEST = "manifest.json"
HIDDEN = "."
_WITHDRAWN = ".withdrawn"


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def withdrawn_versions(folder: Path) -> list[int]:
    """The versions that were withdrawn, ascending."""
    return sorted(int(path.name[1:].removesuffix(_WITHDRAWN)) for path in folder.glob(f"{HIDDEN}*{_WITHDRAWN}"))


def next_version(folder: Path) -> int:
    """One more than any version was; a number is never used twice."""
    return max([*versions(folder), *withdrawn_versions(folder)], default=0) + 1


def withdraw(folder: Path, version: int) -> None:
    """Hides a version from servers by one rename; `publish` removes those that are older than the versions it keeps."""
    (folder / str(version)).rename(folder / f"{HIDDEN}{version}{_WITHDRAWN}")


def prune(folder: Path, keep: int, protected: Collection[int] = ()) -> None:
    """Removes all versions but the newest `keep` and the protected ones, and what was withdrawn before those kept."""
    kept = versions(folder)[-keep:]
    for version in versions(folder):
        if version not in kept and version not in protected:
            doomed = folder / f"{HIDDEN}{version}.removing"
            (folder / str(version)).rename(doomed)  # a server never sees a version that is half there
            shutil.rmtree(doomed)
    for version in withdrawn_versions(folder):
        if kept and version < kept[0]:
            shutil.rmtree(folder / f"{HIDDEN}{version}{_WITHDRAWN}")


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left."""
    for path in folder.glob(f"{HIDDEN}*"):
        if path.is_dir() and path.suffix != _WITHDRAWN:
            shutil.rmtree(path)


def verify(version_folder: Path) -> None:
    """Compares the files of a version with its manifest.

    Raises:
        TfrecError: If a file is missing or was changed.
    """
    path = version_folder / MANIFEST
    if not path.exists():
        raise TfrecError(
            f"{version_folder} has no {MANIFEST}, so nobody can tell whether it is whole. Publish it again."
        )
    manifest = json.loads(path.read_text())
    files = checksums(version_folder)
    changed = sorted(name for name, digest in manifest["files"].items() if files.get(name) != digest)
    if changed:
        raise TfrecError(f"{version_folder} differs from its manifest: {', '.join(changed)}. Publish it again.")


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by path inside the folder."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is at work in the folder; the lock goes with the process that holds it."""
    with (folder / f"{HIDDEN}lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
