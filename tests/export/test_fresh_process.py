"""What is exported needs TensorFlow and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tfrec.data.schema import Dataset, Part
from tfrec.evaluation.evaluate import make_task
from tfrec.export.log_requests import no_filters, task_requests
from tfrec.export.recommender import Recommender

SCRIPT = """
import sys
import numpy as np
import tensorflow as tf

folder, inputs, outputs = sys.argv[1:]
requests = np.load(inputs)
loaded = tf.saved_model.load(folder)
answers = {}
for name in loaded.signatures:
    function = loaded.signatures[name]
    wanted = function.structured_input_signature[1]
    for key, value in function(**{key: tf.constant(requests[key], wanted[key].dtype) for key in wanted}).items():
        answers[f"{name}/{key}"] = value.numpy() if value.dtype != tf.string else value.numpy().astype("S")
np.savez(outputs, **answers)
others = {"tfrec", "tensorflow_recommenders", "tensorflow_text", "tensorflow_hub", "tf_keras", "scann"}
assert not others & set(sys.modules), others & set(sys.modules)
"""


def test_tensorflow_alone_gives_the_slates_of_the_library(
    dataset: Dataset, recommender: Recommender, saved: Path, tmp_path: Path
) -> None:
    task = make_task(dataset.interactions, Part.TEST)
    requests = task_requests(dataset, task, np.arange(len(task)), 8)
    requests["candidate"] = requests["history"]
    requests |= no_filters(len(task))
    requests["video_id"] = dataset.videos.ids[: len(task)]
    as_bytes = {
        name: np.char.encode(values.astype(str), "utf-8") if values.dtype == object else values
        for name, values in requests.items()
    }
    np.savez(tmp_path / "inputs.npz", **as_bytes)
    arguments = [str(saved), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-I", "-c", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "op_level_cost_estimator" not in done.stderr  # as TensorFlow complains of products whose rank nothing tells

    answers = np.load(tmp_path / "outputs.npz")
    assert {name.partition("/")[0] for name in answers} == set(recommender.functions)
    for name in answers:
        signature, output = name.split("/")
        expected = recommender.call(signature, requests)[output]
        if expected.dtype == object:
            np.testing.assert_array_equal(answers[name], expected.astype("S"))
        else:
            np.testing.assert_allclose(answers[name], expected, atol=1e-5)
