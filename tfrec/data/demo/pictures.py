"""Draws a demo video's frames: coloured shapes that move over a moving texture, softer the less sharp it is."""

import colorsys
import math
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from tfrec.data.demo.looks import Look
from tfrec.data.demo.world import FloatArray

Image = npt.NDArray[np.uint8]

SIZE = 128
FRAMES_PER_SECOND = 8
_SUBPIXEL_BITS = 4  # cv2 draws at 1/16 pixel, so slow motion does not judder

_COLUMNS, _ROWS = np.meshgrid(*[np.linspace(-1, 1, SIZE, dtype=np.float32)] * 2)


def render(look: Look, sharpness: float, num_frames: int, rng: np.random.Generator) -> Iterator[Image]:
    """Yields `num_frames` RGB frames, uint8 `[SIZE, SIZE, 3]`.

    Args:
        look: what to draw.
        sharpness: standard normal; low values blur, flatten and grain the picture.
        num_frames: length.
        rng: places and phases, which mean nothing.
    """
    dark, middle, bright, accent = _palette(look)
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    clouds = _clouds(look, rng)
    sizes = rng.uniform(0.26, 0.36, size=3) * (1, 0.6, 0.45)
    grain = np.repeat(rng.normal(128, 20, size=(2 * SIZE, 2 * SIZE, 1)).astype(np.uint8), 3, axis=2)
    softness = 1 / (1 + math.exp(1.5 * sharpness))
    speed = 0.6 + 1.2 * look.motion_speed
    for index in range(num_frames):
        time = index / FRAMES_PER_SECOND
        level = _texture(look, angle, 1.5 * speed * time, clouds)[..., None]
        canvas = np.ascontiguousarray((dark * (1 - level) + middle * level).astype(np.uint8))
        for number, size in enumerate(sizes):
            _draw_shape(canvas, look, (bright, accent)[number % 2], size, phase + 2.1 * number, speed * time)
        top, left = rng.integers(SIZE, size=2)
        yield _soften(canvas, softness, grain[top : top + SIZE, left : left + SIZE])


def _palette(look: Look) -> list[FloatArray]:
    """Background pair, then two colours of shapes, from the hue and its neighbours."""
    steps = ((0.0, 0.9, 0.25), (0.03, 0.8, 0.6), (-0.03, 0.75, 1.0), (0.08, 0.35, 0.97))
    colours = [colorsys.hsv_to_rgb((look.hue + d) % 1, look.saturation * s, v) for d, s, v in steps]
    return [255 * np.array(colour, dtype=np.float32) for colour in colours]


def _clouds(look: Look, rng: np.random.Generator) -> FloatArray:
    """Smooth noise in [0, 1], twice as wide as the picture so that it can move along."""
    cells = round(4 + 8 * look.texture_scale)
    noise = rng.random((cells, 2 * cells)).astype(np.float32)
    return np.clip(cv2.resize(noise, (2 * SIZE, SIZE), interpolation=cv2.INTER_CUBIC), 0, 1)


def _texture(look: Look, angle: float, shift: float, clouds: FloatArray) -> FloatArray:
    """Brightness of the background in [0, 1], `[SIZE, SIZE]`."""
    frequency = 6 + 12 * look.texture_scale
    along = _COLUMNS * math.cos(angle) + _ROWS * math.sin(angle)
    across = _ROWS * math.cos(angle) - _COLUMNS * math.sin(angle)
    match look.texture:
        case "gradient":
            return 0.5 + 0.35 * along * math.cos(0.5 * shift) + 0.1 * across
        case "waves":
            return 0.5 + 0.5 * np.sin(frequency * np.hypot(_COLUMNS, _ROWS) - 2 * shift)
        case "stripes":
            return _edge(np.sin(frequency * along - shift))
        case "dots":
            return _edge(np.sin(frequency * along - shift) * np.sin(frequency * across) - 0.45)
        case "checker":
            return _edge(np.sin(frequency * along - shift) * np.sin(frequency * across))
    start = int(8 * shift) % SIZE
    return clouds[:, start : start + SIZE]


def _edge(wave: FloatArray) -> FloatArray:
    """A step at 0, anti-aliased."""
    return np.clip(0.5 + 4 * wave, 0, 1)


def _draw_shape(canvas: Image, look: Look, colour: FloatArray, size: float, phase: float, time: float) -> None:
    """Draws one shape with its shadow where the motion has brought it after `time`, in place."""
    x, y, scale, turn = _placement(look.motion, phase, time)
    points = _outline(look.shape) * size * scale
    turned = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    for offset, shade in ((0.05, 0.25 * colour), (0.0, colour)):
        pixels = (turned + (x + offset, y + offset) + 1) * SIZE / 2
        corners = np.round(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(canvas, [corners], shade.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)


def _placement(motion: str, phase: float, time: float) -> tuple[float, float, float, float]:
    """Centre x, y in [-1, 1], scale and rotation in radians."""
    home_x, home_y = 0.45 * math.cos(phase), 0.45 * math.sin(phase)
    match motion:
        case "drift":
            return (home_x + 0.5 * time + 1.2) % 2.4 - 1.2, home_y, 1.0, 0.0
        case "zoom":
            return home_x, home_y, 1 + 0.6 * math.sin(2.5 * time + phase), 0.0
        case "orbit":
            return 0.55 * math.cos(phase + 1.8 * time), 0.55 * math.sin(phase + 1.8 * time), 1.0, 0.0
        case "bounce":
            return home_x, 0.6 - 1.2 * abs(math.sin(2.2 * time + phase)), 1.0, 0.0
    return home_x, home_y, 1.0, 2.4 * time + phase


def _outline(shape: str) -> FloatArray:
    """Corners of the shape, about the unit circle, `[N, 2]`; y points down."""
    match shape:
        case "heart":
            t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 15
        case "star":
            radius = np.tile([1.15, 0.48], 5)
        case _:
            radius = np.ones({"circle": 48, "triangle": 3, "square": 4, "hexagon": 6}[shape])
    angle = np.arange(len(radius)) * 2 * np.pi / len(radius) - np.pi / 2
    angle += np.pi / 4 if shape == "square" else 0
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _soften(canvas: Image, softness: float, grain: Image) -> Image:
    """Blur, loss of contrast and grain (`grain` has mean 128, deviation 20), all by `softness` in [0, 1]."""
    blurred = cv2.GaussianBlur(canvas, (0, 0), 0.3 + 2.0 * softness)
    contrast, amount = 1 - 0.35 * softness, 0.05 + 0.35 * softness
    return cv2.addWeighted(blurred, contrast, grain, amount, 128 * (1 - contrast - amount))
