"""Predict, classify, regress and multi-inference on a loaded version, with TensorFlow Serving's checks in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.embedded import tensor_codec
from serving.embedded.errors import Code, ServingError, invalid
from serving.embedded.saved_model import Signature

DEFAULT_SIGNATURE = "serving_default"
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))
Value = np.ndarray | tensor_pb2.TensorProto


class Runner(Protocol):
    """What runs feeds to fetches: a `SavedModel` or a `Batcher`."""

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int) -> list[np.ndarray]:
        """Runs the graph once."""


@dataclass(frozen=True)
class Inference:
    """The four calls on one loaded version.

    Args:
        signatures: The signatures of the model, by name.
        runner: What runs them.
        checks_method_names: Whether a signature must be made for the call (`--enable_signature_method_name_check`).
    """

    signatures: Mapping[str, Signature]
    runner: Runner
    checks_method_names: bool = False

    def predict(
        self, signature_name: str, values: Mapping[str, Value], output_filter: Sequence[str], timeout_ms: int
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: Its name, "" for the default.
            values: Inputs by alias.
            output_filter: The outputs wanted, empty for all.
            timeout_ms: Time limit, 0 for none.

        Returns:
            Outputs by alias.
        """
        name = signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        self._check_predict_method(signature)
        feeds = _feeds(signature, values)
        outputs = _filtered(signature, output_filter)
        results = self.runner.run(feeds, list(outputs.values()), timeout_ms)
        return dict(zip(outputs, results, strict=True))

    def _check_predict_method(self, signature: Signature) -> None:
        if self.checks_method_names and signature.proto.method_name not in (PREDICT, CLASSIFY, REGRESS):
            raise ServingError(
                Code.INTERNAL,
                f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. "
                f"Was: {signature.proto.method_name}",
            )

    def classify(
        self, signature_name: str, examples: input_pb2.Input, timeout_ms: int
    ) -> classification_pb2.ClassificationResult:
        """Runs a classification signature on `tf.Example`s."""
        signature = self._example_signature(signature_name, "No signature was found with the name: ")
        fetches = self._classify_fetches(signature)
        outputs, count = self._run_examples(signature.inputs["inputs"], fetches, examples, timeout_ms)
        return _classification_result(signature, outputs, count)

    def regress(
        self, signature_name: str, examples: input_pb2.Input, timeout_ms: int
    ) -> regression_pb2.RegressionResult:
        """Runs a regression signature on `tf.Example`s."""
        signature = self._example_signature(signature_name, "No signature was found with the name: ")
        fetches = self._regress_fetches(signature)
        outputs, count = self._run_examples(signature.inputs["inputs"], fetches, examples, timeout_ms)
        return _regression_result(signature, outputs, count)

    def multi_inference(
        self, tasks: Sequence[inference_pb2.InferenceTask], examples: input_pb2.Input, timeout_ms: int
    ) -> list[inference_pb2.InferenceResult]:
        """Runs several classification and regression signatures at once, on the same examples."""
        signatures = self._task_signatures(tasks)
        plans = [self._plan(task, signature) for task, signature in zip(tasks, signatures, strict=True)]
        if len({signature.inputs["inputs"] for signature in signatures}) > 1:
            raise invalid("Input tensor must be the same for all Signatures.")
        fetches = sorted({name for plan in plans for name in plan})
        outputs, count = self._run_examples(signatures[0].inputs["inputs"], fetches, examples, timeout_ms)
        return [_task_result(task, s, outputs, count) for task, s in zip(tasks, signatures, strict=True)]

    def _task_signatures(self, tasks: Sequence[inference_pb2.InferenceTask]) -> list[Signature]:
        signatures: list[Signature] = []
        for task in tasks:
            if not task.model_spec.name:
                raise invalid("Found ModelSpec with an empty model name.")
            if task.model_spec.name != tasks[0].model_spec.name:
                raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            signature_name = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if any(signature.name == signature_name for signature in signatures):
                raise invalid(f"Duplicate evaluation of signature: {signature_name}")
            signatures.append(self._example_signature(signature_name, "Requested signature not found in model graph: "))
        return signatures

    def _plan(self, task: inference_pb2.InferenceTask, signature: Signature) -> list[str]:
        if task.method_name == CLASSIFY:
            return self._classify_fetches(signature)
        if task.method_name == REGRESS:
            return self._regress_fetches(signature)
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")

    def _example_signature(self, name: str, complaint: str) -> Signature:
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise invalid(complaint + name)
        return self.signatures[name]

    def _check_method(self, signature: Signature, kind: str, method: str) -> None:
        if self.checks_method_names and signature.proto.method_name != method:
            raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.proto.method_name}")
        if len(signature.inputs) != 1:
            raise invalid("Expected one input Tensor.")

    def _classify_fetches(self, signature: Signature) -> list[str]:
        self._check_method(signature, "classification", CLASSIFY)
        if len(signature.outputs) not in (1, 2):
            raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
        if "inputs" not in signature.inputs:
            raise invalid(f"No classification inputs found in SignatureDef: {_text(signature)}")
        fetches = [signature.outputs[alias] for alias in ("classes", "scores") if alias in signature.outputs]
        if not fetches:
            raise invalid(
                'Expected classification signature outputs to contain at least one of "classes" or "scores". '
                f"Signature was: {_text(signature)}"
            )
        return fetches

    def _regress_fetches(self, signature: Signature) -> list[str]:
        self._check_method(signature, "regression", REGRESS)
        if len(signature.outputs) != 1:
            raise invalid("Expected one output Tensor.")
        if "inputs" not in signature.inputs:
            raise invalid(f"No regression inputs found in SignatureDef: {_text(signature)}")
        if "outputs" not in signature.outputs:
            raise invalid(f"No regression outputs found in SignatureDef: {_text(signature)}")
        return [signature.outputs["outputs"]]

    def _run_examples(
        self, feed: str, fetches: list[str], examples: input_pb2.Input, timeout_ms: int
    ) -> tuple[dict[str, np.ndarray], int]:
        serialized = _serialize(examples)
        if not serialized.size:
            raise invalid("Input is empty.")
        results = self.runner.run({feed: serialized}, fetches, timeout_ms)
        return dict(zip(fetches, results, strict=True)), len(serialized)


