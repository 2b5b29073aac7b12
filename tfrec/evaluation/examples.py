"""Example slates for the report: what some users had watched, and what the exported recommender shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tfrec.data.schema import LABELS, Dataset
from tfrec.evaluation.evaluate import EvaluationTask
from tfrec.evaluation.report import ExampleSlate, SlateVideo
from tfrec.media.container import MediaError
from tfrec.media.frames import read_frames
from tfrec.media.read import main_path

HISTORY_SHOWN = 6
SLATE_SHOWN = 8
THUMBNAIL_PIXELS = 112
MIDDLE_OF = 3
"""Frames read of a video, of which the middle one is shown: the first is often black."""


class ExampleSlates:
    """Makes pages' examples from requests and answers.

    Args:
        dataset: titles and media come from it.
        task: what would have been right.
    """

    def __init__(self, dataset: Dataset, task: EvaluationTask) -> None:
        self._dataset = dataset
        self._task = task
        self._rows = {video_id: row for row, video_id in enumerate(dataset.videos.ids)}
        self._pictures: dict[int, bytes | None] = {}

    def make(
        self,
        positions: NDArray[np.int64],
        requests: Mapping[str, NDArray[Any]],
        answers: Mapping[str, NDArray[Any]],
    ) -> list[ExampleSlate]:
        """One example per request.

        Args:
            positions: int64 `[B]` in the task.
            requests: inputs of `recommend`.
            answers: its outputs.
        """
        return [self._example(place, position, requests, answers) for place, position in enumerate(positions)]

    def _example(
        self, place: int, position: int, requests: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]
    ) -> ExampleSlate:
        watched = [video_id for video_id in requests["history"][place] if video_id]
        relevant = set(self._task.relevant[position].indices)
        slate = []
        for slot in range(min(SLATE_SHOWN, answers["video_id"].shape[1])):
            answer = {name: values[place, slot] for name, values in answers.items()}
            if answer["video_id"]:
                slate.append(self._shown(answer, relevant))
        return ExampleSlate(
            user_id=str(self._dataset.users.ids[self._task.users[position]]),
            history=[self._video(str(video_id)) for video_id in watched[-HISTORY_SHOWN:]],
            slate=slate,
        )

    def _shown(self, answer: Mapping[str, Any], relevant: set[int]) -> SlateVideo:
        video_id = answer["video_id"].decode()
        return self._video(
            video_id,
            score=float(answer["score"]),
            probabilities={name: float(answer[name]) for name in LABELS if name in self._dataset.interactions.labels},
            reason=self._named(answer["reason"].decode()),
            is_cold=bool(answer["is_cold"]),
            is_relevant=self._rows[video_id] in relevant,
        )

    def _named(self, reason: str) -> str:
        """A reason with a title where it is a video, which the part of the history that is shown may not hold."""
        row = self._rows.get(reason)
        return reason if row is None else str(self._dataset.videos.titles[row]) or reason

    def _video(self, video_id: str, **shown: Any) -> SlateVideo:
        row = self._rows[video_id]
        title = str(self._dataset.videos.titles[row])
        return SlateVideo(video_id=video_id, title=title, thumbnail=self._picture(row), **shown)

    def _picture(self, row: int) -> bytes | None:
        if row not in self._pictures:
            self._pictures[row] = self._read_picture(row)
        return self._pictures[row]

    def _read_picture(self, row: int) -> bytes | None:
        """A key frame as JPEG; None for a video without picture, or with one that cannot be read."""
        source = self._dataset.videos.media.get(row)
        if source is None or (source.video or source.frames) is None:
            return None
        try:
            frames = read_frames(main_path(source), MIDDLE_OF, THUMBNAIL_PIXELS)
        except MediaError:
            return None
        _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(frames[len(frames) // 2][:, :, ::-1]))
        return encoded.tobytes() if len(frames) else None
