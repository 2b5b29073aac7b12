"""The best candidates of every user among the whole catalogue, exactly, a block of the catalogue at a time.

Sorting rows of scores, or selecting from them, would take longer than making them. So the scores of a block are looked at once,
for the maxima of *groups* of columns: the k-th largest of these is a *bound* that the k best videos of the user reach. Only
groups whose maximum reaches it are looked into, and few scores survive; these alone are sorted.

Equal scores are ordered along a *ring*, a shuffle of the candidates in which every user starts at another video.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import ThreadpoolController

from tfrec.errors import TfrecError
from tfrec.towers.space import NO_BLOCK, Layout

ScoresOf = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Positions of users, int64 `[B]` -> scores, float `[B, num_videos]`."""

BATCH_BYTES = 2**25
"""Size of a batch of float32 scores that cannot be made in blocks."""

USERS_PER_BATCH, VIDEOS_PER_BLOCK = 256, 8192
"""Of scores that can: a block stays in the caches of a core, and is large enough for a fast product of matrices."""

TIE_SEED = 0


@dataclass(frozen=True)
class InnerProducts:
    """Scores that are inner products: `ScoresOf` that need not be in memory for a whole catalogue.

    Args:
        queries: float32 `[U, D]`, one row per user.
        videos: float32 `[num_videos, D]`.
        layout: of both.
    """

    queries: NDArray[np.float32]
    videos: NDArray[np.float32]
    layout: Layout = NO_BLOCK

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 `[B, num_videos]`."""
        return self.block(positions, 0, len(self.videos))

    def block(self, positions: NDArray[np.int64], start: int, stop: int) -> NDArray[np.float32]:
        """float32 `[B, stop - start]`: those of some videos."""
        return self.layout.scores(self.queries[positions], self.videos[start:stop])


def rank_candidates(
    scores_of: ScoresOf,
    users: NDArray[np.int32],
    seen: sparse.csr_matrix,
    candidates: Mapping[str, NDArray[np.bool_]],
    k: int,
    batch_size: int | None = None,
) -> dict[str, NDArray[np.int32]]:
    """Ranks sets of candidates for every user, from one pass over the scores.

    Args:
        scores_of: scores for positions in `users`, asked once for each. `InnerProducts` take the least time and memory.
        users: int32 `[U]` row numbers; equal scores are ordered by them.
        seen: `[U, num_videos]`: what is not shown.
        candidates: bool `[num_videos]` by name.
        k: slots per user.
        batch_size: users scored at once; chosen by the size of the catalogue where not given.

    Returns:
        int32 `[U, k]` row numbers by name, best first, -1 where candidates ran out.

    Raises:
        ValueError: If scores have the wrong shape, or (`TfrecError`) hold NaN.
    """
    num_videos = seen.shape[1]
    parts = _Parts.of(candidates)
    rings = {name: _Ring(mask) for name, mask in candidates.items()}
    in_blocks = isinstance(scores_of, InnerProducts)
    blocks = partial(_blocks, scores_of) if isinstance(scores_of, InnerProducts) else partial(_whole, scores_of, Lock())
    size = batch_size or (USERS_PER_BATCH if in_blocks else int(np.clip(BATCH_BYTES // (4 * num_videos), 1, 1024)))

    def rank(start: int) -> dict[str, NDArray[np.int32]]:
        positions = np.arange(start, min(start + size, len(users)))
        best = [_Best(len(positions), k) for _ in parts.videos]
        hidden = _Hidden(seen[positions])
        for first, scores in blocks(positions, num_videos):
            hidden.hide(scores, first)
            for part, values, videos in parts.split(scores, first):
                best[part].add(values, videos)
        return {
            name: ring.order([best[part].found() for part in parts.of_name[name]], users[positions], k)
            for name, ring in rings.items()
        }

    # Each batch is the work of one thread; where BLAS had threads of its own besides, they would wait for one another.
    limited = _libraries().limit(limits=1, user_api="blas") if in_blocks else nullcontext()
    with limited, ThreadPoolExecutor(_num_cores()) as pool:
        ranked = list(pool.map(rank, range(0, len(users), size)))
    nobody = np.empty((0, k), np.int32)
    return {name: np.concatenate([nobody, *(slates[name] for slates in ranked)]) for name in candidates}


@cache
def _libraries() -> ThreadpoolController:
    """Those with threads of their own; to look for them takes as long as ranking some hundred users."""
    return ThreadpoolController()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


Blocks = Iterator[tuple[int, NDArray[np.float32]]]
"""Scores `[B, W]` that may be overwritten, each with the number of its first video."""


def _blocks(scores_of: InnerProducts, positions: NDArray[np.int64], num_videos: int) -> Blocks:
    ends = np.linspace(0, num_videos, max(round(num_videos / VIDEOS_PER_BLOCK), 1) + 1).astype(int).tolist()
    for start, stop in pairwise(ends):
        yield start, _checked(scores_of.block(positions, start, stop), len(positions), stop - start)


def _whole(scores_of: ScoresOf, lock: Lock, positions: NDArray[np.int64], num_videos: int) -> Blocks:
    """One block; who makes the scores need not bear several threads."""
    with lock:
        scores = np.array(scores_of(positions), np.float32)
    yield 0, _checked(scores, len(positions), num_videos)


def _checked(scores: NDArray[np.float32], num_users: int, num_videos: int) -> NDArray[np.float32]:
    if scores.shape != (num_users, num_videos):
        raise ValueError(f"`scores_of` must return [{num_users}, {num_videos}]. Received: {scores.shape}.")
    return scores


class _Hidden:
    """What each user of a batch has seen, in the order of the catalogue."""

    def __init__(self, seen: sparse.csr_matrix) -> None:
        order = np.argsort(seen.indices, kind="stable")
        self._videos = seen.indices[order]
        self._rows = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))[order]

    def hide(self, scores: NDArray[np.float32], first: int) -> None:
        """Makes -inf of the scores `[B, W]` of seen videos among those from `first` on."""
        start, stop = np.searchsorted(self._videos, [first, first + scores.shape[1]])
        scores[self._rows[start:stop], self._videos[start:stop] - first] = -np.inf


@dataclass(frozen=True)
class _Parts:
    """The catalogue in disjoint parts, such that each set of candidates is a union of them.

    Args:
        videos: int64 row numbers of each part, ascending; the largest part comes first.
        others: int64 row numbers of what is in no set.
        of_name: numbers of the parts that are a set.
    """

    videos: tuple[NDArray[np.int64], ...]
    others: NDArray[np.int64]
    of_name: Mapping[str, list[int]]

    @classmethod
    def of(cls, candidates: Mapping[str, NDArray[np.bool_]]) -> _Parts:
        members = np.stack([mask.astype(np.int64) << bit for bit, mask in enumerate(candidates.values())]).sum(axis=0)
        codes = [code for code in np.unique(members).tolist() if code]
        codes.sort(key=lambda code: -np.count_nonzero(members == code))
        of_name = {
            name: [part for part, code in enumerate(codes) if code >> bit & 1] for bit, name in enumerate(candidates)
        }
        return cls(tuple(np.flatnonzero(members == code) for code in codes), np.flatnonzero(members == 0), of_name)

    def split(
        self, scores: NDArray[np.float32], first: int
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
        """Number of a part, its scores `[B, P]` and their videos `[P]`, from scores `[B, W]` of the videos from `first` on.

        The largest part is not copied: it keeps the columns of the others, at -inf.
        """
        stop = first + scores.shape[1]
        for part, videos in enumerate((*self.videos[1:], self.others), start=1):
            inside = videos[slice(*np.searchsorted(videos, [first, stop]))]
            if not len(inside):
                continue
            if part < len(self.videos):
                yield part, np.take(scores, inside - first, axis=1), inside
            scores[:, inside - first] = -np.inf
        if self.videos:
            yield 0, scores, np.arange(first, stop)


_LOWEST = np.finfo(np.float32).min

Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Rows of a batch, row numbers of videos and scores, each `[n]`."""