def count_examples(examples: input_pb2.Input) -> int:
    """The number of examples in a request."""
    return len(examples.example_list.examples) + len(examples.example_list_with_context.examples)


def _serialize(examples: input_pb2.Input) -> np.ndarray:
    """Serialized examples `[N]`; the context, put first, is merged into each where it is parsed."""
    if examples.HasField("example_list_with_context"):
        context = examples.example_list_with_context.context.SerializeToString()
        rows = [context + e.SerializeToString() for e in examples.example_list_with_context.examples]
    else:
        rows = [example.SerializeToString() for example in examples.example_list.examples]
    array = np.empty(len(rows), np.object_)
    array[:] = rows
    return array


def _text(signature: Signature) -> str:
    return text_format.MessageToString(signature.proto)


def _set(names: Sequence[str] | set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _feeds(signature: Signature, values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    _check_input_count(signature, values)
    defaults = signature.proto.defaults
    feeds = {}
    for alias, tensor_name in signature.inputs.items():
        if alias in values:
            value = values[alias]
        elif alias in defaults:
            value = defaults[alias]
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {tensor_name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(set(values))}, or default input alias set: "
                f"{','.join(sorted(defaults))}"
            )
        feeds[tensor_name] = value if isinstance(value, np.ndarray) else tensor_codec.decode(value, alias)
    return feeds


def _check_input_count(signature: Signature, values: Mapping[str, Value]) -> None:
    given, wanted = set(values), set(signature.inputs)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.proto.defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({_set(given)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(given - wanted)}. Missing but required: {_set(wanted - given)}."
        )


def _filtered(signature: Signature, output_filter: Sequence[str]) -> Mapping[str, str]:
    chosen: dict[str, str] = {}
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(set(signature.outputs))}."
            )
        if alias in chosen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        chosen[alias] = signature.outputs[alias]
    return chosen or signature.outputs


def _shape_text(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _type_text(array: np.ndarray) -> str:
    return types_pb2.DataType.Name(tensor_codec.dtype_number(array))


def _task_result(
    task: inference_pb2.InferenceTask, signature: Signature, outputs: Mapping[str, np.ndarray], count: int
) -> inference_pb2.InferenceResult:
    result = inference_pb2.InferenceResult()
    if task.method_name == CLASSIFY:
        result.classification_result.CopyFrom(_classification_result(signature, outputs, count))
    else:
        result.regression_result.CopyFrom(_regression_result(signature, outputs, count))
    return result


def _classification_result(
    signature: Signature, outputs: Mapping[str, np.ndarray], count: int
) -> classification_pb2.ClassificationResult:
    classes = outputs.get(signature.outputs.get("classes", ""))
    scores = outputs.get(signature.outputs.get("scores", ""))
    _check_class_output("classes", classes, types_pb2.DT_STRING, count)
    _check_class_output("scores", scores, types_pb2.DT_FLOAT, count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = (classes if classes is not None else scores).shape  # type: ignore[union-attr]
    labels = np.full(shape, b"", np.object_) if classes is None else classes
    values = np.zeros(shape, np.float32) if scores is None else scores
    result = classification_pb2.ClassificationResult()
    for row_labels, row_values in zip(labels.tolist(), values.tolist(), strict=True):
        row = result.classifications.add()
        for label, score in zip(row_labels, row_values, strict=True):
            row.classes.add(label=_label(label), score=score)
    return result


def _label(label: bytes) -> str:
    """A protobuf string must be UTF-8; a label that is not keeps what can be kept."""
    return label.decode("utf-8", "replace")


def _check_class_output(name: str, array: np.ndarray | None, dtype: int, count: int) -> None:
    if array is None:
        return
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array)}")
    if tensor_codec.dtype_number(array) != dtype:
        raise invalid(f"Expected {name} Tensor of {types_pb2.DataType.Name(dtype)}. Got: {_type_text(array)}")
    if len(array) != count:
        raise invalid(f"Expected {name} output batch size of {count}. Got: {len(array)}")


def _regression_result(
    signature: Signature, outputs: Mapping[str, np.ndarray], count: int
) -> regression_pb2.RegressionResult:
    values = outputs[signature.outputs["outputs"]]
    if values.ndim != 1 and (values.ndim != 2 or values.shape[1] != 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + _shape_text(values)
        )
    if len(values) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_type_text(values)}")
    result = regression_pb2.RegressionResult()
    for value in values.reshape(-1).tolist():
        result.regressions.add(value=value)
    return result
