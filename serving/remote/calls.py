"""What can be asked of the published models, as inputs of their signatures, and what comes back, as types.

A *call* is a signature with its inputs and the way to read its outputs; it does not know how it travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfrec.config import SamplingMode
from tfrec.errors import TfrecError

Arrays = Mapping[str, NDArray[Any]]
"""By name of input or output; strings are object arrays, of str where they are texts and of bytes where they are media."""

T = TypeVar("T")
SLOT = ("video_id", "score", "click", "finish", "like", "reason", "is_cold")
"""Outputs that a slot is read from."""
_MAX_K = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Filters:
    """What a request asks beyond the defaults that the model was exported with.

    Args:
        allow: the only video ids that may be shown; none at all allows everything.
        block: video ids that may not be shown.
        min_safety: least safety of what is shown; None for the exported threshold.
        weights: of click, finish, like and freshness in the final score; None for the exported ones.
        diversity: 0 for the best score alone, up to 1; None for the exported one.
    """

    allow: Sequence[str] = ()
    block: Sequence[str] = ()
    min_safety: float | None = None
    weights: tuple[float, float, float, float] | None = None
    diversity: float | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not (len(self.weights) == 4 and all(weight >= 0 for weight in self.weights)):
            raise TfrecError(
                f"`weights` must be four numbers of 0 or more (click, finish, like, freshness). Received: {self.weights!r}."
            )
        for name in ("min_safety", "diversity"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise TfrecError(f"`{name}` must be from 0 to 1. Received: {value!r}.")


@dataclass(frozen=True)
class Query:
    """A request for recommendations.

    Args:
        user_id: may be unknown, or empty.
        history: video ids, oldest first; unknown ones are passed over.
        history_timestamp: Unix seconds of the same events; none at all where unknown.
        timestamp: Unix seconds of the request, 0 for now.
        exclude: video ids that may not be shown.
        k: slots wanted.
        filters: None for the exported defaults.
    """

    user_id: str = ""
    history: Sequence[str] = ()
    history_timestamp: Sequence[int] = ()
    timestamp: int = 0
    exclude: Sequence[str] = ()
    k: int = 10
    filters: Filters | None = None

    def __post_init__(self) -> None:
        if self.history_timestamp and len(self.history_timestamp) != len(self.history):
            raise TfrecError(
                f"`history_timestamp` must have one time for each video of `history`. Received: "
                f"{len(self.history_timestamp)} times, {len(self.history)} videos."
            )
        _require_seconds("timestamp", self.timestamp)
        _require_seconds("history_timestamp", *self.history_timestamp)
        _require_slots(self.k)


def _require_slots(k: int) -> None:
    if not 1 <= k <= _MAX_K:
        raise TfrecError(f"`k` must be from 1 to {_MAX_K}. Received: {k}.")


def _require_seconds(name: str, *times: int) -> None:
    limits = np.iinfo(np.int64)
    for time in times:
        if not limits.min <= time <= limits.max:
            raise TfrecError(f"`{name}` must be Unix seconds that an int64 holds. Received: {time}.")


def require_utf8(name: str, text: str) -> None:
    """Refuses what a shell hands on of bytes that are no UTF-8: no message could carry it.

    Raises:
        TfrecError: Naming the input and the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TfrecError(f"`{name}` must be text that UTF-8 can write. Received: {text!r}.") from error


@dataclass(frozen=True)
class Recommendation:
    """A filled slot.

    Args:
        video_id: the video.
        score: final score, slots descend by it.
        click: calibrated probability, as are the next two.
        finish: calibrated probability.
        like: calibrated probability.
        reason: the video of the history that argued most for it, or `popular`, or `new`.
        is_cold: nobody has watched it yet.
    """

    video_id: str
    score: float
    click: float
    finish: float
    like: float
    reason: str
    is_cold: bool


@dataclass(frozen=True)
class Match:
    """A video found by likeness.

    Args:
        video_id: the video.
        score: cosine.
    """

    video_id: str
    score: float


@dataclass(frozen=True)
class MediaFormat:
    """How the video encoder wants frames and sound: as training took them.

    Args:
        image_size: height and width of a frame in pixels.
        num_frames: most frames of a video.
        sampling: which frames: `uniform`, `fixed_rate` or `key_frames`.
        frames_per_second: of `fixed_rate`.
        sample_rate_hz: rate of the sound.
        max_seconds: what comes later is left out.
    """

    image_size: int
    num_frames: int
    sampling: SamplingMode
    frames_per_second: float
    sample_rate_hz: int
    max_seconds: float


@dataclass(frozen=True)
class Embedding:
    """A video in the index's space.

    Args:
        embedding: `[D]`.
        log_variance: `[D]`, how sure the model is of each dimension.
    """

    embedding: tuple[float, ...]
    log_variance: tuple[float, ...]


@dataclass(frozen=True)
class VersionStatus:
    """A version of a model on a server.

    Args:
        version: its number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error: why it is not served; empty where nothing went wrong.
    """

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class Call(Generic[T]):
    """A signature with its inputs.

    Args:
        signature: its name.
        inputs: arrays with the batch in front.
        read: makes the result of the outputs.

    Raises:
        TfrecError: If a text is none that UTF-8 can write.
    """

    signature: str
    inputs: Arrays
    read: Callable[[Arrays], T]

    def __post_init__(self) -> None:
        for name, array in self.inputs.items():
            for value in array.flat if array.dtype == object else ():
                if isinstance(value, str):
                    require_utf8(name, value)


