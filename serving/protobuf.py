"""Protobuf messages described in Python: those whose generated classes are not shipped, or would import TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2

Field = descriptor_pb2.FieldDescriptorProto
INT64_VALUE, BOOL_VALUE, STRING_VALUE = (f".google.protobuf.{name}Value" for name in ("Int64", "Bool", "String"))


def field(name: str, number: int, kind: int, type_name: str = "", repeated: bool = False) -> Field:
    """A field; `kind` is one of `Field.TYPE_*`, `type_name` that of a message."""
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    return Field(name=name, number=number, type=kind, type_name=type_name or None, label=label)


def message_field(name: str, number: int, type_name: str, repeated: bool = False) -> Field:
    """A field that holds a message."""
    return field(name, number, Field.TYPE_MESSAGE, type_name, repeated)


def message(
    name: str, fields: Sequence[Field], nested: Sequence[descriptor_pb2.DescriptorProto] = ()
) -> descriptor_pb2.DescriptorProto:
    """A message type."""
    return descriptor_pb2.DescriptorProto(name=name, field=fields, nested_type=nested)


def map_entry(name: str, value: Field) -> descriptor_pb2.DescriptorProto:
    """The hidden type behind a map from strings; `value` is its field 2."""
    entry = message(name, [field("key", 1, Field.TYPE_STRING), value])
    entry.options.map_entry = True
    return entry


def make_pool(
    name: str, package: str, messages: Sequence[descriptor_pb2.DescriptorProto]
) -> descriptor_pool.DescriptorPool:
    """A pool of its own with one file of messages, which may use the wrapper types."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    dependency = [wrappers_pb2.DESCRIPTOR.name]
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=dependency)
    file.message_type.extend(messages)
    pool.Add(file)
    return pool