class _Best:
    """Scores of one part, for a batch of users: those that may be among the k best of their user.

    Args:
        num_rows: users.
        k: wanted.
    """

    def __init__(self, num_rows: int, k: int) -> None:
        self.k = k
        self.bound = np.full(num_rows, _LOWEST)
        self.survivors: list[Found] = []

    def add(self, scores: NDArray[np.float32], videos: NDArray[np.int64]) -> None:
        """Takes in the scores `[B, W]` of further videos `[W]`."""
        width = scores.shape[1]
        num_groups = -(-width // max(width // (4 * self.k), 1))
        maxima = _group_maxima(scores, num_groups)
        if np.isnan(maxima).any():
            raise TfrecError(
                "Scores hold NaN, so nothing can be ranked by them. If the loss is NaN too, training diverged: lower "
                "`learning_rate`. Otherwise check the features."
            )
        if not self.survivors and self.k <= num_groups:
            self.bound = np.maximum(np.partition(maxima, -self.k, axis=1)[:, -self.k], _LOWEST)
        row, group = np.divmod(np.flatnonzero(maxima >= self.bound[:, None]), num_groups)
        column = group[:, None] + np.arange(0, width, num_groups)
        value = scores[row[:, None], np.minimum(column, width - 1)]
        survives = (value >= self.bound[row, None]) & (column < width)
        rows = np.broadcast_to(row[:, None], survives.shape)
        self.survivors.append((rows[survives], videos[column[survives]], value[survives]))
        if sum(len(rows) for rows, _, _ in self.survivors) > 4 * self.k * len(self.bound):
            self._raise_bound()

    def found(self) -> Found:
        """What may be among the best, and little more."""
        rows, videos, values = (np.concatenate(column) for column in zip(*self.survivors, strict=True))
        return rows, videos, values

    def _raise_bound(self) -> None:
        rows, videos, values = self.found()
        table = _table(rows, values, len(self.bound), self.k, -np.inf)
        self.bound = np.maximum(np.partition(table, -self.k, axis=1)[:, -self.k], _LOWEST)
        survives = values >= self.bound[rows]
        self.survivors = [(rows[survives], videos[survives], values[survives])]


def _group_maxima(scores: NDArray[np.float32], num_groups: int) -> NDArray[np.float32]:
    """float32 `[B, num_groups]`: group g holds the columns g, g + num_groups, ... of `[B, W]`."""
    num_rows, width = scores.shape
    rest = width % num_groups
    whole = scores[:, : width - rest].reshape(num_rows, -1, num_groups)
    maxima: NDArray[np.float32] = whole.max(axis=1)
    np.maximum(maxima[:, :rest], scores[:, width - rest :], out=maxima[:, :rest])
    return maxima


class _Ring:
    """A set of candidates, and how equal scores are ordered among them.

    Args:
        candidates: bool `[num_videos]`.
    """

    def __init__(self, candidates: NDArray[np.bool_]) -> None:
        self._ring = np.random.default_rng(TIE_SEED).permutation(np.flatnonzero(candidates)).astype(np.int32)
        self._place = np.zeros(len(candidates), np.int64)
        self._place[self._ring] = np.arange(len(self._ring))

    def order(self, found: Sequence[Found], users: NDArray[np.int32], k: int) -> NDArray[np.int32]:
        """int32 `[B, k]`: the videos with the largest of the scores found for each user, -1 where there are no more."""
        size = max(len(self._ring), 1)
        start = users * _HASH % size
        nothing = np.empty(0, np.int64)
        empty = (nothing, nothing, np.empty(0, np.float32))
        row, video, value = (np.concatenate(column) for column in zip(empty, *found, strict=True))
        keys = _keys(value, (self._place[video] + start[row]) % size)
        best = np.sort(_table(row, keys, len(users), k, _NONE), axis=1)[:, ::-1][:, :k]
        place = ((best & _LOW_BITS) - start[:, None]) % size
        return np.where(best == _NONE, -1, np.append(self._ring, -1)[place])


_HASH = np.int64(2_654_435_761)
"""Spreads successive numbers over the ring (Knuth, The Art of Computer Programming 3, 6.4)."""

_NONE = np.iinfo(np.int64).min
_LOW_BITS = 0x7FFFFFFF


def _keys(values: NDArray[np.float32], priority: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers in the order of the values, and of their priority where these are equal: its bits are the low ones."""
    bits = (values + np.float32(0)).view(np.int32)  # adding 0 makes -0 the same as 0
    ordered = bits ^ (bits >> 31 & _LOW_BITS)  # the bits of negative floats rise as the number falls
    return ordered.astype(np.int64) << 32 | priority


def _table(row: NDArray[np.int64], values: NDArray[Any], num_rows: int, width: int, nothing: float) -> NDArray[Any]:
    """`[num_rows, n]` values by their rows, `[n]` in any order; at least `width` columns, filled up with `nothing`."""
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=num_rows)
    first = np.cumsum(counts) - counts
    table = np.full((num_rows, max(width, counts.max(initial=0))), nothing, values.dtype)
    table[row[order], np.arange(len(row)) - first[row[order]]] = values[order]
    return table
