"""The flag files in protobuf text form: model config, monitoring config and batching parameters.

`tensorflow-serving-api` ships the message types of the first; those of the other two are described here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded.errors import invalid

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _BOOL = ".google.protobuf.Int64Value", ".google.protobuf.BoolValue"


def _field(name: str, number: int, kind: int, type_name: str = "", repeated: bool = False) -> _Field:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    return _Field(name=name, number=number, type=kind, type_name=type_name or None, label=label)


def _wrapped(name: str, number: int, type_name: str) -> _Field:
    return _field(name, number, _Field.TYPE_MESSAGE, type_name)


_FILE = descriptor_pb2.FileDescriptorProto(
    name="serving/embedded/flag_files.proto",
    package="serving.embedded",
    syntax="proto3",
    dependency=[wrappers_pb2.DESCRIPTOR.name],
    message_type=[
        descriptor_pb2.DescriptorProto(
            name="BatchingParameters",
            field=[
                _wrapped("max_batch_size", 1, _INT64),
                _wrapped("batch_timeout_micros", 2, _INT64),
                _wrapped("max_enqueued_batches", 3, _INT64),
                _wrapped("num_batch_threads", 4, _INT64),
                _wrapped("thread_pool_name", 5, ".google.protobuf.StringValue"),
                _field("allowed_batch_sizes", 6, _Field.TYPE_INT64, repeated=True),
                _field("pad_variable_length_inputs", 7, _Field.TYPE_BOOL),
                _wrapped("enable_large_batch_splitting", 8, _BOOL),
                _wrapped("max_execution_batch_size", 9, _INT64),
            ],
        ),
        descriptor_pb2.DescriptorProto(
            name="PrometheusConfig",
            field=[_field("enable", 1, _Field.TYPE_BOOL), _field("path", 2, _Field.TYPE_STRING)],
        ),
        descriptor_pb2.DescriptorProto(
            name="MonitoringConfig",
            field=[_wrapped("prometheus_config", 1, ".serving.embedded.PrometheusConfig")],
        ),
    ],
)
_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(_FILE)


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


def _parse(text: str, target: message.Message, what: str) -> Any:
    try:
        return text_format.Parse(text, target)
    except text_format.ParseError as error:
        raise invalid(f"Invalid protobuf file: {what}: {error}") from error


def _message(name: str) -> message.Message:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"serving.embedded.{name}"))()


def read_model_config(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Reads the file of `--model_config_file`.

    Raises:
        ServingError: If it is no such text.
        OSError: If it cannot be read.
    """
    return _parse(Path(path).read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig(), path)


def read_prometheus_path(path: str) -> str | None:
    """The page of the metrics in the file of `--monitoring_config_file`, or None where it is off."""
    config = _parse(Path(path).read_text(encoding="utf-8"), _message("MonitoringConfig"), path).prometheus_config
    return (config.path or "/monitoring/prometheus/metrics") if config.enable else None


def read_batching_parameters(path: str) -> BatchingParameters:
    """Reads the file of `--batching_parameters_file`."""
    parsed = _parse(Path(path).read_text(encoding="utf-8"), _message("BatchingParameters"), path)
    values: dict[str, Any] = {}
    for field, value in parsed.ListFields():
        if field.label == field.LABEL_REPEATED:
            values[field.name] = tuple(value)
        elif field.name != "thread_pool_name":
            values[field.name] = value.value if field.message_type else value
    return BatchingParameters(**values)
