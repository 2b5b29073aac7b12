"""A SavedModel in a session of its own, loaded step by step like TensorFlow's C++ loader.

The graph runs in a TF1 session, as in TensorFlow Serving: signatures are feeds and fetches of one graph, feeds are checked by
type but not by shape, and a run can be given a time limit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message, text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import op_def_registry

from serving.embedded import tensor_codec
from serving.embedded.errors import Code, ServingError, from_exception, invalid

_LOG = logging.getLogger(__name__)
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


@dataclass(frozen=True)
class Signature:
    """A signature with its tensor names at hand; `proto` is the whole of it."""

    name: str
    proto: meta_graph_pb2.SignatureDef
    inputs: Mapping[str, str]
    input_types: Mapping[str, int]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class _Endpoint:
    handle: Any
    dtype: int


class SavedModel:
    """A loaded SavedModel.

    Args:
        path: The version folder.
        tags: The tag set of the meta graph to load.
        config: Options of the session.

    Raises:
        ServingError: If it cannot be loaded.
    """

    def __init__(self, path: Path, tags: Sequence[str], config: tf.compat.v1.ConfigProto) -> None:
        self._path = path
        self.meta_graph = _read_meta_graph(path, frozenset(tags))
        load_missing_ops(self.meta_graph)
        self._endpoints: dict[str, _Endpoint] = {}
        self.signatures = {name: _signature(name, proto) for name, proto in self.meta_graph.signature_def.items()}
        try:
            graph = tf.Graph()
            with graph.as_default():
                producer = self.meta_graph.meta_info_def.stripped_op_list
                tf.import_graph_def(self.meta_graph.graph_def, name="", producer_op_list=producer)
            self._session = tf.compat.v1.Session(graph=graph, config=config)
            self._start()
        except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
            known = error if isinstance(error, tf.errors.OpError) else invalid(str(error))
            raise from_exception(known) from error

    def _start(self) -> None:
        try:
            self._restore()
            self._initialise()
        except BaseException:
            self._session.close()
            raise

    def _restore(self) -> None:
        variables = self._path / "variables" / "variables"
        saver = self.meta_graph.saver_def
        if not variables.with_suffix(".index").exists() or not saver.restore_op_name:
            _LOG.info("%s has no variables", self._path)
            return
        self._session.run(saver.restore_op_name, {saver.filename_tensor_name: str(variables), **self._assets()})

    def _initialise(self) -> None:
        name = self._init_op()
        if name:
            self._session.run(self._session.graph.as_graph_element(name), self._assets())

    def _init_op(self) -> str:
        if _INIT_SIGNATURE in self.meta_graph.signature_def:
            return self.meta_graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name
        for collection in _INIT_COLLECTIONS:
            if self.meta_graph.collection_def[collection].node_list.value:
                return self.meta_graph.collection_def[collection].node_list.value[0]
        return ""

    def _assets(self) -> dict[str, str]:
        """Paths of the files that the graph reads when it starts; TensorFlow 1 kept their list in a collection."""
        listed = list(self.meta_graph.asset_file_def)
        if not listed:
            for packed in self.meta_graph.collection_def["saved_model_assets"].any_list.value:
                listed.append(meta_graph_pb2.AssetFileDef())
                packed.Unpack(listed[-1])
        return {asset.tensor_info.name: str(self._path / "assets" / asset.filename) for asset in listed}

    def _endpoint(self, name: str) -> _Endpoint:
        if name not in self._endpoints:
            try:
                tensor = self._session.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
            except (KeyError, ValueError) as error:
                raise invalid(
                    f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
                ) from error
            self._endpoints[name] = _Endpoint(tensor._as_tf_output(), tensor.dtype.as_datatype_enum)
        return self._endpoints[name]

    def check_types(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Refuses feeds of another type than the graph wants.

        Raises:
            ServingError: In the words of TensorFlow's session, which numbers feeds in the order of their names.
        """
        for number, name in enumerate(sorted(feeds)):
            wanted, given = self._endpoint(name).dtype, tensor_codec.dtype_number(feeds[name])
            if wanted != given:
                raise invalid(
                    f"Expects arg[{number}] to be {tensor_codec.dtype_name(wanted)} but "
                    f"{tensor_codec.dtype_name(given)} is provided"
                )

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int) -> list[np.ndarray]:
        """Runs the graph.

        Args:
            feeds: Arrays by tensor name.
            fetches: The names of the tensors wanted.
            timeout_ms: Time limit, 0 for none.

        Returns:
            The arrays of `fetches`.

        Raises:
            ServingError: With the code and the text of the operation that failed.
        """
        self.check_types(feeds)
        by_handle = {self._endpoint(name).handle: array for name, array in feeds.items()}
        handles = [self._endpoint(name).handle for name in fetches]
        try:
            results = self._call(by_handle, handles, timeout_ms)
        except tf.errors.OpError as error:
            raise from_exception(error) from error
        return [_as_array(result, self._endpoint(name).dtype) for result, name in zip(results, fetches, strict=True)]

    def _call(self, feeds: dict[Any, np.ndarray], fetches: list[Any], timeout_ms: int) -> list[Any]:
        """`Session.run` without its check of feeds against declared shapes, which TensorFlow Serving does not make."""
        options = tf.compat.v1.RunOptions(timeout_in_ms=timeout_ms) if timeout_ms else None
        packed = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString()) if options else None
        try:
            return self._session._call_tf_sessionrun(packed, feeds, fetches, [], None)
        finally:
            if packed is not None:
                pywrap_tf_session.TF_DeleteBuffer(packed)

    def close(self) -> None:
        """Frees the session; no run may be under way."""
        self._session.close()


