"""Writes a demo video as a real file: H.264 pictures and AAC sound in MP4, through PyAV."""

from collections.abc import Iterable
from pathlib import Path

import av

from tfrec.data.demo.pictures import FRAMES_PER_SECOND, SIZE, Image
from tfrec.data.demo.sounds import SAMPLE_RATE_HZ
from tfrec.data.demo.world import FloatArray


def write_mp4(path: Path, frames: Iterable[Image], sound: FloatArray | None) -> None:
    """Encodes one video.

    Args:
        path: the file to write.
        frames: RGB, uint8 `[SIZE, SIZE, 3]`.
        sound: `[N]` in [-1, 1] at `SAMPLE_RATE_HZ`, or None for a silent film without a sound stream.
    """
    # One encoder thread per video: many videos are encoded at once, and the bytes do not depend on the machine.
    options = {"preset": "superfast", "crf": "24", "threads": "1"}
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        picture.width = picture.height = SIZE
        picture.pix_fmt = "yuv420p"
        if sound is not None:
            voice = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options={"aac_coder": "fast"})
            voice.bit_rate = 48_000
        for frame in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(picture.encode())
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate = SAMPLE_RATE_HZ
            container.mux(voice.encode(samples))
            container.mux(voice.encode())
