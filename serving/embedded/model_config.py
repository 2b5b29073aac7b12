"""Checks of a model config, with TensorFlow Serving's error texts."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlparse

from tensorflow_serving.config import model_server_config_pb2

from serving.embedded.errors import invalid

ModelConfig = model_server_config_pb2.ModelConfig
ServerConfig = model_server_config_pb2.ModelServerConfig
PLATFORM = "tensorflow"


def single_model(name: str, base_path: str) -> ServerConfig:
    """The config of `--model_name` and `--model_base_path`."""
    config = ServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def check(config: ServerConfig, current: Mapping[str, ModelConfig]) -> None:
    """Refuses a config that cannot replace `current`.

    Raises:
        ServingError: Saying what does not fit.
    """
    entries = config.model_config_list.config
    _check_names(entries)
    for entry in entries:
        if not _is_absolute(entry.base_path):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
    for entry in entries:
        before = current.get(entry.name)
        if before is not None and _platform(before) != _platform(entry):
            raise invalid(
                f"Illegal to change a model's platform. For model {entry.name} platform was {_platform(before)} and "
                f"new platform requested is {_platform(entry)}"
            )
    for entry in entries:
        if _platform(entry) != PLATFORM:
            raise invalid(f"Model {entry.name} requests unsupported platform {_platform(entry)}")


def _check_names(entries: list[ModelConfig]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        seen.add(entry.name)


def _is_absolute(base_path: str) -> bool:
    return base_path.startswith("/") or bool(urlparse(base_path).scheme)


def _platform(entry: ModelConfig) -> str:
    if entry.model_type and entry.model_platform:
        raise invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if entry.model_type == model_server_config_pb2.TENSORFLOW:
        return PLATFORM
    if entry.model_type:
        raise invalid(f"ModelServerConfig::model_type choice {entry.model_type} not supported.")
    if not entry.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return entry.model_platform
