"""What can be asked of a model about many records, and the rows that its answers become.

Rows stand in the order of the records, and by rank within a record. Ranks count from 1. The columns, by mode:

    recommend   user_id, rank, video_id, score, click, finish, like, reason, model_version
    rank        user_id, video_id, score, click, finish, like, model_version
    similar     video_id, rank, similar_video_id, score, model_version
    embed       user_id or video_id, embedding, model_version

`score` falls with the rank; `click`, `finish` and `like` are calibrated probabilities, `reason` is a video of the history,
`popular` or `new`. In `rank` every pair is a request of its own, so `score` is the weighted sum of the probabilities, and 0
where the model does not know the video. An empty slot is no row, nor is an unknown video in `similar` and `embed`. Numbers
are float32, ranks int32, the version int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfrec.data.schema import LABELS
from tfrec.scoring.histories import Histories, query_inputs
from tfrec.scoring.records import Records

if TYPE_CHECKING:
    from tfrec.export.log_requests import Inputs

Outputs = Mapping[str, NDArray[Any]]
Rows = dict[str, pa.Array]


@dataclass(frozen=True)
class Mode:
    """A way to ask.

    Args:
        keys: columns that name a record.
        signature: the one that is asked.
        inputs: of the signature, for records; the last argument is the slots wanted.
        rows: of the output, without the version; the last argument is the slots wanted.
    """

    keys: tuple[str, ...]
    signature: str
    inputs: Callable[[Records, Histories, int], Inputs]
    rows: Callable[[Records, Outputs, int], Rows]

    def table(self, records: Records, outputs: Outputs, k: int, version: int) -> pa.Table:
        """The rows of some records."""
        rows = self.rows(records, outputs, k)
        count = len(next(iter(rows.values())))
        return pa.table({**rows, "model_version": pa.repeat(pa.scalar(version, pa.int64()), count)})


def _pair_inputs(records: Records, histories: Histories, k: int) -> Inputs:
    return {**query_inputs(records, histories, k), "candidate": records.columns["video_id"][:, None]}


def _video_inputs(records: Records, histories: Histories, k: int) -> Inputs:
    return {"video_id": records.columns["video_id"]}


def _slate_rows(records: Records, outputs: Outputs, k: int) -> Rows:
    record, slot = np.nonzero(outputs["video_id"][:, :k] != b"")
    values = {name: pa.array(outputs[name][record, slot]) for name in ("score", *LABELS)}
    return {
        "user_id": _strings(records.columns["user_id"]).take(pa.array(record)),
        "rank": pa.array((slot + 1).astype(np.int32)),
        "video_id": _strings(outputs["video_id"][record, slot]),
        **values,
        "reason": _strings(outputs["reason"][record, slot]),
    }


def _pair_rows(records: Records, outputs: Outputs, k: int) -> Rows:
    values = {name: pa.array(outputs[name][:, 0]) for name in ("score", *LABELS)}
    return {name: _strings(records.columns[name]) for name in ("user_id", "video_id")} | values


def _neighbour_rows(records: Records, outputs: Outputs, k: int) -> Rows:
    record, slot = np.nonzero(outputs["video_id"][:, :k] != b"")
    return {
        "video_id": _strings(records.columns["video_id"]).take(pa.array(record)),
        "rank": pa.array((slot + 1).astype(np.int32)),
        "similar_video_id": _strings(outputs["video_id"][record, slot]),
        "score": pa.array(outputs["score"][record, slot]),
    }


def _query_rows(records: Records, outputs: Outputs, k: int) -> Rows:
    return {"user_id": _strings(records.columns["user_id"]), "embedding": _vectors(outputs["embedding"])}


def _candidate_rows(records: Records, outputs: Outputs, k: int) -> Rows:
    known = outputs["embedding"].any(axis=1)  # the signature answers zeros for a video that it does not know
    ids = _strings(records.columns["video_id"][known])
    return {"video_id": ids, "embedding": _vectors(outputs["embedding"][known])}


def _vectors(values: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _strings(values: NDArray[np.object_]) -> pa.Array:
    return pa.array(values, pa.string())


MODES: Mapping[str, Mode] = {
    "recommend": Mode(("user_id",), "recommend", query_inputs, _slate_rows),
    "rank": Mode(("user_id", "video_id"), "rank", _pair_inputs, _pair_rows),
    "similar": Mode(("video_id",), "similar_videos", _video_inputs, _neighbour_rows),
    "embed": Mode(("user_id",), "embed_user", query_inputs, _query_rows),
    "embed_videos": Mode(("video_id",), "embed_candidate", _video_inputs, _candidate_rows),
}
"""The ways to ask, by name."""
