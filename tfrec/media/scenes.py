"""Where scenes of a video change, by PySceneDetect's content detector.

All frames are looked at, small, one at a time. Of a video with more than `MAX_FRAMES` only the codec's own key frames are: most
encoders put one at a hard cut, and all put one every few seconds. Which of the two happens depends on the file alone, never on
the machine's speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrec.media.container import Deadline, decode

MAX_FRAMES = 4500
"""Three minutes at 25 frames per second."""

_LONGER_SIDE = 160
_SHORTEST_SCENE_SECONDS = 0.5


def find_cuts(container: Any, stream: Any, length: float, deadline: Deadline) -> list[float]:
    """Reads a video through from where it stands.

    Args:
        container: the open container.
        stream: its pictures.
        length: of the presentation in seconds.
        deadline: of the file.

    Returns:
        Times of the first frames of new scenes, in seconds, ascending.

    Raises:
        MediaError: If the time is up.
    """
    from scenedetect.detectors import ContentDetector  # takes a second to import; most runs have no use for it

    rate = float(stream.average_rate or 0)
    key_frames_only = (stream.frames or length * rate) > MAX_FRAMES
    shortest = 0 if key_frames_only else round(_SHORTEST_SCENE_SECONDS * rate)
    detector = ContentDetector(min_scene_len=shortest)
    times: list[float] = []
    cuts: list[int] = []
    for frame in _frames(container, stream, key_frames_only, deadline):
        cuts += detector.process_frame(len(times), _small(frame))
        times.append(float(frame.time or 0))
    return [times[cut] for cut in cuts]


def _frames(container: Any, stream: Any, key_frames_only: bool, deadline: Deadline) -> Iterator[Any]:
    packets = (
        packet for packet in container.demux(stream) if packet.is_keyframe or packet.dts is None or not key_frames_only
    )
    return decode(packets, deadline)


def _small(frame: Any) -> NDArray[np.uint8]:
    scale = min(1.0, _LONGER_SIDE / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    return frame.reformat(width, height, "bgr24", threads=1).to_ndarray()
