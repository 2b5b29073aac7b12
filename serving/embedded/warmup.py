"""Warm-up: requests recorded beside a model run before it serves, so that its first real request is not its slowest."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded.errors import Code, ServingError, from_exception, invalid
from serving.embedded.inference import Inference

_LOG = logging.getLogger(__name__)
_MAX_RECORDS = 1000


def warm_up(path: Path, inference: Inference, repetitions: int) -> int:
    """Runs the requests in `assets.extra/tf_serving_warmup_requests` below `path`, if there are any.

    Returns:
        The number of records.

    Raises:
        ServingError: If the file is damaged or a request fails, which makes the load fail.
    """
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not file.exists():
        return 0
    count = 0
    for count, log in enumerate(_records(file), start=1):
        if count > _MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}")
        for _ in range(repetitions):
            _run(log, inference)
    _LOG.info("Warmed up %s with %d records", path, count)
    return count


def _records(file: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(file)):
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except tf.errors.DataLossError as error:
        hint = ". Please verify your warmup data is in TFRecord format."
        raise ServingError(Code.DATA_LOSS, error.message + hint) from error
    except message.DecodeError as error:
        raise invalid(f"Failed to parse warmup record from {file}") from error
    except tf.errors.OpError as error:
        raise from_exception(error) from error


def _run(log: prediction_log_pb2.PredictionLog, inference: Inference) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        inference.predict(request.model_spec.signature_name, request.inputs, request.output_filter, 0)
    elif kind == "classify_log":
        inference.classify(log.classify_log.request.model_spec.signature_name, log.classify_log.request.input, 0)
    elif kind == "regress_log":
        inference.regress(log.regress_log.request.model_spec.signature_name, log.regress_log.request.input, 0)
    elif kind == "multi_inference_log":
        inference.multi_inference(log.multi_inference_log.request.tasks, log.multi_inference_log.request.input, 0)
    else:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
