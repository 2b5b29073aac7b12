"""Keeps the loaded versions in line with what lies on disk and what the config wants.

A new version loads beside the old one and takes over when it is ready; the old one is freed once its last request has ended.
A version that cannot load is reported and leaves the old one serving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from serving.embedded import model_config, storage
from serving.embedded.errors import Code, ServingError, from_exception, invalid
from serving.embedded.flags import Flags
from serving.embedded.servable import Servable

_LOG = logging.getLogger(__name__)
State = get_model_status_pb2.ModelVersionStatus
Loader = Callable[[str, int, Path], Servable]


@dataclass(frozen=True)
class VersionState:
    """What clients are told of a version: its state, and why it ended if that was an error."""

    state: int
    error: ServingError | None = None


@dataclass
class _Managed:
    """A version that is loading, serving, unloading or has failed to load."""

    path: Path
    state: int = State.START
    servable: Servable | None = None
    error: ServingError | None = None


class ModelManager:
    """Loads, serves and unloads versions.

    Args:
        load: Loads one version.
        flags: How often to look, how often to try, what labels may do.
    """

    def __init__(self, load: Loader, flags: Flags) -> None:
        self._load = load
        self._flags = flags
        self._changed = threading.Condition()  # guards all below; notified at every change of a state
        self._config: dict[str, model_config.ModelConfig] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._wanted: dict[str, dict[int, Path]] = {}
        self._managed: dict[str, dict[int, _Managed]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._complaints: dict[str, str] = {}
        self._reloading = threading.Lock()
        self.stopped = threading.Event()  # what polls ends with it
        self._loaders = ThreadPoolExecutor(max(1, flags.num_load_threads), "load")
        self._unloaders = ThreadPoolExecutor(max(1, flags.num_unload_threads), "unload")

    # ------------------------------------------------------------ requests

    @contextmanager
    def servable(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """The version that a request asks for, kept from being freed meanwhile.

        Raises:
            ServingError: If there is none.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        with self._changed:
            servable = self._find(spec)
            servable.hold()
        with servable.held():
            yield servable

    def _find(self, spec: model_pb2.ModelSpec) -> Servable:
        choice = spec.WhichOneof("version_choice")
        serving = {v: m.servable for v, m in self._managed.get(spec.name, {}).items() if m.state == State.AVAILABLE}
        if choice is None:
            version, asked = max(serving, default=-1), f"Latest({spec.name})"
        else:
            version = spec.version.value if choice == "version" else self._labelled(spec.name, spec.version_label)
            asked = f"Specific({spec.name}, {version})"
        servable = serving.get(version)
        if servable is None:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return servable

    def has(self, name: str) -> bool:
        """Whether the config names the model."""
        return name in self._config

    def _labelled(self, name: str, label: str) -> int:
        try:
            return self._labels[name][label]
        except KeyError:
            raise invalid(f"Unrecognized servable version label: {label}") from None

    def states(self, name: str, version: int | None = None) -> list[tuple[int, VersionState]]:
        """The versions of a model that were ever seen, newest first, or the one asked for.

        Raises:
            ServingError: NOT_FOUND if there is none.
        """
        with self._changed:
            states = dict(self._states.get(name, {}))
        if version is not None:
            if version not in states:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            return [(version, states[version])]
        if not states:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return sorted(states.items(), reverse=True)

    # -------------------------------------------------------------- config

    def start(self, config: model_config.ServerConfig) -> None:
        """Loads the models of the first config and waits for them; then goes on looking for versions.

        Raises:
            ServingError: If the config does not fit or the newest version of a model cannot load.
        """
        self._apply(config)
        self._wait(self._config, self.stopped, all_versions=True)
        threading.Thread(target=self._poll_for_ever, name="poll", daemon=True).start()

    def reload(self, config: model_config.ServerConfig, given_up: threading.Event) -> None:
        """Replaces the config and waits until models new in it serve, or until `given_up`.

        Raises:
            ServingError: If the config does not fit, in which case nothing changes, or a new model cannot load.
        """
        with self._reloading:
            self._wait(self.replace(config), given_up)

    def replace(self, config: model_config.ServerConfig) -> set[str]:
        """Replaces the config, waits for no model, and returns the names that are new in it.

        Raises:
            ServingError: If the config does not fit, in which case nothing changes.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        new = {entry.name for entry in config.model_config_list.config} - self._config.keys()
        self._apply(config)
        return new

    def _apply(self, config: model_config.ServerConfig) -> None:
        model_config.check(config, self._config)
        entries = {entry.name: entry for entry in config.model_config_list.config}
        with self._changed:
            self._labels = self._checked_labels(entries)
            self._config = entries
        self.poll()

    def _checked_labels(self, entries: dict[str, model_config.ModelConfig]) -> dict[str, dict[str, int]]:
        labels = {name: dict(entry.version_labels) for name, entry in entries.items()}
        for name, versions in labels.items():
            for label, version in versions.items():
                state = self._states.get(name, {}).get(version)
                is_available = state is not None and state.state == State.AVAILABLE
                if not is_available and not self._may_point_anywhere(name, label, version):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, which is not currently "
                        "available for inference",
                    )
        return labels

    def _may_point_anywhere(self, name: str, label: str, version: int) -> bool:
        if self._flags.force_allow_any_version_labels_for_unavailable_models:
            return True
        before = self._labels.get(name, {}).get(label, version)
        return self._flags.allow_version_labels_for_unavailable_models and before == version

    def _wait(self, names: Iterable[str], given_up: threading.Event, all_versions: bool = False) -> None:
        awaited = set(names)
        while not given_up.is_set():
            with self._changed:
                awaited &= self._config.keys()  # the next config may leave one out
                if all(self._is_settled(name, all_versions) for name in awaited):
                    break
                self._changed.wait(0.2)
                has_none_yet = bool(awaited & self._complaints.keys())
            if has_none_yet:  # a base path that appears late; at the start no thread polls yet
                self.poll()
        with self._changed:
            self._raise_failures(awaited)

    def _is_settled(self, name: str, all_versions: bool) -> bool:
        wanted, managed = self._wanted.get(name, {}), self._managed.get(name, {})
        concerned = wanted if all_versions else [max(wanted)] if wanted else []
        done = (State.AVAILABLE, State.END)
        return bool(wanted) and all(v in managed and managed[v].state in done for v in concerned)

    def _raise_failures(self, names: set[str]) -> None:
        failures = []
        for name in sorted(names):
            newest = max(self._wanted.get(name, {}), default=0)
            managed = self._managed.get(name, {}).get(newest)
            if managed is not None and managed.error is not None:
                failures.append(f"{{{{name: {name} version: {newest}}} due to error: {managed.error}}}, ")
        if failures:
            text = f"{len(failures)} model(s) did not become available: {{{''.join(failures)}}}"
            raise ServingError(Code.UNKNOWN, text)

    # ------------------------------------------------------------- polling

    def _poll_for_ever(self) -> None:
        seconds = self._flags.file_system_poll_wait_seconds
        while seconds > 0 and not self.stopped.wait(seconds):
            try:
                self.poll()
            except Exception:  # the next look must come whatever happened in this one
                _LOG.exception("Looking for versions failed")

    def poll(self) -> None:
        """Looks for versions once, and sets loads and unloads going."""
        with self._changed:
            entries = dict(self._config)
        found = {name: _list(entry) for name, entry in entries.items()}  # unlocked: a disk may be slow
        with self._changed:
            for name, entry in entries.items():
                if self._config.get(name) is entry:
                    self._note_versions(entry, found[name])
            for name in self._wanted.keys() - self._config.keys():
                del self._wanted[name]
                self._reconcile(name)

    def _note_versions(self, entry: model_config.ModelConfig, found: dict[int, Path] | OSError) -> None:
        if isinstance(found, OSError):  # what serves goes on serving while its folder cannot be read
            self._complain(entry.name, f"Cannot look for versions: {found}")
            return
        self._wanted[entry.name] = storage.select(found, entry.model_version_policy)
        if found:
            self._complaints.pop(entry.name, None)
        else:
            self._complain(entry.name, f"No versions found under base path {entry.base_path}")
        self._reconcile(entry.name)

    def _complain(self, name: str, text: str) -> None:
        if self._complaints.get(name) != text:
            _LOG.warning("Model %s: %s", name, text)
        self._complaints[name] = text

    def _reconcile(self, name: str) -> None:
        """Starts the loads and unloads that bring a model to what is wanted."""
        wanted, managed = self._wanted.get(name, {}), self._managed.setdefault(name, {})
        for version in [v for v, m in managed.items() if m.state == State.END and v not in wanted]:
            del managed[version]
        for version, path in sorted(wanted.items(), reverse=True):
            if version not in managed:
                managed[version] = _Managed(path)
                self._set_state(name, version, State.START)
                self._loaders.submit(self._load_version, name, version, managed[version])
        ready = {version for version, m in managed.items() if m.state == State.AVAILABLE}
        if not wanted or ready & wanted.keys():
            for version in ready - wanted.keys():
                self._set_state(name, version, State.UNLOADING)
                self._unloaders.submit(self._unload_version, name, version)

    def _set_state(self, name: str, version: int, state: int, error: ServingError | None = None) -> None:
        managed = self._managed[name][version]
        managed.state, managed.error = state, error
        self._states.setdefault(name, {})[version] = VersionState(state, error)
        self._changed.notify_all()

    # --------------------------------------------------- loads and unloads

    def _load_version(self, name: str, version: int, managed: _Managed) -> None:
        with self._changed:
            self._set_state(name, version, State.LOADING)
        error = None
        for attempt in range(self._flags.max_num_load_retries + 1):
            if attempt and self.stopped.wait(self._flags.load_retry_interval_micros / 1e6):
                break
            if not self._is_wanted(name, version):
                break
            try:
                managed.servable, error = self._load(name, version, managed.path), None
                break
            except Exception as caught:  # whatever a model does, the server goes on
                error = from_exception(caught)
                _LOG.error(
                    "Loading %s version %d failed: %s", name, version, error, exc_info=error.code == Code.INTERNAL
                )
        self._finish_load(name, version, managed, error)

    def _is_wanted(self, name: str, version: int) -> bool:
        with self._changed:
            return version in self._wanted.get(name, {}) and not self.stopped.is_set()

    def _finish_load(self, name: str, version: int, managed: _Managed, error: ServingError | None) -> None:
        with self._changed:
            if managed.servable is not None:
                _LOG.info("Serving %s version %d", name, version)
            self._set_state(name, version, State.AVAILABLE if managed.servable else State.END, error)
            self._reconcile(name)

    def _unload_version(self, name: str, version: int) -> None:
        servable = self._managed[name][version].servable
        assert servable is not None
        servable.close_when_idle()
        with self._changed:
            self._set_state(name, version, State.END)
            del self._managed[name][version]
            self._reconcile(name)
        _LOG.info("Unloaded %s version %d", name, version)

    def stop(self) -> None:
        """Ends polling and loading; what serves goes with the process."""
        self.stopped.set()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._unloaders.shutdown(wait=False, cancel_futures=True)


def _list(entry: model_config.ModelConfig) -> dict[int, Path] | OSError:
    try:
        return storage.versions_on_disk(entry.base_path)
    except OSError as error:
        return error
