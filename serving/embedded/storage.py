"""Which versions lie below a base path, and which of them the policy wants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

from tensorflow_serving.config import file_system_storage_path_source_pb2

Policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
_NUMBER = re.compile(r"[0-9]+")
_VERSION_LIMIT = 2**63


def local_path(base_path: str) -> Path:
    """The folder of a base path, which may be a `file://` URI."""
    return Path(unquote(urlparse(base_path).path)) if base_path.startswith("file://") else Path(base_path)


def versions_on_disk(base_path: str) -> dict[int, Path]:
    """The version folders below a base path, by number; anything else there is passed over.

    Raises:
        OSError: If the base path cannot be listed.
    """
    entries = [entry for entry in local_path(base_path).iterdir() if _NUMBER.fullmatch(entry.name)]
    return {int(entry.name): entry for entry in entries if int(entry.name) < _VERSION_LIMIT and entry.is_dir()}


def select(versions: Mapping[int, Path], policy: Policy) -> dict[int, Path]:
    """The versions that `policy` wants: the newest one unless it says otherwise."""
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return dict(versions)
    if kind == "specific":
        return {number: versions[number] for number in policy.specific.versions if number in versions}
    newest = sorted(versions, reverse=True)[: max(1, policy.latest.num_versions)]
    return {number: versions[number] for number in newest}
