"""Warm-up: requests that a server replays when it loads a version, so that the first user does not pay for what is lazy.

TensorFlow Serving reads them from `assets.extra/tf_serving_warmup_requests`, a TFRecord file of `PredictionLog` messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfrec.data.schema import Dataset
from tfrec.errors import TfrecError
from tfrec.evaluation.evaluate import EvaluationTask
from tfrec.export.log_requests import Inputs, SignatureCall, no_filters, task_requests, tensors
from tfrec.export.request import CHOICE_SPECS, FILTER_SPECS

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_REQUESTS = 1000
"""More make TensorFlow Serving refuse the version."""

_LARGE_BATCH = 32
_RANKED = 20
_CALLS = (
    ("serving_default", 1),
    ("recommend", 1),
    ("serving_default", _LARGE_BATCH),
    ("retrieve", 1),
    ("rank", 1),
    ("embed_user", 1),
    ("similar_videos", 1),
    ("embed_candidate", 1),
    ("search", 1),
    ("recommend", _LARGE_BATCH),
    ("recommend_filtered", 1),
    ("retrieve_filtered", 1),
)
"""Signatures and batch sizes, the most important first."""

FILTERED = {
    "recommend_filtered": [spec.name for spec in (*FILTER_SPECS, *CHOICE_SPECS)],
    "retrieve_filtered": [spec.name for spec in FILTER_SPECS],
}
"""What these signatures take besides the inputs of `recommend`."""


def recommender_calls(
    dataset: Dataset, task: EvaluationTask, signatures: Collection[str], count: int, k: int
) -> list[SignatureCall]:
    """Real requests to the recommender, drawn from the log.

    Args:
        dataset: of the task.
        task: whose requests are taken, in turn.
        signatures: those that the recommender has.
        count: calls wanted; signatures and batch sizes take turns.
        k: slots wanted.

    Returns:
        The calls; none where the task asks nobody.
    """
    kinds = [call for call in _CALLS if call[0] in signatures]
    calls, asked = [], 0
    for number in range(min(count, MAX_REQUESTS) if len(task) else 0):
        signature, batch_size = kinds[number % len(kinds)]
        positions = (asked + np.arange(batch_size)) % len(task)
        asked += batch_size
        calls.append(SignatureCall(signature, _inputs(dataset, task, signature, positions, k)))
    return calls


def _inputs(dataset: Dataset, task: EvaluationTask, signature: str, positions: np.ndarray[Any, Any], k: int) -> Inputs:
    videos = positions % len(dataset.videos)
    if signature in ("similar_videos", "embed_candidate"):
        return {"video_id": dataset.videos.ids[videos]}
    if signature == "search":
        return {"query": dataset.videos.texts[videos]}
    requests = task_requests(dataset, task, positions, k)
    if signature in FILTERED:
        filters = no_filters(len(positions))
        filters["allow"] = dataset.videos.ids[(videos[:, None] + np.arange(_RANKED)) % len(dataset.videos)]
        return requests | {name: filters[name] for name in FILTERED[signature]}
    if signature == "rank":
        ranked = (videos[:, None] + np.arange(_RANKED)) % len(dataset.videos)
        requests["candidate"] = dataset.videos.ids[ranked]
    return requests


def write_warmup(saved_model: Path, name: str, calls: Sequence[SignatureCall]) -> None:
    """Writes the warm-up file of a SavedModel.

    Args:
        saved_model: its folder.
        name: of the model.
        calls: what to replay, at most `MAX_REQUESTS`.

    Raises:
        TfrecError: If the inputs of a call differ in their first dimension; servers join requests along it (`--enable_batching`),
            and would refuse the call, and so the model.
    """
    for call in calls:
        sizes = {key: len(values) for key, values in call.inputs.items()}
        if len(set(sizes.values())) > 1:
            raise TfrecError(
                f"The inputs of `{call.signature}` must have one batch dimension in common. Received: {sizes}."
            )
    path = saved_model / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for call in calls:
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = name, call.signature
            for key, tensor in tensors(call.inputs).items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(tensor.numpy(), tensor.dtype, tensor.shape))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            file.write(log.SerializeToString())


def read_warmup(saved_model: Path) -> Iterator[SignatureCall]:
    """The calls in the warm-up file of a SavedModel; none where it has no file."""
    path = saved_model / WARMUP_FILE
    if not path.exists():
        return
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        yield SignatureCall(request.model_spec.signature_name, inputs)


def replay_warmup(saved_model: Path, loaded: Any = None) -> int:
    """Calls a SavedModel with its warm-up requests, as a server does.

    Args:
        saved_model: its folder.
        loaded: what `tf.saved_model.load` returned for it, if it is loaded already.

    Returns:
        The number of requests replayed.

    Raises:
        TfrecError: If a request does not fit the model.
    """
    signatures = (loaded or tf.saved_model.load(str(saved_model))).signatures
    calls = list(read_warmup(saved_model))
    for number, call in enumerate(calls):
        try:
            signatures[call.signature](**tensors(call.inputs))
        except (KeyError, TypeError, tf.errors.OpError) as error:
            raise TfrecError(f"Warm-up request {number} does not fit `{call.signature}`: {error}") from error
    return len(calls)
