"""What the style factors look like: the named kinds of shape, texture, motion, colour and mood.

Pictures and words both read a video's factors through this module, so a title's "red star" is what is drawn.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from tfrec.data.demo.world import FACTORS, FloatArray

SHAPES = ("circle", "triangle", "square", "hexagon", "star", "heart")
TEXTURES = ("gradient", "waves", "stripes", "dots", "checker", "clouds")
MOTIONS = ("drift", "zoom", "orbit", "bounce", "spin")
COLOURS = ("red", "orange", "green", "teal", "blue", "violet", "pink")
MOODS = ("dreamy", "calm", "lively", "wild")
TIMBRES = ("flute", "piano", "brass", "synth")


@dataclass(frozen=True)
class Look:
    """One video's factors, read as kinds and amounts.

    Args:
        hue: in [0, 1), on the colour wheel.
        saturation: in [0.4, 0.95].
        shape: of `SHAPES`.
        texture: of `TEXTURES`.
        motion: of `MOTIONS`.
        colour: of `COLOURS`, the name of `hue`.
        mood: of `MOODS`, from the tempo.
        timbre: of `TIMBRES`.
        texture_scale: in [0, 1], coarse to fine, within the kind.
        motion_speed: in [0, 1], slow to fast, within the kind.
    """

    hue: float
    saturation: float
    shape: str
    texture: str
    motion: str
    colour: str
    mood: str
    timbre: str
    texture_scale: float
    motion_speed: float


def look_of(factors: FloatArray) -> Look:
    """Reads one video's `factors` `[len(FACTORS)]`."""
    value = dict(zip(FACTORS, factors.tolist(), strict=True))
    hue = math.atan2(value["hue_y"], value["hue_x"]) / (2 * math.pi) % 1
    texture, texture_scale = _kind(TEXTURES, value["texture"])
    motion, motion_speed = _kind(MOTIONS, value["motion"])
    return Look(
        hue=hue,
        saturation=min(0.95, 0.4 + 0.25 * math.hypot(value["hue_x"], value["hue_y"])),
        shape=_kind(SHAPES, value["shape"])[0],
        texture=texture,
        motion=motion,
        colour=COLOURS[round(hue * len(COLOURS)) % len(COLOURS)],
        mood=_kind(MOODS, value["tempo"])[0],
        timbre=_kind(TIMBRES, value["timbre"])[0],
        texture_scale=texture_scale,
        motion_speed=motion_speed,
    )


def _kind(names: tuple[str, ...], factor: float) -> tuple[str, float]:
    """The equally likely kind that a standard normal `factor` falls into, and where in it (0 to 1)."""
    place = min(NormalDist().cdf(factor) * len(names), len(names) - 1e-6)
    return names[int(place)], place % 1
