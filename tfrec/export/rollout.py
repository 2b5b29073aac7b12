"""Which versions of the published models serve: rollback, labels, and the `models.config` that says so.

Without labels servers load the newest version, and a *rollback* withdraws it by one rename, which every server that looks at its
base path follows. A *label* (`stable`, `canary`) names a version, and clients ask for it; requests without one are answered by
the newest version loaded. Once a model has labels, `models.config` lists the versions to load: those with a label, the newest
and the one before it. So a label always moves to a version that is loaded already, as TensorFlow Serving demands, and no request
falls between two versions. A rollback then moves the labels of the newest version to the one before it and unloads it, all by
one rename of `models.config`.

`rollout.json` beside `models.config` keeps the state; `models.config` is written from it. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tfrec.errors import TfrecError
from tfrec.export.versions import (
    alone,
    published_models,
    remove,
    verify,
    versions,
    withdraw,
    withdrawn_versions,
)
from tfrec.run import atomic_file, write_json

ROLLOUT = "rollout.json"
_LOADED = 2
_LABEL = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class ModelRollout:
    """The state of one model.

    Args:
        labels: versions by label.
        withdrawn: versions that were rolled back while labels were in use.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    withdrawn: Sequence[int] = ()

    @classmethod
    def read(cls, folder: Path) -> ModelRollout:
        """The state kept of the model in a folder."""
        path = folder.parent / ROLLOUT
        return cls(**json.loads(path.read_text())["models"].get(folder.name, {})) if path.exists() else cls()

    def usable(self, folder: Path) -> list[int]:
        """The versions on disk that were not withdrawn, ascending."""
        return [version for version in versions(folder) if version not in self.withdrawn]

    def loaded(self, folder: Path) -> list[int]:
        """The versions that servers hold, ascending."""
        usable = self.usable(folder)
        return sorted({*self.labels.values(), *usable[-_LOADED:]}) if self.labels else usable[-1:]


@dataclass(frozen=True)
class Rollout:
    """The state of all models.

    Args:
        served: names that `models.config` lists.
        base_path: where servers see the folder of models.
        models: those that are not in their first state.
    """

    served: Sequence[str] = ()
    base_path: str = "/models"
    models: Mapping[str, ModelRollout] = field(default_factory=dict)

    @classmethod
    def read(cls, models: Path) -> Rollout:
        """The state kept in a folder of models; that of a fresh one where there is none."""
        path = models / ROLLOUT
        if not path.exists():
            return cls(served=_stock(models))
        state = json.loads(path.read_text())
        return cls(state["served"], state["base_path"], {n: ModelRollout(**m) for n, m in state["models"].items()})

    def write(self, models: Path) -> None:
        """Keeps the state and writes `models.config`, each by one rename."""
        write_json(models / ROLLOUT, asdict(self))
        entries = "".join(self._entry(models, name) for name in self.served)
        with atomic_file(models / "models.config") as file:
            file.write(_CONFIG.format(entries=entries).encode())

    def of(self, name: str) -> ModelRollout:
        """The state of one model."""
        return self.models.get(name, ModelRollout())

    def with_model(self, name: str, model: ModelRollout) -> Rollout:
        """The same with another state of one model."""
        return replace(self, models={**self.models, name: model})

    def _entry(self, models: Path, name: str) -> str:
        model, more = self.of(name), ""
        if model.labels:
            loaded = " ".join(f"versions: {version}" for version in model.loaded(models / name))
            labels = (_LABELLED.format(label=label, version=version) for label, version in sorted(model.labels.items()))
            more = _POLICY.format(versions=loaded) + "".join(labels)
        return _ENTRY.format(name=name, path=f"{self.base_path.rstrip('/')}/{name}", more=more)


def find_version(models: Path, name: str, version: int | None) -> Path:
    """The folder of a published version.

    Args:
        models: folder of all models.
        name: of the model.
        version: its number; None for the newest that was not withdrawn.

    Raises:
        TfrecError: If there is no such model or version, or it was withdrawn.
    """
    folder = models / name
    found = ModelRollout.read(folder).usable(folder) if folder.is_dir() else []
    if not found:
        others = published_models(models)
        there = f"There are: {', '.join(others)}." if others else "Train first: python -m tfrec.train."
        raise TfrecError(f"{folder} holds no published model. {there}")
    if version is not None and version not in found:
        rolled_back = f"Version {version} of {folder} was rolled back."
        fault = rolled_back if version in versions(folder) else f"{folder} has no version {version}."
        raise TfrecError(f"{fault} It has: {', '.join(map(str, found))}.")
    return folder / str(found[-1] if version is None else version)


def roll_back(models: Path, name: str) -> int:
    """Makes the version before the newest serve again.

    Args:
        models: folder of all models.
        name: of the model.

    Returns:
        The version that serves now.

    Raises:
        TfrecError: If there is no version to go back to, or its files were changed.
    """
    folder = _folder(models, name)
    with alone(folder), alone(models):
        rollout = Rollout.read(models)
        model = rollout.of(name)
        *earlier, newest = model.usable(folder)
        if not earlier:
            raise TfrecError(f"{folder} has no version before {newest} to go back to. Publish a new one instead.")
        verify(folder / str(earlier[-1]))
        if model.labels:
            labels = {label: earlier[-1] if version == newest else version for label, version in model.labels.items()}
            rollout.with_model(name, ModelRollout(labels, [*model.withdrawn, newest])).write(models)
        else:
            withdraw(folder, newest)
    return earlier[-1]


