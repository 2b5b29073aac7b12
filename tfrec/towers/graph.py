"""The graph of the catalogue, from the training log and the content features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tfrec.config import CandidateConfig
from tfrec.data.schema import Interactions, Part
from tfrec.errors import TfrecError
from tfrec.features.content import ContentFeatures, Modality
from tfrec.layers.graph import VideoGraph

ROWS_AT_ONCE = 1024
"""Videos whose cosines to all others are held in memory at a time."""


def build_graph(config: CandidateConfig, interactions: Interactions, content: ContentFeatures) -> VideoGraph:
    """The graph that `CandidateConfig` asks for.

    Args:
        config: of the candidate tower.
        interactions: the log, of which the training part counts.
        content: features of the catalogue, for the content edges.
    """
    viewing = viewing_matrix(interactions, config.graph_max_events)
    if not config.graph_neighbours or not content:
        return VideoGraph(viewing)
    modalities = _chosen(content, config.graph_modalities)
    return VideoGraph(viewing, content_edges(modalities, interactions.train_counts > 0, config.graph_neighbours))


def _chosen(content: ContentFeatures, names: Sequence[str]) -> list[Modality]:
    unknown = sorted(set(names) - set(content.modalities))
    if unknown:
        raise TfrecError(
            f"`graph_modalities` names {', '.join(unknown)}, which the videos lack. They have: "
            f"{', '.join(content.modalities)}."
        )
    return [modality for name, modality in content.modalities.items() if not names or name in names]


def viewing_matrix(interactions: Interactions, max_events: int = 0) -> sparse.csr_matrix:
    """float32 `[num_users, num_videos]`: 1 where a user watched a video in training.

    Args:
        interactions: the log.
        max_events: videos kept of each user, drawn at random, which bounds the graph; 0 keeps all.
    """
    rows = interactions.rows(Part.TRAIN)
    shape = (interactions.num_users, interactions.num_videos)
    events = (np.ones(len(rows), np.float32), (interactions.user[rows], interactions.video[rows]))
    viewing = sparse.csr_matrix(events, shape)
    viewing.data[:] = 1
    if max_events:
        keys = np.random.default_rng(0).random(viewing.nnz)
        users = np.repeat(np.arange(shape[0]), np.diff(viewing.indptr))
        place = np.empty(viewing.nnz, np.int64)
        place[np.lexsort((keys, users))] = np.arange(viewing.nnz) - viewing.indptr[users]
        viewing.data[place >= max_events] = 0
        viewing.eliminate_zeros()
    return viewing


def content_edges(modalities: Sequence[Modality], warm: NDArray[np.bool_], num_neighbours: int) -> sparse.csr_matrix:
    """From each video to the most similar warm ones, with weights that sum to 1.

    Compares every pair: time grows with the square of the catalogue (a minute for some 100,000 videos).

    Args:
        modalities: whose cosines are added up.
        warm: bool `[num_videos]`.
        num_neighbours: edges per video; fewer where fewer videos are warm.
    """
    directions = np.concatenate([modality.directions() for modality in modalities], axis=1)
    targets = np.flatnonzero(warm)
    count = min(num_neighbours, len(targets) - 1)
    if count < 1:
        return sparse.csr_matrix((len(warm), len(warm)), dtype=np.float32)
    columns = []
    for start in range(0, len(warm), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(warm)))
        cosine = directions[rows] @ directions[targets].T
        cosine[rows[:, None] == targets] = -np.inf
        columns.append(targets[np.argpartition(-cosine, count - 1, axis=1)[:, :count]])
    places = (np.repeat(np.arange(len(warm)), count), np.concatenate(columns).reshape(-1))
    return sparse.csr_matrix((np.full(len(places[0]), 1 / count, np.float32), places), (len(warm), len(warm)))
