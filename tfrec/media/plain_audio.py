"""Plain sound files (WAV, FLAC, MP3, Ogg Vorbis) through tensorflow-io's decoders and resampler.

For those who want training to hear what a TensorFlow input pipeline elsewhere hears; PyAV, the default, is several times faster
and reads everything else too. The sample format is found by the reader, not declared: tensorflow-io 0.37 aborts the process
where a file does not have the declared one, which a `tf.data` graph would have to declare.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg"})


def read_plain_audio(path: Path, sample_rate_hz: int, max_seconds: float) -> NDArray[np.float32] | None:
    """Reads the start of a sound file.

    Args:
        path: the file.
        sample_rate_hz: rate of the result.
        max_seconds: what comes later is not read.

    Returns:
        float32 `[samples]`, the mean of the channels; None where tensorflow-io cannot read the file.
    """
    import tfrec  # noqa: F401  (chooses Keras 2 before TensorFlow comes)

    import tensorflow as tf  # isort: skip  (seconds and megabytes that a worker spends only if asked to)
    import tensorflow_io as tfio  # isort: skip

    try:
        sound = tfio.audio.AudioIOTensor(str(path))
        rate = int(sound.rate)
        samples = sound[: int(max_seconds * rate)]
        scale = 1.0 if samples.dtype.is_floating else 1.0 / -samples.dtype.min
        mono = tf.reduce_mean(tf.cast(samples, tf.float32) * scale, axis=1, keepdims=True)
        if rate != sample_rate_hz:
            mono = tfio.audio.resample(mono, rate, sample_rate_hz)
    except tf.errors.OpError:
        return None
    return np.nan_to_num(mono.numpy()[:, 0])