def _as_array(result: Any, dtype: int) -> np.ndarray:
    """A scalar string comes out of a session as bytes, everything else as an array or NumPy scalar."""
    if dtype == types_pb2.DT_STRING and not isinstance(result, np.ndarray):
        array = np.empty((), np.object_)
        array[()] = result
        return array
    return np.asarray(result)


def _signature(name: str, proto: meta_graph_pb2.SignatureDef) -> Signature:
    return Signature(
        name=name,
        proto=proto,
        inputs={alias: info.name for alias, info in proto.inputs.items()},
        input_types={alias: info.dtype for alias, info in proto.inputs.items()},
        outputs={alias: info.name for alias, info in proto.outputs.items()},
    )


def _read_meta_graph(path: Path, tags: frozenset[str]) -> meta_graph_pb2.MetaGraphDef:
    saved_model = _read_saved_model(path)
    for meta_graph in saved_model.meta_graphs:
        if frozenset(meta_graph.meta_info_def.tags) == tags:
            return meta_graph
    raise ServingError(
        Code.NOT_FOUND,
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To inspect available "
        "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    )


def _read_saved_model(path: Path) -> saved_model_pb2.SavedModel:
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    saved_model = saved_model_pb2.SavedModel()
    try:
        if binary.exists():
            saved_model.ParseFromString(binary.read_bytes())
        elif text.exists():
            text_format.Parse(text.read_text(encoding="utf-8"), saved_model)
        else:
            raise ServingError(
                Code.NOT_FOUND,
                "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
                f"`saved_model.pb`)\nSpecified file path: {path}",
            )
    except message.DecodeError as error:
        raise ServingError(Code.DATA_LOSS, f"Can't parse {binary} as binary proto") from error
    except text_format.ParseError as error:
        raise ServingError(Code.DATA_LOSS, f"Can't parse {text} as text proto") from error
    return saved_model


def _registered(op: str) -> bool:
    return op_def_registry.get(op) is not None


def load_missing_ops(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Imports the libraries with further operations (ScaNN, TF-Text), where installed, if the graph needs any.

    Raises:
        ServingError: If an operation is still missing afterwards.
    """
    functions = meta_graph.graph_def.library
    nodes = [*meta_graph.graph_def.node, *(node for function in functions.function for node in function.node_def)]
    own = {function.signature.name for function in functions.function}
    wanted = {node.op for node in nodes} - own
    if any(not _registered(op) for op in wanted):
        _import_op_libraries()
    missing = sorted(op for op in wanted if not _registered(op))
    if missing:
        raise ServingError(Code.NOT_FOUND, f"Op type not registered '{missing[0]}' in this server")


def _import_op_libraries() -> None:
    for library in ("tensorflow_text", "scann"):
        try:
            __import__(library)
        except (ImportError, tf.errors.OpError) as error:
            _LOG.info("No operations of %s: %s", library, error)
