"""Version folders of a published model, and what may happen to them without loading any.

A *version* is a folder named by a number inside the model's folder. Servers pass over every other name, so a version is
*withdrawn* by one rename to a hidden one, and removed behind such a name too. A *release* is what one run publishes: its models
have one version, and their manifests name it. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfrec.errors import TfrecError
from tfrec.run import locked_file

MANIFEST = "manifest.json"
HIDDEN = "."
_WITHDRAWN = ".withdrawn"


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def published_models(models: Path) -> list[str]:
    """Names of the models in a folder of models that have a version."""
    return sorted(path.name for path in models.iterdir() if path.is_dir() and versions(path)) if models.is_dir() else []


def withdrawn_versions(folder: Path) -> list[int]:
    """The versions that were withdrawn, ascending."""
    return sorted(int(path.name[1:].removesuffix(_WITHDRAWN)) for path in folder.glob(f"{HIDDEN}*{_WITHDRAWN}"))


def next_version(folder: Path) -> int:
    """One more than any version was; a number is never used twice."""
    return max([*versions(folder), *withdrawn_versions(folder)], default=0) + 1


def released_version(folder: Path, release: str) -> int | None:
    """The version in a model's folder that belongs to a release, withdrawn ones among them; None if none does."""
    kept = {version: folder / str(version) for version in versions(folder)}
    hidden = {version: _withdrawn_folder(folder, version) for version in withdrawn_versions(folder)}
    for version, path in (kept | hidden).items():
        manifest = path / MANIFEST
        if manifest.exists() and json.loads(manifest.read_text()).get("release") == release:
            return version
    return None


def release_version(models: Path, names: Iterable[str], release: str) -> int:
    """The version of a release: what one of its models has already, else one more than any version of them was."""
    folders = [models / name for name in names if (models / name).is_dir()]
    published = [version for folder in folders if (version := released_version(folder, release))]
    return published[0] if published else max(map(next_version, folders), default=1)


def withdraw(folder: Path, version: int) -> None:
    """Hides a version from servers by one rename; `rollout.prune` removes those that are older than the versions it keeps."""
    (folder / str(version)).rename(_withdrawn_folder(folder, version))


def _withdrawn_folder(folder: Path, version: int) -> Path:
    return folder / f"{HIDDEN}{version}{_WITHDRAWN}"


def remove(folder: Path, version: int) -> None:
    """Removes a version, withdrawn or not, behind one rename: a server never sees one that is half there."""
    path, doomed = folder / str(version), folder / f"{HIDDEN}{version}.removing"
    (path if path.exists() else _withdrawn_folder(folder, version)).rename(doomed)
    shutil.rmtree(doomed)


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
    with locked_file(folder / f"{HIDDEN}lock"):
        yield
