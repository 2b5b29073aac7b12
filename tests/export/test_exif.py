"""Exif orientation against OpenCV, which applies it when it decodes."""

import struct

import cv2
import numpy as np
import pytest
import tensorflow as tf

from tfrec.export.exif import orientation, upright


def jpeg(number: int | None, order: str = ">", before: bytes = b"") -> bytes:
    """A picture of 24 x 16 pixels with no symmetry, whose Exif segment notes an orientation."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:5, :9, 0], picture[9:, 15:, 1], picture[2:7, 12:, 2] = 255, 200, 150
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    if number is None:
        return encoded
    width = struct.pack(order + "HHIHH", 0x0100, 3, 1, 24, 0)  # another entry, which comes first
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, number, 0)
    tiff = (b"MM" if order == ">" else b"II") + struct.pack(order + "HIH", 42, 8, 2) + width + entry + bytes(4)
    body = b"Exif\0\0" + tiff
    return encoded[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + encoded[2:]


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("number", range(1, 9))
def test_pictures_are_turned_as_opencv_turns_them(number, order):
    data = jpeg(number, order)
    assert int(orientation(tf.constant(data))) == number
    turned = upright(tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"), tf.constant(number)).numpy()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert turned.shape == expected.shape == ((16, 24, 3) if number < 5 else (24, 16, 3))
    assert np.abs(turned.astype(int) - expected).max() <= 3


def test_behind_another_segment():
    comment = b"\xff\xfe" + struct.pack(">H", 502) + b"Exif\0\0" + bytes(494)
    assert int(orientation(tf.constant(jpeg(6, before=comment)))) == 6


@pytest.mark.parametrize(
    "data",
    [jpeg(None), jpeg(0), jpeg(9), b"", b"\xff\xd8", jpeg(6)[:20], jpeg(6).replace(b"MM\0*\0\0", b"MM\0*\xff\xff")],
)
def test_upright_where_nothing_else_is_noted(data):
    assert int(orientation(tf.constant(data))) == 1
