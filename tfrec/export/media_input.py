"""JPEG, PNG and WAV bytes to frames and waveforms, in the graph: the counterpart of `tfrec/media` in TensorFlow's own ops.

Frames of the encoder's size come out as the offline pipeline has them; larger ones are cropped and averaged down alike, to
within rounding, upright as their Exif orientation says. What JPEG loses changes what a network sees; PNG loses nothing. WAV
means 16-bit PCM.

Bytes that are no picture or no sound count as missing, and cost no other row of the batch: `tf.data`, which runs inside a
graph too, is the one place where TensorFlow's decoders may fail without failing the request.
"""

from __future__ import annotations

import tensorflow as tf

from tfrec.export.exif import orientation, upright

MAX_PIXELS = 1 << 26
"""Of a picture taken: what a header promises beyond that is no frame, and would have to be paid for in memory."""

_PNG = b"\x89PNG\r\n\x1a\n"

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4_000, 384_000
"""Sample rates taken: what else a header says is no sound, and would have to be paid for in memory."""


def pick_frames(frames: tf.Tensor, num_frames: int) -> tuple[tf.Tensor, tf.Tensor]:
    """At most `num_frames` of the frames of each video, evenly spread, as of a folder of pictures.

    Args:
        frames: string `[B, F]`, "" anywhere is padding.
        num_frames: most frames taken of a video.

    Returns:
        string `[N]`, those of all videos in order, and int32 `[B]`, how many of each.
    """
    present = frames != ""
    counts = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
    lengths = tf.minimum(counts, num_frames)
    place = tf.range(num_frames)[tf.newaxis]
    index = (2 * place + 1) * counts[:, tf.newaxis] // (2 * tf.maximum(lengths, 1))[:, tf.newaxis]
    index += tf.cumsum(counts, exclusive=True)[:, tf.newaxis]
    picked = tf.boolean_mask(index, tf.sequence_mask(lengths, num_frames))
    return tf.gather(tf.boolean_mask(frames, present), picked), lengths


def decode_frames(files: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes what can be decoded.

    Args:
        files: string `[N]`, JPEG or PNG.
        image_size: height and width of a frame.

    Returns:
        uint8 `[R, image_size, image_size, 3]`, the readable ones in order, and int32 `[R]`, which of `files` they are.
    """
    decoded = tf.data.Dataset.from_tensor_slices(files).map(lambda file: _decode_frame(file, image_size))
    numbered = tf.data.Dataset.zip((tf.data.Dataset.range(tf.size(files, tf.int64)), decoded))
    # A pair that fails is left out whole. What is appended makes one batch of any number of them, none included.
    blank = tf.zeros([image_size, image_size, 3], tf.uint8)
    sentinel = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), blank))
    readable = numbered.ignore_errors().concatenate(sentinel).batch(tf.size(files, tf.int64) + 1)
    places, frames = readable.get_single_element()
    return frames[:-1], tf.cast(places[:-1], tf.int32)


def _decode_frame(file: tf.Tensor, image_size: int) -> tf.Tensor:
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    return to_square(tf.cond(is_png, lambda: _decode_png(file), lambda: _decode_jpeg(file)), image_size)


def _decode_png(file: tf.Tensor) -> tf.Tensor:
    # Width and height stand first in the header, which is the first chunk, behind its length and name.
    shape = tf.io.decode_raw(tf.strings.substr(file, len(_PNG) + 8, 8), tf.int32, little_endian=False)
    with tf.control_dependencies([_checked_size(tf.cast(shape, tf.int64))]):
        return tf.io.decode_png(file, channels=3)


def _decode_jpeg(file: tf.Tensor) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(file)
    with tf.control_dependencies([_checked_size(tf.cast(shape[:2], tf.int64))]):
        # The decoder of OpenCV takes the accurate transform too.
        picture = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    return upright(picture, orientation(file))


def _checked_size(shape: tf.Tensor) -> tf.Operation:
    """Fails where a header, int64 `[2]`, promises more pixels than are taken, or a negative number."""
    return tf.debugging.Assert(tf.reduce_all(shape > 0) & (shape[0] * shape[1] <= MAX_PIXELS), [shape])


def to_square(picture: tf.Tensor, image_size: int) -> tf.Tensor:
    """The central square of a picture, resized: `tfrec.media.frames.to_square` for square pixels.

    Args:
        picture: uint8 `[height, width, 3]`.
        image_size: height and width of the result.
    """
    height, width, _ = tf.unstack(tf.shape(picture))
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = picture[top : top + side, left : left + side]
    method = tf.image.ResizeMethod
    resized = tf.cond(
        side > image_size,
        lambda: tf.image.resize(crop, [image_size, image_size], method.AREA),
        lambda: tf.image.resize(crop, [image_size, image_size], method.BILINEAR),
    )
    return tf.cast(tf.round(resized), tf.uint8)


def decode_sound(wav: tf.Tensor, sample_rate_hz: int, max_seconds: float) -> tf.Tensor:
    """The mean of the channels of a WAV file.

    Args:
        wav: string scalar.
        sample_rate_hz: rate of the result.
        max_seconds: what comes later is left out.

    Returns:
        float32 `[samples]`, none where the bytes are no sound.
    """
    decoded = tf.data.Dataset.from_tensors(wav).map(lambda data: _decode_wav(data, sample_rate_hz, max_seconds))
    silence = tf.data.Dataset.from_tensors(tf.zeros([0]))
    return decoded.ignore_errors().concatenate(silence).take(1).get_single_element()


def _decode_wav(wav: tf.Tensor, sample_rate_hz: int, max_seconds: float) -> tf.Tensor:
    channels, rate_hz = tf.audio.decode_wav(wav)
    known = (rate_hz >= LOWEST_RATE_HZ) & (rate_hz <= HIGHEST_RATE_HZ)
    limits = f"`audio`: the sample rate must be between {LOWEST_RATE_HZ} and {HIGHEST_RATE_HZ} Hz. Received:"
    with tf.control_dependencies([tf.debugging.Assert(known, [limits, rate_hz])]):
        rate_hz = tf.identity(rate_hz)
    limit = tf.cast(tf.cast(rate_hz, tf.float32) * max_seconds, tf.int32)
    waveform = tf.reduce_mean(channels[:limit], axis=1)
    return tf.cond(rate_hz == sample_rate_hz, lambda: waveform, lambda: resample(waveform, rate_hz, sample_rate_hz))


def resample(waveform: tf.Tensor, rate_hz: tf.Tensor, wanted_hz: int) -> tf.Tensor:
    """Changes the rate of a waveform; what the lower one of the two rates cannot carry is cut off.

    Args:
        waveform: float32 `[samples]`.
        rate_hz: int32 scalar, its rate.
        wanted_hz: rate of the result.

    Returns:
        float32 `[samples * wanted_hz // rate_hz]`.
    """
    size = tf.size(waveform, tf.int64)
    rate = tf.cast(rate_hz, tf.int64)
    seconds = -(
        -size // rate
    )  # of whole seconds, the numbers of samples before and after are in the ratio of the rates
    spectrum = tf.signal.rfft(tf.pad(waveform, [[0, seconds * rate - size]]))
    resampled = tf.signal.irfft(spectrum, [tf.cast(seconds, tf.int32) * wanted_hz])
    return resampled[: size * wanted_hz // rate] * (wanted_hz / tf.cast(rate, tf.float32))
