from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from serving.embedded.batching import Batcher
from serving.embedded.config_files import BatchingParameters, read_batching_parameters
from serving.embedded.errors import Code, ServingError
from serving.embedded.saved_model import SavedModel


@pytest.fixture(scope="module")
def model(models: Path) -> SavedModel:
    return SavedModel(models / "offset_1", ["serve"], tf.compat.v1.ConfigProto())


def _run(batcher: Batcher, model: SavedModel, signature: str, x: object, timeout_ms: int = 0) -> np.ndarray:
    chosen = model.signatures[signature]
    feeds = {chosen.inputs["x"]: np.asarray(x, np.float32)}
    return batcher.run(feeds, list(chosen.outputs.values()), timeout_ms)[0]


def _batcher(model: SavedModel, sizes: list[int], **parameters: object) -> Batcher:
    return Batcher(model, BatchingParameters(**parameters), sizes.append)


def test_requests_at_the_same_time_run_as_one(model: SavedModel) -> None:
    sizes: list[int] = []
    batcher = _batcher(model, sizes, max_batch_size=8, batch_timeout_micros=5_000_000)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: _run(batcher, model, "serving_default", [n, n + 1]), range(4)))
    assert sizes == [8]
    for number, result in enumerate(results):
        assert result.tolist() == [number / 2 + 1, (number + 1) / 2 + 1]


def test_batches_are_padded_to_an_allowed_size(model: SavedModel) -> None:
    batcher = _batcher(model, [], max_batch_size=8, allowed_batch_sizes=(4, 8))
    assert _run(batcher, model, "serving_default", [2.0]).tolist() == [2.0]


def test_one_bad_request_does_not_fail_its_neighbours(model: SavedModel) -> None:
    batcher = _batcher(model, [], max_batch_size=3, batch_timeout_micros=5_000_000)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(_run, batcher, model, "check", [x]) for x in (1.0, -1.0, 2.0)]
    assert [f.result().tolist() for f in (futures[0], futures[2])] == [[1.0], [2.0]]
    with pytest.raises(ServingError, match="x must not be negative"):
        futures[1].result()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1.0, "Batching Run.. input tensors must have at least one dimension"),
        ([1.0] * 5, "Task size 5 is larger than maximum input batch size 4"),
    ],
)
def test_what_cannot_be_batched_is_refused(model: SavedModel, x: object, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        _run(_batcher(model, [], max_batch_size=4), model, "serving_default", x)


def test_large_requests_are_cut_up_where_allowed(model: SavedModel) -> None:
    sizes: list[int] = []
    batcher = _batcher(model, sizes, max_batch_size=4, enable_large_batch_splitting=True)
    assert _run(batcher, model, "serving_default", range(9)).tolist() == [x / 2 + 1 for x in range(9)]
    assert sizes == [4, 4, 1]


def test_a_full_queue_turns_requests_away(model: SavedModel) -> None:
    batcher = _batcher(model, [], max_batch_size=1, num_batch_threads=1, max_enqueued_batches=1)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(_run, batcher, model, "slow", [0.3]) for _ in range(8)]
        errors = [future.exception() for future in futures]
    codes = {error.code for error in errors if isinstance(error, ServingError)}
    assert codes == {Code.UNAVAILABLE}
    assert 1 <= errors.count(None) < 8


def test_a_deadline_ends_the_run(model: SavedModel) -> None:
    with pytest.raises(ServingError) as caught:
        _run(_batcher(model, []), model, "slow", [5.0], timeout_ms=200)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_padding_of_inputs_that_differ_in_length(tmp_path: Path) -> None:
    module = tf.Module()
    spec = tf.TensorSpec([None, None], tf.float32, "x")
    total = tf.function(lambda x: {"y": tf.reduce_sum(x, 1)}).get_concrete_function(spec)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": total})
    model, sizes = SavedModel(tmp_path / "1", ["serve"], tf.compat.v1.ConfigProto()), []
    parameters = {"max_batch_size": 2, "batch_timeout_micros": 5_000_000, "pad_variable_length_inputs": True}
    batcher = _batcher(model, sizes, **parameters)
    both = threading.Barrier(2)

    def run(x: object) -> list[float]:
        both.wait()
        return _run(batcher, model, "serving_default", x).tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ([[1.0, 2.0, 3.0]], [[4.0]]))) == [[6.0], [4.0]]
    assert sizes == [2]


def test_parameters_file(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 8 # comment\n")
    assert read_batching_parameters(str(file)) == BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 8))
    file.write_text("max_batch_size { value: 8 } allowed_batch_sizes: 2")
    with pytest.raises(ValueError, match="must ascend and end with `max_batch_size`"):
        read_batching_parameters(str(file))
    file.write_text("no_such_field: 1")
    with pytest.raises(ServingError, match="no_such_field"):
        read_batching_parameters(str(file))
