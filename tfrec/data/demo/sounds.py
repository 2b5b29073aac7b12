"""Synthesises a demo video's sound: a short melody of additive notes over a ticking rhythm."""

import numpy as np

from tfrec.data.demo.world import FACTORS, FloatArray

SAMPLE_RATE_HZ = 16_000
_PENTATONIC = np.array([0, 2, 4, 7, 9, 12])  # semitones; no two of them clash
_HARMONICS = np.arange(1, 13, dtype=np.float32)


def synthesise(factors: FloatArray, seconds: float, rng: np.random.Generator) -> FloatArray:
    """Makes the sound of one video.

    Args:
        factors: `[len(FACTORS)]`; pitch sets the key, tempo the notes per second, timbre the overtones.
        seconds: length.
        rng: the tune, which means nothing.

    Returns:
        `[seconds * SAMPLE_RATE_HZ]` in [-1, 1], mono.
    """
    value = dict(zip(FACTORS, np.clip(factors, -2.5, 2.5).tolist(), strict=True))
    key_hz = 260 * 2 ** (0.7 * value["pitch"])
    notes_per_second = 3.5 * 2 ** (0.55 * value["tempo"])
    sound = np.zeros(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32)
    for start in np.arange(0, seconds, 1 / notes_per_second):
        frequency_hz = key_hz * 2 ** (rng.choice(_PENTATONIC) / 12)
        _add(sound, start, _note(frequency_hz, value["timbre"], min(0.6, 1.6 / notes_per_second)))
        _add(sound, start, _tick(rng, 0.02 + 0.03 * (value["timbre"] > 0)))
    return sound / max(1.0, float(np.abs(sound).max()))


def _note(frequency_hz: float, timbre: float, seconds: float) -> FloatArray:
    """One note: dull and soft at low `timbre`, bright, hard and vibrating at high."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    partials = _HARMONICS[frequency_hz * _HARMONICS < 0.45 * SAMPLE_RATE_HZ]
    strength = partials ** -(2.0 - 0.65 * timbre)
    vibrato = 0.02 * max(0.0, timbre) * np.sin(2 * np.pi * 6 * time)
    phase = 2 * np.pi * frequency_hz * time + vibrato
    wave = np.einsum("h,ht->t", strength / strength.sum(), np.sin(partials[:, None] * phase))
    attack_seconds = 0.02 * 2**-timbre
    envelope = np.minimum(1, time / attack_seconds) * np.exp(-4 * time / seconds)
    return (0.55 * wave * envelope).astype(np.float32)


def _tick(rng: np.random.Generator, loudness: float) -> FloatArray:
    """A short hiss that marks the beat."""
    fade = np.exp(-np.arange(800, dtype=np.float32) / 120)
    return (loudness * fade * rng.normal(size=800)).astype(np.float32)


def _add(sound: FloatArray, start_seconds: float, part: FloatArray) -> None:
    """Adds `part` to `sound` from `start_seconds` on, cut off at the end, in place."""
    first = round(start_seconds * SAMPLE_RATE_HZ)
    room = len(sound) - first
    sound[first : first + len(part)] += part[:room]
