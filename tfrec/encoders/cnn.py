"""`python -m tfrec.encoders.cnn export --arch NAME --weights FILE --to DIR`: a TF Hub image feature vector from Keras.

Takes an architecture of `tf.keras.applications` with given weights (`none`: random ones) and writes a module for
`features.image.encoder`: float32 `[batch, size, size, 3]` in 0 .. 1 to `[batch, dim]`, the average over the last feature map.
Pixels are scaled inside as the architecture wants them. The written module is loaded again and compared with Keras.

All weights stay trainable but the statistics of batch normalisation, which are used as they were learned.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jsonargparse

from tfrec.errors import TfrecError

if TYPE_CHECKING:
    import tensorflow as tf

Architecture = Literal[
    "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase",
    "DenseNet121", "DenseNet169", "DenseNet201",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3", "EfficientNetV2S",
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large",
    "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2",
    "VGG16", "VGG19", "Xception",
]  # fmt: skip

_PREPROCESSING = {
    "ConvNeXt": "convnext",
    "DenseNet": "densenet",
    "EfficientNetB": "efficientnet",
    "EfficientNetV2": "efficientnet_v2",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3",
    "ResNet": "resnet",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "Xception": "xception",
}
"""Where in `tf.keras.applications` the scaling of pixels lies, by the beginning of the name; the longest one counts."""

_TOLERANCE = 1e-4  # of the largest value
_SEED = 0


def export_module(architecture: Architecture, weights: Path | None, image_size: int, target: Path) -> tuple[int, float]:
    """Makes a TF Hub image feature vector.

    Args:
        architecture: a name in `tf.keras.applications`.
        weights: file of weights without the classifier (Keras' `*_notop.h5`); None draws random ones.
        image_size: height and width in pixels.
        target: folder of the module; must not exist.

    Returns:
        Width of the feature vector, and the largest absolute difference between the module and the Keras model.

    Raises:
        TfrecError: If the weights or the size do not fit, or the module does not compute what the model does.
    """
    from tfrec.encoders.hub import save_module
    from tfrec.run import new_folder

    model = _keras_model(architecture, weights, image_size)
    with new_folder(target) as folder:
        save_module(_feature_vector(architecture, model), folder)
        difference = _difference(architecture, model, folder)
    return int(model.output_shape[-1]), difference


def _keras_model(architecture: Architecture, weights: Path | None, image_size: int) -> Any:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(_SEED)
    shape = (image_size, image_size, 3)
    try:
        build = getattr(tf.keras.applications, architecture)
        model = build(include_top=False, weights=None, input_shape=shape, pooling="avg")
    except ValueError as error:
        raise TfrecError(
            f"{architecture} cannot take pictures of {image_size} x {image_size} pixels: {error}"
        ) from None
    if weights is not None:
        _load_weights(architecture, model, weights)
    return model


def _load_weights(architecture: Architecture, model: Any, weights: Path) -> None:
    if not weights.is_file():
        raise TfrecError(
            f"There is no file of weights {weights}. Give one with --weights, or `none` for random weights."
        )
    try:
        model.load_weights(str(weights))
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TfrecError(
            f"{weights} does not fit {architecture} without its classifier: {reason}. Expected a file of Keras weights "
            "saved with `include_top=False`."
        ) from None


def _preprocess(architecture: Architecture, images: Any) -> Any:
    """Images in 0 .. 1 as the architecture wants them."""
    import tensorflow as tf

    family = max((name for name in _PREPROCESSING if architecture.startswith(name)), key=len)
    family = (
        "resnet_v2" if architecture.startswith("ResNet") and architecture.endswith("V2") else _PREPROCESSING[family]
    )
    return getattr(tf.keras.applications, family).preprocess_input(images * 255.0)


def _feature_vector(architecture: Architecture, model: Any) -> tf.Module:
    """A module that calls `model` as in prediction, whose trainable variables are those of `model`."""
    import tensorflow as tf

    class FeatureVector(tf.Module):
        variables = property(lambda self: model.variables)
        trainable_variables = property(lambda self: model.trainable_variables)

        @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)], autograph=False)
        def __call__(self, images: tf.Tensor) -> tf.Tensor:
            return model(_preprocess(architecture, images), training=False)

    return FeatureVector(name=architecture)


def _difference(architecture: Architecture, model: Any, module: Path) -> float:
    """The largest absolute difference between the saved module and the Keras model, on random images."""
    import numpy as np

    from tfrec.encoders.hub import load_module

    images = np.random.default_rng(_SEED).random((2, *model.input_shape[1:]), np.float32)
    expected = model.predict(_preprocess(architecture, images.copy()), verbose=0)
    difference = float(np.abs(load_module(str(module))(images).numpy() - expected).max())
    largest = float(np.abs(expected).max())  # tiny with random weights
    if not difference <= _TOLERANCE * largest:  # nor may it be NaN
        raise TfrecError(f"The exported {architecture} differs from the Keras model by {difference:.2e}.")
    return difference


def make_parser() -> jsonargparse.ArgumentParser:
    """The command line."""
    parser = jsonargparse.ArgumentParser(prog="python -m tfrec.encoders.cnn", description=__doc__, exit_on_error=False)
    command = jsonargparse.ArgumentParser(exit_on_error=False)
    command.add_argument("--arch", type=Architecture, required=True, help="name in tf.keras.applications")
    command.add_argument("--weights", type=Path, required=True, help="file of weights, or `none` for random ones")
    command.add_argument("--image-size", type=jsonargparse.typing.PositiveInt, default=224, help="height and width")
    command.add_argument("--to", type=Path, required=True, help="folder of the module; must not exist")
    parser.add_subcommands().add_subcommand("export", command, help="make a TF Hub image feature vector")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if arguments is None else list(arguments)).export
        weights = None if str(options.weights) == "none" else options.weights
        dim, difference = export_module(options.arch, weights, options.image_size, options.to)
    except (TfrecError, jsonargparse.ArgumentError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{options.to}: {options.arch} to {dim} numbers written; max abs difference to Keras {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
