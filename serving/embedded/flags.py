"""The command line: the flags of `tensorflow_model_server`, and a few limits of this server's own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Flags:
    """The flags, with the defaults of TensorFlow Serving (see `python -m serving.server --help`)."""

    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 0
    rest_api_num_threads: int = 4 * (os.cpu_count() or 1)
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: int = 1
    enable_batching: bool = False
    batching_parameters_file: str = ""
    monitoring_config_file: str = ""
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 2
    num_unload_threads: int = 1
    allow_version_labels_for_unavailable_models: bool = False
    force_allow_any_version_labels_for_unavailable_models: bool = False
    enable_signature_method_name_check: bool = False
    enable_grpc_healthcheck_service: bool = False
    grpc_socket_path: str = ""
    grpc_channel_arguments: str = ""
    saved_model_tags: str = "serve"
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    per_process_gpu_memory_fraction: float = 0.0
    max_message_bytes: int = 64 << 20
    max_json_bytes: int = 16 << 20
    max_concurrent_requests: int = 1000
    max_buffered_bytes: int = 512 << 20
    shutdown_grace_seconds: float = 30.0


_HELP = {
    "host": "address to listen on; 0.0.0.0 lets other machines in (not a flag of TensorFlow Serving)",
    "port": "port of the gRPC interface, 0 for none",
    "rest_api_port": "port of the REST interface, 0 for none",
    "rest_api_num_threads": "threads that work on requests, of both interfaces; with batching at least those that fill batches",
    "rest_api_timeout_in_ms": "time that a REST request may take",
    "model_config_file": "model config in protobuf text form; not together with --model_base_path",
    "model_config_file_poll_wait_seconds": "how often that file is read again, 0: never",
    "file_system_poll_wait_seconds": "how often base paths are looked at for versions; 0: once, below 0: never",
    "max_message_bytes": "largest request taken, after decompression (own flag)",
    "max_json_bytes": "largest REST body taken, since other requests wait while JSON is parsed (own flag)",
    "max_concurrent_requests": "requests under way before RESOURCE_EXHAUSTED / 503 is answered (own flag)",
    "max_buffered_bytes": "bytes of REST bodies held before 503 is answered (own flag)",
    "shutdown_grace_seconds": "time that requests under way get after SIGTERM (own flag)",
}


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _add(parser: argparse.ArgumentParser, name: str, default: object) -> None:
    kind = type(default)
    text = _HELP.get(name, "as in tensorflow_model_server") + f" (default {default!r})"
    if kind is bool:
        parser.add_argument(f"--{name}", nargs="?", const=True, default=default, type=_boolean, help=text)
    else:
        parser.add_argument(f"--{name}", default=default, type=kind, help=text)


def parse_flags(arguments: Sequence[str] | None = None) -> Flags:
    """Reads the command line; exits with a usage text where it does not fit."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__, allow_abbrev=False)
    for field in fields(Flags):
        _add(parser, field.name, field.default)
    flags = Flags(**vars(parser.parse_args(arguments)))
    if bool(flags.model_config_file) == bool(flags.model_base_path):
        parser.error("give either --model_config_file or --model_base_path")
    if flags.batching_parameters_file and not flags.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    return flags