def recommend(queries: Sequence[Query]) -> Call[list[list[Recommendation]]]:
    """Slates for several requests, empty slots left out."""
    filtered = any(query.filters for query in queries)
    inputs = _inputs(queries) | (_filters(queries) if filtered else {})
    return Call(
        "recommend_filtered" if filtered else "recommend", inputs, lambda outputs: _slates(outputs, len(queries))
    )


def _inputs(queries: Sequence[Query]) -> dict[str, NDArray[Any]]:
    history = _padded([query.history for query in queries], "", object)
    times = [query.history_timestamp for query in queries]
    return {
        "user_id": _texts([query.user_id for query in queries]),
        "history": history,
        "history_timestamp": _padded(times, 0, np.int64, history.shape[1]),
        "timestamp": np.array([query.timestamp for query in queries], np.int64),
        "exclude": _padded([query.exclude for query in queries], "", object),
        "k": np.array([query.k for query in queries], np.int32),
    }


def _filters(queries: Sequence[Query]) -> dict[str, NDArray[Any]]:
    """Inputs of `recommend_filtered`; negative numbers stand for what was exported."""
    filters = [query.filters or Filters() for query in queries]
    return {
        "allow": _padded([one.allow for one in filters], "", object),
        "block": _padded([one.block for one in filters], "", object),
        "min_safety": np.array([_given(one.min_safety) for one in filters], np.float32),
        "weights": np.array([one.weights or (-1.0,) * 4 for one in filters], np.float32),
        "diversity": np.array([_given(one.diversity) for one in filters], np.float32),
    }


def _given(value: float | None) -> float:
    return -1.0 if value is None else value


def similar(video_id: str, k: int) -> Call[list[Match]]:
    """The `k` nearest videos to one of the catalogue, or as many as the model was exported with."""
    return _find("similar_videos", {"video_id": _texts([video_id])}, k)


def search(text: str, k: int) -> Call[list[Match]]:
    """The `k` best videos for a free text, or as many as the model was exported with."""
    return _find("search", {"query": _texts([text])}, k)


def _find(signature: str, inputs: Arrays, k: int) -> Call[list[Match]]:
    """These signatures take no `k`: they answer the exported maximum, best first."""
    _require_slots(k)
    return Call(signature, inputs, lambda outputs: _matches(outputs)[:k])


def media_format() -> Call[MediaFormat]:
    """How frames and sound of a video are to be taken."""
    return Call("media_format", {"title": _texts([""])}, _media_format)


def embed_video(
    title: str, frames: Sequence[bytes], audio: bytes, generate_method: str, gen_params: Sequence[float]
) -> Call[Embedding]:
    """A new video.

    Args:
        title: its text.
        frames: PNG or JPEG files.
        audio: a WAV file, empty for no sound.
        generate_method: how it was made.
        gen_params: numbers that the generator was given.
    """
    inputs = {
        "title": _texts([title]),
        "frames": _padded([frames], b"", object),
        "audio": _texts([audio]),
        "generate_method": _texts([generate_method]),
        "gen_params": np.array([list(gen_params)], np.float32),
    }
    return Call("embed_video", inputs, _embedding)


def embed_video_row(
    video: Call[Embedding], prompt: str, created_at: int, columns: Mapping[str, str]
) -> Call[Embedding]:
    """A new video with what else its row of `videos.csv` would say.

    Args:
        video: of `embed_video`, with the title alone as its text.
        prompt: that it was made from.
        created_at: Unix seconds, 0 for now, -1 where unknown.
        columns: cells by column, `tags` among them.
    """
    _require_seconds("created_at", created_at)
    inputs = {
        "prompt": _texts([prompt]),
        "created_at": np.array([created_at], np.int64),
        "column": _texts(list(columns)).reshape(1, -1),
        "value": _texts(list(columns.values())).reshape(1, -1),
    }
    return Call("embed_video_row", {**video.inputs, **inputs}, _embedding)


def _slates(outputs: Arrays, wanted: int) -> list[list[Recommendation]]:
    rows = zip(*(outputs[name].tolist() for name in SLOT), strict=True)
    slates = []
    for row in rows:
        slots = zip(*row, strict=True)
        slates.append(
            [Recommendation(_text(id_), *numbers, _text(why), new) for id_, *numbers, why, new in slots if id_]
        )
    if len(slates) != wanted:
        raise ValueError(f"{len(slates)} slates for {wanted} requests")
    return slates


def _matches(outputs: Arrays) -> list[Match]:
    found = zip(outputs["video_id"][0].tolist(), outputs["score"][0].tolist(), strict=True)
    return [Match(_text(video_id), score) for video_id, score in found if video_id]


def _media_format(outputs: Arrays) -> MediaFormat:
    values = {field.name: outputs[field.name][0] for field in fields(MediaFormat)}
    return MediaFormat(**{name: _text(v) if name == "sampling" else v.item() for name, v in values.items()})


def _embedding(outputs: Arrays) -> Embedding:
    return Embedding(*(tuple(outputs[name][0].tolist()) for name in ("embedding", "log_variance")))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _texts(values: Sequence[str | bytes]) -> NDArray[np.object_]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _padded(rows: Sequence[Sequence[Any]], filling: Any, kind: Any, width: int = 1) -> NDArray[Any]:
    """`[B, W]`, filled up at the end; W is a power of two, since a batching server joins only what is equally wide."""
    while width < max(map(len, rows), default=0):
        width *= 2
    array = np.full((len(rows), width), filling, kind)
    for row, values in zip(array, rows, strict=True):
        row[: len(values)] = list(values)
    return array
