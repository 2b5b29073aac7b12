"""From flags to a serving process: load, open the ports, wait for a signal, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Callable

from serving.embedded import config_files, model_config
from serving.embedded.core import Core
from serving.embedded.errors import ServingError
from serving.embedded.flags import Flags
from serving.embedded.grpc_api import GrpcApi
from serving.embedded.rest_api import RestApi
from serving.embedded.workers import Workers

_LOG = logging.getLogger(__name__)


async def serve(flags: Flags) -> None:
    """Runs the server until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await serve_until(stopping, flags)


async def serve_until(stopping: asyncio.Event, flags: Flags, opened: Callable[[], None] = lambda: None) -> None:
    """Loads the models, opens the ports, and drains once `stopping` is set.

    Args:
        stopping: Ends the server.
        flags: The command line.
        opened: Called when the ports are open.

    Raises:
        ServingError: If a flag file or a model stops the server from starting.
        OSError: If a port cannot be opened.
    """
    file = flags.model_config_file
    config_bytes = config_files.read(file) if file else b""
    if file:
        config = config_files.parse_model_config(config_bytes, file)
    else:
        config = model_config.single_model(flags.model_name, flags.model_base_path)
    core = Core(flags)
    gc.collect()
    gc.freeze()  # TensorFlow's own objects stay; looking through them would stop requests whenever a model is freed
    try:
        loading = asyncio.create_task(asyncio.to_thread(core.manager.start, config))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([loading, stop], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            await loading
            _watch_config_file(core, flags, config_bytes)
            await _serve_requests(stopping, core, flags, opened)
    finally:
        core.manager.stop()


async def _serve_requests(stopping: asyncio.Event, core: Core, flags: Flags, opened: Callable[[], None]) -> None:
    workers = Workers(core.threads, flags.max_concurrent_requests)
    apis = _apis(core, workers, flags)
    for api in apis:
        await api.start()
    _LOG.info("Serving on %s, ports: %s", flags.host, [api.port for api in apis])
    opened()
    await stopping.wait()
    _LOG.info("Draining")
    await asyncio.gather(*(api.stop() for api in apis))
    workers.close()
    _LOG.info("Stopped")


def _apis(core: Core, workers: Workers, flags: Flags) -> list[GrpcApi | RestApi]:
    metrics_file = flags.monitoring_config_file
    metrics_path = config_files.read_prometheus_path(metrics_file) if metrics_file else None
    apis: list[GrpcApi | RestApi] = []
    if flags.port or flags.grpc_socket_path:
        apis.append(GrpcApi(core, workers, flags))
    if flags.rest_api_port:
        apis.append(RestApi(core, workers, flags, metrics_path))
    return apis


def _watch_config_file(core: Core, flags: Flags, applied: bytes) -> None:
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
        threading.Thread(target=_reread_for_ever, args=(core, flags, applied), name="config", daemon=True).start()


def _reread_for_ever(core: Core, flags: Flags, applied: bytes) -> None:
    """Applies the file whenever its bytes are not those `applied`; models new in it are not waited for."""
    file = flags.model_config_file
    while not core.manager.stopped.wait(flags.model_config_file_poll_wait_seconds):
        try:
            newer = config_files.read(file)
            if newer != applied:  # also after a failure: a label may wait for its version to load
                core.manager.replace(config_files.parse_model_config(newer, file))
                applied = newer
        except ServingError as error:
            _LOG.error("Model config not reloaded: %s", error)
        except Exception:  # the next look must come whatever happened in this one
            _LOG.exception("Model config not reloaded")
