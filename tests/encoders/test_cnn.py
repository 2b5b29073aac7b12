"""Image feature vectors made from `tf.keras.applications`."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import ImageConfig
from tfrec.encoders.cnn import _preprocess, export_module, main
from tfrec.encoders.hub import load_module, save_module
from tfrec.encoders.image import ImageEncoder
from tfrec.errors import TfrecError
from tfrec.export.ops import foreign, graph_ops


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Trained-looking weights: batch normalisation that does something."""
    model = tf.keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=1.0)
    draw = np.random.default_rng(3)
    for variable in model.variables:
        if "moving_variance" in variable.name:
            variable.assign(draw.uniform(0.5, 2, variable.shape))
    path = tmp_path_factory.mktemp("weights") / "mobilenet_notop.weights.h5"
    model.save_weights(str(path))
    return path, model


def test_exports_given_weights(weights, tmp_path, capsys):
    path, model = weights
    arguments = ["export", "--arch=MobileNetV2", f"--weights={path}", "--image-size=32", f"--to={tmp_path / 'module'}"]
    assert main(arguments) == 0
    assert "MobileNetV2 to 1280 numbers written; max abs difference to Keras" in capsys.readouterr().out
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    handle = str(tmp_path / "module")
    vectors = ImageEncoder(handle, ImageConfig(handle, image_size=32)).encode(frames)
    expected = model(frames.astype(np.float32) / 127.5 - 1, training=False).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)
    module = load_module(handle)
    assert [variable.name for variable in module.trainable_variables] == [v.name for v in model.trainable_variables]
    assert len(module.variables) == len(model.variables)
    assert not foreign(graph_ops(tmp_path / "module"))
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("MobileNetV2", [1.0, 0.0, -1.0]),
        ("ResNet50V2", [1.0, 0.0, -1.0]),
        ("EfficientNetB0", [255.0, 127.5, 0.0]),  # scales inside
        ("MobileNetV3Small", [255.0, 127.5, 0.0]),
        ("ResNet50", [-103.939, 127.5 - 116.779, 255 - 123.68]),  # BGR, less the mean of ImageNet
        ("DenseNet121", [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, -0.406 / 0.225]),
    ],
)
def test_pixels_are_scaled_as_the_architecture_wants(architecture, expected):
    pixel = np.array([[[[1.0, 0.5, 0.0]]]], np.float32)
    np.testing.assert_allclose(np.ravel(_preprocess(architecture, pixel)), expected, rtol=1e-5)


def test_weights_of_another_architecture_are_refused(weights, tmp_path):
    with pytest.raises(TfrecError, match=r"mobilenet_notop.weights.h5 does not fit MobileNet without its classifier"):
        export_module("MobileNet", weights[0], 32, tmp_path / "module")
    with pytest.raises(TfrecError, match="There is no file of weights nowhere"):
        export_module("MobileNet", tmp_path.relative_to(tmp_path) / "nowhere", 32, tmp_path / "module")
    with pytest.raises(TfrecError, match="VGG16 cannot take pictures of 8 x 8 pixels"):
        export_module("VGG16", None, 8, tmp_path / "module")
    assert not list(tmp_path.iterdir())


def test_random_weights_are_the_same_each_time(tmp_path):
    image = np.full((1, 32, 32, 3), 0.5, np.float32)
    vectors = []
    for name in ("first", "second"):
        assert main(["export", "--arch=MobileNet", "--weights=none", "--image-size=32", f"--to={tmp_path / name}"]) == 0
        vectors.append(load_module(str(tmp_path / name))(image).numpy())
    np.testing.assert_array_equal(*vectors)


def test_unknown_architectures_are_refused(capsys):
    assert main(["export", "--arch=LeNet", "--weights=none", "--to=module"]) == 2
    assert "LeNet" in capsys.readouterr().err


def test_help_imports_no_tensorflow():
    code = "import sys, runpy; sys.argv[1:] = ['export', '--help']; runpy.run_module('tfrec.encoders.cnn', None, '__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    assert "EfficientNetB0" in done.stdout
    assert "tensorflow" not in done.stderr


def test_a_module_that_differs_is_refused_however_small_its_values(tmp_path, monkeypatch):
    """Random weights give features near 0, where any tolerance in absolute terms passes everything."""

    def save_and_change(module, folder):
        save_module(module, folder)
        module.variables[0].assign(2 * module.variables[0])

    monkeypatch.setattr("tfrec.encoders.hub.save_module", save_and_change)
    with pytest.raises(TfrecError, match="differs from the Keras model"):
        export_module("MobileNetV2", None, 32, tmp_path / "module")
    assert not (tmp_path / "module").exists()
