"""What both interfaces offer, without their wire forms: requests in, responses or `ServingError` out.

All methods block and run on worker threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded import config_files, json_input, json_output, tensor_codec
from serving.embedded.batching import Batcher
from serving.embedded.errors import Code, ServingError, from_exception, invalid
from serving.embedded.flags import Flags
from serving.embedded.inference import DEFAULT_SIGNATURE, Inference, Runner, count_examples
from serving.embedded.manager import ModelManager
from serving.embedded.metrics import OTHER, Metrics
from serving.embedded.saved_model import SavedModel
from serving.embedded.servable import Servable
from serving.embedded.warmup import warm_up

_LOG = logging.getLogger(__name__)
_SIGNATURE_DEF = "signature_def"
_LONGEST_LABEL = 256  # characters of a name that no model has; longer ones would fill memory and the page of metrics


class Core:
    """The models and the calls on them.

    Args:
        flags: The command line.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self.metrics = Metrics()
        self.manager = ModelManager(self._load, flags)
        self._batching = _batching_parameters(flags)

    @property
    def threads(self) -> int:
        """The worker threads that calls need: a request holds one while it waits for its batch."""
        threads = max(1, self._flags.rest_api_num_threads)
        if self._batching is None:
            return threads
        rows = self._batching.max_batch_size * self._batching.num_batch_threads
        return max(threads, min(rows, self._flags.max_concurrent_requests))

    # --------------------------------------------------------------- loading

    def _load(self, name: str, version: int, path: Path) -> Servable:
        status = Code.OK.name
        try:
            return self._load_and_warm_up(name, version, path)
        except Exception as error:
            status = from_exception(error).code.name
            raise
        finally:
            self.metrics.load_attempts.add(str(path), status)

    def _load_and_warm_up(self, name: str, version: int, path: Path) -> Servable:
        model = SavedModel(path, self._flags.saved_model_tags.split(","), _session_config(self._flags))
        inference = Inference(
            model.signatures, self._runner(name, model), self._flags.enable_signature_method_name_check
        )
        try:
            if self._flags.enable_model_warmup:
                self._warm_up(path, inference)
        except BaseException:
            model.close()
            raise
        return Servable(name, version, model, inference)

    def _runner(self, name: str, model: SavedModel) -> Runner:
        if self._batching is None:
            return model
        return Batcher(model, self._batching, lambda rows: self.metrics.batch_size.add(name, value=rows))

    def _warm_up(self, path: Path, inference: Inference) -> None:
        start = time.monotonic()
        if warm_up(path, inference, self._flags.num_request_iterations_for_warmup):
            self.metrics.warmup_latency.add(str(path), Code.OK.name, value=(time.monotonic() - start) * 1e6)

    # -------------------------------------------------------------- measuring

    @contextmanager
    def measured(self, name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts a request and its time; turns whatever goes wrong into a `ServingError`."""
        start, status = time.monotonic(), Code.OK.name
        try:
            yield
        except ServingError as error:
            status = error.code.name
            raise
        except Exception as error:
            status = from_exception(error).code.name
            if status == Code.INTERNAL.name:
                _LOG.exception("%s on %s failed", api, name)
            raise from_exception(error) from error  # no variable holds it, see `Workers`
        finally:
            is_kept = len(name) <= _LONGEST_LABEL or self.manager.has(name)
            self.metrics.request_count.add(name if is_kept else OTHER, status)
            if status == Code.OK.name:
                self.metrics.request_latency.add(name, api, entrypoint, value=(time.monotonic() - start) * 1e6)

    @contextmanager
    def _running(self, name: str, api: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.metrics.runtime_latency.add(name, api, "TF1", value=(time.monotonic() - start) * 1e6)

    def _count_examples(self, name: str, count: int) -> None:
        self.metrics.example_count.add(name, by=count)
        self.metrics.example_counts.add(name, value=count)

    # ------------------------------------------------------------------ calls

    def predict(self, request: predict_pb2.PredictRequest, timeout_ms: int) -> predict_pb2.PredictResponse:
        """PredictionService.Predict."""
        spec = request.model_spec
        with self.measured(spec.name, "Predict", "GRPC"):
            _require_spec(request)
            with self.manager.servable(spec) as servable, self._running(spec.name, "Predict"):
                outputs = servable.inference.predict(
                    spec.signature_name, request.inputs, request.output_filter, timeout_ms
                )
            response = predict_pb2.PredictResponse(model_spec=_answer_spec(servable, spec.signature_name))
            for alias, array in outputs.items():
                response.outputs[alias].CopyFrom(tensor_codec.encode(array))
            return response

    def predict_json(self, spec: model_pb2.ModelSpec, body: bytes, timeout_ms: int) -> bytes:
        """REST `:predict`."""
        with self.measured(spec.name, "predict", "REST"):
            parsed = json_input.parse_predict(body, lambda name: self._input_types(spec, name))
            with self.manager.servable(spec) as servable, self._running(spec.name, "Predict"):
                outputs = servable.inference.predict(parsed.signature_name, parsed.inputs, (), timeout_ms)
            return json_output.row_body(outputs) if parsed.is_row_form else json_output.columnar_body(outputs)

    def _input_types(self, spec: model_pb2.ModelSpec, signature_name: str) -> json_input.Inputs:
        name = signature_name or DEFAULT_SIGNATURE
        with self.manager.servable(spec) as servable:
            if name not in servable.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            return servable.signatures[name].input_types

    def classify(
        self, request: classification_pb2.ClassificationRequest, timeout_ms: int, entrypoint: str = "GRPC"
    ) -> classification_pb2.ClassificationResponse:
        """PredictionService.Classify."""
        spec = request.model_spec
        with self.measured(spec.name, "Classify" if entrypoint == "GRPC" else "classify", entrypoint):
            _require_spec(request)
            with self.manager.servable(spec) as servable, self._running(spec.name, "Classify"):
                result = servable.inference.classify(spec.signature_name, request.input, timeout_ms)
            self._count_examples(spec.name, count_examples(request.input))
            answer_spec = _answer_spec(servable, spec.signature_name)
            return classification_pb2.ClassificationResponse(result=result, model_spec=answer_spec)

    def classify_json(self, spec: model_pb2.ModelSpec, body: bytes, timeout_ms: int) -> bytes:
        """REST `:classify`."""
        request = classification_pb2.ClassificationRequest()
        self._fill_examples(request, spec, body, "classify")
        return json_output.classify_body(self.classify(request, timeout_ms, "REST").result)

    def regress(
        self, request: regression_pb2.RegressionRequest, timeout_ms: int, entrypoint: str = "GRPC"
    ) -> regression_pb2.RegressionResponse:
        """PredictionService.Regress."""
        spec = request.model_spec
        with self.measured(spec.name, "Regress" if entrypoint == "GRPC" else "regress", entrypoint):
            _require_spec(request)
            with self.manager.servable(spec) as servable, self._running(spec.name, "Regress"):
                result = servable.inference.regress(spec.signature_name, request.input, timeout_ms)
            self._count_examples(spec.name, count_examples(request.input))
            return regression_pb2.RegressionResponse(
                result=result, model_spec=_answer_spec(servable, spec.signature_name)
            )

    def regress_json(self, spec: model_pb2.ModelSpec, body: bytes, timeout_ms: int) -> bytes:
        """REST `:regress`."""
        request = regression_pb2.RegressionRequest()
        self._fill_examples(request, spec, body, "regress")
        return json_output.regress_body(self.regress(request, timeout_ms, "REST").result)

    def _fill_examples(
        self,
        request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest,
        spec: model_pb2.ModelSpec,
        body: bytes,
        api: str,
    ) -> None:
        request.model_spec.CopyFrom(spec)
        try:
            request.model_spec.signature_name, examples = json_input.parse_examples(body)
        except Exception as error:
            with self.measured(spec.name, api, "REST"):
                raise error
        request.input.CopyFrom(examples)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, timeout_ms: int
    ) -> inference_pb2.MultiInferenceResponse:
        """PredictionService.MultiInference; the first task chooses the version."""
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self.measured(spec.name, "MultiInference", "GRPC"):
            with self.manager.servable(spec) as servable, self._running(spec.name, "MultiInference"):
                results = servable.inference.multi_inference(request.tasks, request.input, timeout_ms)
            self._count_examples(spec.name, count_examples(request.input))
            for task, result in zip(request.tasks, results, strict=True):
                result.model_spec.CopyFrom(_answer_spec(servable, task.model_spec.signature_name))
            return inference_pb2.MultiInferenceResponse(results=results)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """PredictionService.GetModelMetadata."""
        _require_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.manager.servable(request.model_spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature.proto)
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """ModelService.GetModelStatus; a label is not looked at."""
        _require_spec(request)
        spec = request.model_spec
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in self.manager.states(spec.name, spec.version.value if spec.HasField("version") else None):
            row = response.model_version_status.add(version=version, state=state.state)
            row.status.SetInParent()
            if state.error is not None:
                row.status.error_code = state.error.code.value[0]
                row.status.error_message = state.error.message
        return response

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest, given_up: threading.Event
    ) -> model_management_pb2.ReloadConfigResponse:
        """ModelService.HandleReloadConfigRequest."""
        before = {name: self.metrics.total(name) for name in request.metric_names}
        self.manager.reload(request.config, given_up)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            response.metric.add(name=name, int64_value_increase=self.metrics.total(name) - count)
        return response


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):  # type: ignore[attr-defined]
        raise invalid("Missing ModelSpec")


def _answer_spec(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name or DEFAULT_SIGNATURE)
    spec.version.value = servable.version
    return spec


def _batching_parameters(flags: Flags) -> config_files.BatchingParameters | None:
    if not flags.enable_batching:
        return None
    if not flags.batching_parameters_file:
        return config_files.BatchingParameters()
    try:
        return config_files.read_batching_parameters(flags.batching_parameters_file)
    except ValueError as error:
        raise invalid(f"{flags.batching_parameters_file}: {error}") from error


def _session_config(flags: Flags) -> tf.compat.v1.ConfigProto:
    threads = flags.tensorflow_session_parallelism
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads or flags.tensorflow_intra_op_parallelism,
        inter_op_parallelism_threads=threads or flags.tensorflow_inter_op_parallelism,
        allow_soft_placement=True,
    )
    config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    config.gpu_options.allow_growth = not flags.per_process_gpu_memory_fraction
    return config
