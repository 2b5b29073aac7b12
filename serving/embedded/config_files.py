"""The flag files in protobuf text form: model config, monitoring config and batching parameters.

`tensorflow-serving-api` ships the message types of the first; those of the other two are described here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import message, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import protobuf
from serving.embedded.errors import invalid
from serving.protobuf import BOOL_VALUE, INT64_VALUE, STRING_VALUE, Field, field, make_pool, message_field

_TEXT = Field.TYPE_STRING
_POOL = make_pool(
    "serving/embedded/flag_files.proto",
    "serving.embedded",
    [
        protobuf.message(
            "BatchingParameters",
            [
                message_field("max_batch_size", 1, INT64_VALUE),
                message_field("batch_timeout_micros", 2, INT64_VALUE),
                message_field("max_enqueued_batches", 3, INT64_VALUE),
                message_field("num_batch_threads", 4, INT64_VALUE),
                message_field("thread_pool_name", 5, STRING_VALUE),
                field("allowed_batch_sizes", 6, Field.TYPE_INT64, repeated=True),
                field("pad_variable_length_inputs", 7, Field.TYPE_BOOL),
                message_field("enable_large_batch_splitting", 8, BOOL_VALUE),
                message_field("max_execution_batch_size", 9, INT64_VALUE),
            ],
        ),
        protobuf.message("PrometheusConfig", [field("enable", 1, Field.TYPE_BOOL), field("path", 2, _TEXT)]),
        protobuf.message(
            "MonitoringConfig", [message_field("prometheus_config", 1, ".serving.embedded.PrometheusConfig")]
        ),
    ],
)


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are merged into batches; the defaults are those of TensorFlow Serving.

    Args:
        max_batch_size: Rows in a batch at most.
        batch_timeout_micros: How long a batch waits for more rows.
        max_enqueued_batches: Batches waiting for a thread before requests are turned away.
        num_batch_threads: Batches run at once.
        allowed_batch_sizes: Sizes that batches are padded to, ascending, the last being `max_batch_size`; empty: any.
        pad_variable_length_inputs: Whether inputs that differ behind the first dimension are padded to fit.
        enable_large_batch_splitting: Whether a request over `max_execution_batch_size` is cut up rather than refused.
        max_execution_batch_size: The size of the pieces.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 4
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if self.max_batch_size < 1 or self.num_batch_threads < 1:
            raise ValueError("`max_batch_size` and `num_batch_threads` must be at least 1. Received: " + repr(self))
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError(
                "`allowed_batch_sizes` must ascend and end with `max_batch_size`. Received: "
                f"{list(sizes)}, max_batch_size={self.max_batch_size}."
            )


def read(path: str) -> bytes:
    """The bytes of a flag file.

    Raises:
        ServingError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise invalid(f"Cannot read {path}: {error.strerror}") from error


def _parse(data: bytes, target: message.Message, what: str) -> Any:
    try:
        return text_format.Parse(data.decode(), target)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise invalid(f"Invalid protobuf file: {what}: {error}") from error


def _message(name: str) -> message.Message:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"serving.embedded.{name}"))()


def parse_model_config(data: bytes, path: str) -> model_server_config_pb2.ModelServerConfig:
    """Parses the bytes of `--model_config_file`, which lies at `path`.

    Raises:
        ServingError: If they are no such text.
    """
    return _parse(data, model_server_config_pb2.ModelServerConfig(), path)


def read_prometheus_path(path: str) -> str | None:
    """The page of the metrics in the file of `--monitoring_config_file`, or None where it is off."""
    config = _parse(read(path), _message("MonitoringConfig"), path).prometheus_config
    return (config.path or "/monitoring/prometheus/metrics") if config.enable else None


def read_batching_parameters(path: str) -> BatchingParameters:
    """Reads the file of `--batching_parameters_file`."""
    parsed = _parse(read(path), _message("BatchingParameters"), path)
    values: dict[str, Any] = {}
    for given, value in parsed.ListFields():
        if given.label == given.LABEL_REPEATED:
            values[given.name] = tuple(value)
        elif given.name != "thread_pool_name":
            values[given.name] = value.value if given.message_type else value
    return BatchingParameters(**values)
