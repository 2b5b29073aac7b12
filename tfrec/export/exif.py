"""The orientation that a camera notes in a JPEG, read and applied in the graph.

It stands in the first directory of the TIFF structure of an APP1 segment "Exif", as a number from 1 (upright) to 8. Looked for
in the first bytes of the file, where cameras write it; a JPEG without it is upright.

References:
    JEITA CP-3451, Exchangeable image file format for digital still cameras (Exif) 2.2, 2002.
"""

from __future__ import annotations

import tensorflow as tf

_SEARCHED_BYTES = 4096
_MAX_ENTRIES = 64
_ENTRY_BYTES = 12
_ORIENTATION_TAG = 0x0112
_MARKER, _NAME = (0xFF, 0xE1), tuple(b"Exif\0\0")  # with the segment's length of two bytes between them


def orientation(jpeg: tf.Tensor) -> tf.Tensor:
    """int32 scalar from 1 to 8 of the bytes of a JPEG, a string scalar."""
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(jpeg, 0, _SEARCHED_BYTES), tf.uint8), tf.int32)
    data = tf.pad(data, [[0, _SEARCHED_BYTES + 1 - tf.size(data)]])
    segment, found = _find_segment(data)
    tiff = segment + len(_MARKER) + 2 + len(_NAME)
    read = _Reader(data, little=tf.gather(data, tf.minimum(tiff, _SEARCHED_BYTES)) == ord("I"))
    directory = tiff + read.number(tiff + 4, 4)
    entries = directory + 2 + _ENTRY_BYTES * tf.range(_MAX_ENTRIES)
    wanted = (read.number(entries, 2) == _ORIENTATION_TAG) & (tf.range(_MAX_ENTRIES) < read.number(directory, 2))
    value = tf.reduce_max(tf.where(wanted, read.number(entries + 8, 2), 0))
    return tf.where(found & (value >= 1) & (value <= 8), value, 1)


def upright(picture: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors uint8 `[height, width, 3]` as its orientation, an int32 scalar, asks."""
    # 5 to 8 are 1, 4, 2, 3 with rows and columns exchanged.
    turned = tf.cond(orientation >= 5, lambda: tf.transpose(picture, [1, 0, 2]), lambda: picture)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    sideways = tf.cond(mirrored, lambda: tf.reverse(turned, [1]), lambda: turned)
    flipped = tf.reduce_any(orientation == [3, 4, 7, 8])
    return tf.cond(flipped, lambda: tf.reverse(sideways, [0]), lambda: sideways)


class _Reader:
    """Numbers in the byte order of the file; 0 past the bytes searched."""

    def __init__(self, data: tf.Tensor, little: tf.Tensor) -> None:
        self._data, self._little = data, little

    def number(self, place: tf.Tensor, size: int) -> tf.Tensor:
        """int32 of the shape of `place`, from `size` bytes there."""
        parts = [self._byte(place + offset) for offset in range(size)]
        little = sum(part * 256**power for power, part in enumerate(parts))
        big = sum(part * 256**power for power, part in enumerate(reversed(parts)))
        return tf.where(self._little, little, big)

    def _byte(self, place: tf.Tensor) -> tf.Tensor:
        inside = (place >= 0) & (place < _SEARCHED_BYTES)
        return tf.gather(self._data, tf.where(inside, place, _SEARCHED_BYTES))


def _find_segment(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the segment's marker stands, int32 scalar, and whether there is one."""
    offsets = (*range(len(_MARKER)), *range(len(_MARKER) + 2, len(_MARKER) + 2 + len(_NAME)))
    last = _SEARCHED_BYTES - offsets[-1]
    same = [data[offset : offset + last] == byte for offset, byte in zip(offsets, (*_MARKER, *_NAME), strict=True)]
    matches = tf.reduce_all(tf.stack(same), axis=0)
    return tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32), tf.reduce_any(matches)