def set_labels(models: Path, name: str, labels: Mapping[str, int | None]) -> ModelRollout:
    """Gives labels to versions, or takes them away.

    Args:
        models: folder of all models.
        name: of the model.
        labels: the version of each, None to remove the label.

    Returns:
        The new state.

    Raises:
        TfrecError: If a version is not there, was changed or withdrawn, or is not loaded while its label is in use.
    """
    folder = _folder(models, name)
    with alone(folder), alone(models):
        rollout = Rollout.read(models)
        model = rollout.of(name)
        for label, version in labels.items():
            _check_label(folder, model, label, version)
        wanted = {label: version for label, version in {**model.labels, **labels}.items() if version is not None}
        if not wanted:
            for version in set(model.withdrawn).intersection(versions(folder)):
                withdraw(folder, version)  # the newest serves from now on, and must not be one of these
        changed = ModelRollout(wanted, model.withdrawn if wanted else ())
        rollout.with_model(name, changed).write(models)
    return changed


def retain(models: Path, name: str, keep: int) -> None:
    """Removes the versions that `prune` does.

    Raises:
        TfrecError: If there is no such model, or none would be kept.
    """
    if keep < 1:
        raise TfrecError(f"At least 1 version must be kept. Received: {keep}.")
    folder = _folder(models, name)
    with alone(folder):
        prune(folder, keep)


def prune(folder: Path, keep: int) -> None:
    """Removes all usable versions but the newest `keep` and those that servers hold, and what was withdrawn before those.

    `models.config` lists no version that is gone: it is written before they go.

    Args:
        folder: of a model, which the caller has `alone`.
        keep: number of versions, at least 1.
    """
    models, name = folder.parent, folder.name
    with alone(models):
        rollout = Rollout.read(models)
        model = rollout.of(name)
        newest = model.usable(folder)[-keep:]
        hidden = withdrawn_versions(folder)
        later = {version for version in (*model.withdrawn, *hidden) if version > min(newest, default=0)}
        kept = {*newest, *model.loaded(folder), *later}
        if model.labels:  # else models.config names no versions
            rollout.write(models)
        for version in {*versions(folder), *hidden} - kept:
            remove(folder, version)
        if model.labels:  # not before: a version is withdrawn for as long as it is there
            withdrawn = [version for version in model.withdrawn if version in kept]
            rollout.with_model(name, replace(model, withdrawn=withdrawn)).write(models)


def move_base_path(models: Path, base_path: str) -> None:
    """Writes `models.config` for a server that sees the folder elsewhere."""
    if not base_path.startswith("/"):
        raise TfrecError(f"TensorFlow Serving takes absolute base paths only. Received: {base_path!r}.")
    with alone(models):
        replace(Rollout.read(models), base_path=base_path).write(models)


def _folder(models: Path, name: str) -> Path:
    folder = models / name
    if not folder.is_dir() or not versions(folder):
        known = ", ".join(published_models(models))
        raise TfrecError(f"{folder} holds no published model. Models there: {known or 'none'}.")
    return folder


def _stock(models: Path) -> list[str]:
    """Names of the models that an unmodified server can load."""
    return [name for name in published_models(models) if _manifest(models / name).get("stock", True)]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / str(versions(folder)[-1]) / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _check_label(folder: Path, model: ModelRollout, label: str, version: int | None) -> None:
    if not _LABEL.fullmatch(label):
        raise TfrecError(f"A label is made of letters, digits, `_`, `.` and `-`. Received: {label!r}.")
    if version is None:
        return
    if version not in model.usable(folder):
        there = ", ".join(map(str, model.usable(folder)))
        raise TfrecError(f"{folder} has no version {version} to be called {label!r}. Versions: {there}.")
    if label in model.labels and version not in model.loaded(folder):
        raise TfrecError(
            f"TensorFlow Serving moves a label in use to a loaded version only, and {version} is not. Remove it first: "
            f"--label {label}="
        )
    verify(folder / str(version))


_CONFIG = """\
# For tensorflow_model_server --model_config_file=; written by tfrec.publish. The paths are those that the server sees (in
# docker-compose.yml, this folder is mounted at /models); TensorFlow Serving takes absolute paths only. Labels need
# --model_config_file_poll_wait_seconds and --allow_version_labels_for_unavailable_models=true.
model_config_list {{
{entries}}}
"""

_ENTRY = """\
  config {{
    name: "{name}"
    base_path: "{path}"
    model_platform: "tensorflow"
{more}  }}
"""
_POLICY = "    model_version_policy {{ specific {{ {versions} }} }}\n"
_LABELLED = '    version_labels {{ key: "{label}" value: {version} }}\n'
