"""From columnar interactions to `tf.data` batches.

A batch is a pure function of the step number: which events it holds (a pseudo-random permutation per epoch, computed, not
stored), their histories (gathered from the log by position) and the negatives (drawn by a counter-based generator). So a
stream is deterministic by seed, starts again at any step, needs no memory beyond the log itself and runs without Python.

The *history* of an event is what its user watched before it, oldest first. A log without times has no before: there the
history is the rest of what the user watched (leave one out).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.data.schema import Interactions, Part
from tfrec.data.shares import WHOLE, Shares
from tfrec.errors import TfrecError

SECONDS_PER_DAY = 86_400.0

POPULARITY_EXPONENT = 0.75
"""Of the counts that popular negatives are drawn by (Mikolov et al., NeurIPS 2013)."""


class Query(NamedTuple):
    """What the query tower sees of a request, `B` requests at once.

    Args:
        user: int32 `[B]` row numbers, -1 unknown.
        timestamp: int64 `[B]` Unix seconds of the request, 0 unknown.
        history: int32 `[B, T]` row numbers of watched videos, oldest first, -1 padding at the end.
        history_kind: int32 `[B, T]` bits of `LABELS`, 0 for padding.
        history_age: float32 `[B, T]` days from the event to the request, 0 where times are unknown.
    """

    user: tf.Tensor
    timestamp: tf.Tensor
    history: tf.Tensor
    history_kind: tf.Tensor
    history_age: tf.Tensor


QUERY_SPEC = Query(
    user=tf.TensorSpec([None], tf.int32),
    timestamp=tf.TensorSpec([None], tf.int64),
    history=tf.TensorSpec([None, None], tf.int32),
    history_kind=tf.TensorSpec([None, None], tf.int32),
    history_age=tf.TensorSpec([None, None], tf.float32),
)
"""Of requests of any number, with histories of any length."""


_NEVER = 1 << 62
"""Unix seconds after every request: what stands for padding has no age."""


@dataclass(frozen=True)
class HistoryLog:
    """The positive events that may serve as history, laid out for gathering.

    Args:
        rows: int64 `[num_events]`, ascending numbers of these events among all interactions.
        video: int32 `[num_events + 1]`, sorted by user, then time; the last of these three stands for padding.
        timestamp: int64 `[num_events + 1]`.
        kind: int32 `[num_events + 1]`.
        offsets: int64 `[num_users + 1]`: the events of user u are `offsets[u]` to `offsets[u + 1]`.
        has_time: whether the events of a user have an order.
        length: most recent events in a query.
    """

    rows: NDArray[np.int64]
    video: tf.Tensor
    timestamp: tf.Tensor
    kind: tf.Tensor
    offsets: tf.Tensor
    has_time: bool
    length: int

    @classmethod
    def of(cls, interactions: Interactions, parts: tuple[Part, ...], length: int) -> HistoryLog:
        """The positive events of `parts`; in a log without times, each pair of user and video once."""
        rows = interactions.rows(*parts)
        if not interactions.has_time:
            rows = rows[first_watches(interactions, rows)]
        counts = np.bincount(interactions.user[rows], minlength=interactions.num_users)
        return cls(
            rows=rows,
            video=tf.constant(np.append(interactions.video[rows], -1), tf.int32),
            timestamp=tf.constant(np.append(interactions.timestamp[rows], _NEVER), tf.int64),
            kind=tf.constant(np.append(interactions.kinds[rows], 0), tf.int32),
            offsets=tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int64),
            has_time=interactions.has_time,
            length=length,
        )

    def before(self, user: tf.Tensor, end: tf.Tensor, now: tf.Tensor) -> Query:
        """The last `length` events of each user ahead of a position.

        Args:
            user: int32 `[B]`.
            end: int64 `[B]` position in the log that the history ends before.
            now: int64 `[B]` Unix seconds of the request.
        """
        start = tf.gather(self.offsets, user)
        first = tf.maximum(start, end - self.length)
        position = first[:, None] + tf.range(self.length, dtype=tf.int64)
        return self._gather(user, position, position < end[:, None], now)

    def around(self, user: tf.Tensor, position: tf.Tensor, shift: tf.Tensor) -> Query:
        """A window of the user's other events: leave one out of a set.

        The events of a user are taken as a ring; the window starts behind the event that is left out, moved on by a share
        of what does not fit.

        Args:
            user: int32 `[B]`.
            position: int64 `[B]` of the event left out.
            shift: float32 `[B]` in [0, 1).
        """
        start, end = tf.gather(self.offsets, user), tf.gather(self.offsets, user + 1)
        others = end - start - 1
        taken = tf.minimum(others, self.length)
        moved = tf.cast(shift * tf.cast(others - taken + 1, tf.float32), tf.int64)
        step = tf.range(self.length, dtype=tf.int64)
        ring = (position - start + 1 + moved)[:, None] + step
        present = step < taken[:, None]
        ring = start[:, None] + ring % tf.maximum(others + 1, 1)[:, None]
        return self._gather(user, ring, present, tf.zeros_like(start))

    def latest(self, user: tf.Tensor, now: tf.Tensor) -> Query:
        """All that each user has done: the query of a request made `now`."""
        return self.before(user, tf.gather(self.offsets, user + 1), now)

    def _gather(self, user: tf.Tensor, position: tf.Tensor, present: tf.Tensor, now: tf.Tensor) -> Query:
        event = tf.where(present, position, len(self.rows))[:, :, None]
        return Query(
            user=user,
            timestamp=now,
            # `tf.gather` calls a copy of memory for each number.
            history=tf.gather_nd(self.video, event),
            history_kind=tf.gather_nd(self.kind, event),
            history_age=days_between(tf.gather_nd(self.timestamp, event), now[:, None]),
        )


def first_watches(interactions: Interactions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in `rows` (ascending numbers of events) at which a user watches a video for the first time, ascending."""
    pair = interactions.user[rows].astype(np.int64) * interactions.num_videos + interactions.video[rows]
    return np.sort(np.unique(pair, return_index=True)[1])


def days_between(timestamp: tf.Tensor, now: tf.Tensor) -> tf.Tensor:
    """Days from `timestamp` to `now` (int64 Unix seconds), float32, never negative."""
    return tf.maximum(tf.cast(now - timestamp, tf.float32) / SECONDS_PER_DAY, 0.0)


def uniform_negatives(warm: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """int32 `[count]` draws from int32 `[num_warm]` videos, or these themselves where they are not more.

    Args:
        warm: the videos.
        count: how many are wanted.
        seed: int64 `[2]`.
    """
    return warm if count >= warm.shape[0] else _draws(warm, count, seed)


def _draws(videos: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.gather(videos, tf.random.stateless_uniform([count], seed, maxval=videos.shape[0], dtype=tf.int32))


@dataclass(frozen=True)
class RetrievalBatches:
    """Training batches of the retrieval model.

    Each example is the first time a user watched a video. Each batch has its own uniform negatives from the warm videos.

    Args:
        interactions: the log.
        history_length: events in a query.
        batch_size: examples per batch; the last batch of an epoch is filled up from its start.
        num_uniform_negatives: negatives per batch; the whole of the warm catalogue where it is not larger.
        max_examples_per_user: examples that an epoch takes from one user, other ones each epoch; 0 takes all.
        seed: of the permutations and draws.
        max_positives: positives of the user that a batch names for each target, those nearest in time; 0 for none.
        user_exponent: an epoch takes n to this power, rounded, of the n examples of a user.
        min_examples_per_user: users with fewer are left out, unless that were all.
        num_popular_negatives: further negatives, drawn by `popularity`, where they are a sample.
        pool_size: uniform draws that hard negatives are sought among; `pool` of a batch, where negatives are a sample.
    """

    interactions: Interactions
    history_length: int
    batch_size: int
    num_uniform_negatives: int
    max_examples_per_user: int
    seed: int
    max_positives: int = 256
    user_exponent: float = 1.0
    min_examples_per_user: int = 1
    num_popular_negatives: int = 0
    pool_size: int = 0

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """int64 `[num_targets]`: numbers of the events that can be learned from, ascending."""
        rows = self.interactions.rows(Part.TRAIN)
        if not len(rows):
            raise TfrecError(
                "No positive training interactions: there is nothing to learn from. Check `split` and `click`."
            )
        return rows[first_watches(self.interactions, rows)]

    @cached_property
    def _targets_per_user(self) -> NDArray[np.int64]:
        return np.bincount(self.interactions.user[self.targets], minlength=self.interactions.num_users)

    @cached_property
    def _examples_per_user(self) -> NDArray[np.int64]:
        enough = max(min(self.min_examples_per_user, int(self._targets_per_user.max())), 1)
        wanted = np.rint(self._targets_per_user**self.user_exponent).astype(np.int64)
        wanted *= self._targets_per_user >= enough
        return np.minimum(wanted, self.max_examples_per_user or len(self.targets))

    @property
    def frequency(self) -> NDArray[np.float64]:
        """float64 `[num_videos]`: share of the examples of many epochs that are on each video."""
        users = self.interactions.user[self.targets]
        chance = self._examples_per_user[users] / self._targets_per_user[users]
        counts = np.bincount(self.interactions.video[self.targets], chance, minlength=self.interactions.num_videos)
        return counts / self.num_examples

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """float64 `[num_videos]`: chance of each video per popular negative, as word2vec draws words."""
        weights = self.interactions.train_counts**POPULARITY_EXPONENT
        return weights / weights.sum()

    @property
    def samples_catalogue(self) -> bool:
        """Whether negatives are a sample; otherwise every warm video is a candidate of every query."""
        return self.num_uniform_negatives < len(self.interactions.warm_videos)

    @property
    def num_examples(self) -> int:
        """Examples per epoch."""
        return int(self._examples_per_user.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-self.num_examples // self.batch_size)

    def epoch(self, epoch: int, shares: Shares = WHOLE) -> tf.data.Dataset:
        """Batches of one epoch, counted from 0, or shares of them.

        Returns:
            Dicts of `query` (Query), `video` int32 `[B]`, `positives` int32 `[B, None]` (at
            most `max_positives` each) and `negatives` int32 `[U]`.
            A share has the queries and positives of its own rows, `video` of the whole batch, since every replica scores
            against all candidates, and `rows`, int32: which of `video` are the targets of its queries.
        """
        make = partial(self._batch_function, shares)
        return shares.batches(epoch * self.steps_per_epoch, self.steps_per_epoch, make)

    @cached_property
    def _batch_function(self) -> Any:
        log = HistoryLog.of(self.interactions, (Part.TRAIN,), self.history_length)
        position = tf.constant(np.searchsorted(log.rows, self.targets))
        examples, targets = self._examples_per_user, self._targets_per_user
        example_ends = tf.constant(np.cumsum(examples))
        first_example, first_target = (tf.constant(np.cumsum(counts) - counts) for counts in (examples, targets))
        num_targets, warm = tf.constant(targets), tf.constant(self.interactions.warm_videos)
        num_examples, steps_per_epoch = self.num_examples, self.steps_per_epoch

        def batch(shares: Shares, step: tf.Tensor, share: tf.Tensor) -> dict[str, Any]:
            epoch = step // steps_per_epoch
            example = (
                (step % steps_per_epoch) * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
            ) % num_examples
            example = shuffled(example, tf.stack([self.seed + tf.zeros_like(epoch), 2 * epoch]), num_examples)
            user = tf.searchsorted(example_ends, example, side="right", out_type=tf.int64)
            # The examples of a user lie next to each other in the ring of their targets, elsewhere each epoch.
            size = tf.gather(num_targets, user)
            choice = (example - tf.gather(first_example, user) + _hash(user, epoch + self.seed) % size) % size
            event = tf.gather(position, tf.gather(first_target, user) + choice)
            video = tf.gather(log.video, event)
            user, event = shares.of(tf.cast(user, tf.int32), share), shares.of(event, share)
            draw = tf.stack([tf.constant(self.seed, tf.int64), step])
            if log.has_time:
                query = log.before(user, event, tf.gather(log.timestamp, event))
            else:
                shift = tf.random.stateless_uniform([self.batch_size], draw)
                query = log.around(user, event, shares.of(shift, share))
            rows = {} if shares.count == 1 else {"rows": shares.of(tf.range(self.batch_size), share)}
            return {
                "query": query,
                "video": video,
                "positives": self._positives(log, user, event),
                "negatives": self._negatives(warm, draw),
                **self._pool(warm, draw),
                **rows,
            }

        return tf.function(batch, autograph=False)  # traced once, and not for every epoch

    def _pool(self, warm: tf.Tensor, draw: tf.Tensor) -> dict[str, tf.Tensor]:
        if not self.pool_size or not self.samples_catalogue:
            return {}
        return {"pool": _draws(warm, self.pool_size, draw + tf.constant([2 << 32, 0], tf.int64))}

    def _positives(self, log: HistoryLog, user: tf.Tensor, event: tf.Tensor) -> tf.Tensor:
        """Ragged int32 `[B, None]`: what the user watched around the event."""
        start, end = tf.gather(log.offsets, user), tf.gather(log.offsets, user + 1)
        first = tf.maximum(tf.minimum(event - self.max_positives // 2, end - self.max_positives), start)
        positions = tf.ragged.range(first, tf.minimum(first + self.max_positives, end))
        return positions.with_flat_values(tf.gather_nd(log.video, positions.flat_values[:, None]))

    def _negatives(self, warm: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        uniform = uniform_negatives(warm, self.num_uniform_negatives, draw + tf.constant([1 << 32, 0], tf.int64))
        if not (self.num_popular_negatives and self.samples_catalogue):
            return uniform
        ends = tf.constant(np.cumsum(self.popularity), tf.float64)
        shot = tf.random.stateless_uniform(
            [self.num_popular_negatives], draw + tf.constant([3 << 32, 0], tf.int64), dtype=tf.float64
        )
        popular = tf.searchsorted(ends, shot * ends[-1], side="right")
        return tf.concat([uniform, popular], axis=0)


@dataclass(frozen=True)
class RankingBatches:
    """Logged events with their labels, for training and measuring the ranking model.

    Where the log holds only clicks, each event comes with negatives drawn uniformly from the catalogue.

    Args:
        interactions: the log.
        events: int64 `[num_events]`, numbers of the events taken.
        known: parts whose positives may serve as history.
        history_length: events in a query.
        batch_size: events per batch.
        num_negatives: drawn per event, where the log has none.
        seed: of the permutations and draws.
    """

    interactions: Interactions
    events: NDArray[np.int64]
    known: tuple[Part, ...]
    history_length: int
    batch_size: int
    num_negatives: int
    seed: int

    @cached_property
    def negatives_per_event(self) -> int:
        """`num_negatives` where the training log has no negatives of its own, else 0."""
        logged = self.interactions.positive[self.interactions.part == Part.TRAIN]
        return self.num_negatives if logged.all() else 0

    def epoch(self, epoch: int, shares: Shares = WHOLE) -> tf.data.Dataset:
        """Shuffled batches of one epoch, or shares of them; see `in_order`."""
        return self._batches(epoch, shuffle=True, shares=shares)

    def in_order(self) -> tf.data.Dataset:
        """Every event once, in the order of the log; the last batch is filled up from the start.

        Returns:
            Dicts of `query` (Query), `candidates` int32 `[B, 1 + N]`, the event's video first, `labels`: float32
            `[B, 1 + N]` by name, -1 where unknown, and `positions` int32 `[B, 1 + N]`: where it was shown, 0 where unknown.
        """
        return self._batches(0, shuffle=False)

    def _batches(self, epoch: int, shuffle: bool, shares: Shares = WHOLE) -> tf.data.Dataset:
        make = partial(self._batch, self._tables, shuffle, shares)  # the tables are made here, outside the graph
        num_steps = -(-len(self.events) // self.batch_size)
        return shares.batches(epoch * num_steps, num_steps, make)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        log = HistoryLog.of(self.interactions, self.known, self.history_length)
        labels = {name: values[self.events] for name, values in self.interactions.labels.items()}
        return {
            "log": log,
            "user": tf.constant(self.interactions.user[self.events], tf.int32),
            "video": tf.constant(self.interactions.video[self.events], tf.int32),
            "timestamp": tf.constant(self.interactions.timestamp[self.events], tf.int64),
            "position": tf.constant(np.searchsorted(log.rows, self.events), tf.int64),
            "is_history": tf.constant(np.isin(self.events, log.rows)),
            "shown_at": tf.constant(self.interactions.shown_at(self.events), tf.int32),
            "labels": {name: tf.constant(values, tf.float32) for name, values in labels.items()}
            or {"click": tf.ones(len(self.events))},
        }

    def _batch(
        self, tables: dict[str, Any], shuffle: bool, shares: Shares, step: tf.Tensor, share: tf.Tensor
    ) -> dict[str, Any]:
        num_events = len(self.events)
        steps_per_epoch = -(-num_events // self.batch_size)
        epoch = step // steps_per_epoch
        event = ((step % steps_per_epoch) * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)) % num_events
        if shuffle:
            event = shuffled(event, tf.stack([self.seed + tf.zeros_like(epoch), 2 * epoch + 1]), num_events)
        draw = tf.stack([tf.constant(self.seed, tf.int64), step])
        shape = [self.batch_size, self.negatives_per_event]
        negatives = tf.random.stateless_uniform(shape, draw, maxval=self.interactions.num_videos, dtype=tf.int32)
        shift = tf.random.stateless_uniform([self.batch_size], draw)
        event, negatives, shift = (shares.of(values, share) for values in (event, negatives, shift))
        query = self._query(event, shift)
        video = tf.gather(tables["video"], event)[:, None]
        watched = tf.concat([query.history, video], axis=1)
        labels = {}
        for name, values in tables["labels"].items():
            unknown = tf.fill(negatives.shape, -1.0)
            # A drawn negative that the user is known to have watched, then or before, is none.
            clean = tf.reduce_all(negatives[:, :, None] != watched[:, None, :], axis=2)
            negative = tf.where(clean, 0.0, unknown) if name == "click" else unknown
            labels[name] = tf.concat([tf.gather(values, event)[:, None], negative], axis=1)
        candidates = tf.concat([video, negatives], axis=1)
        positions = tf.pad(tf.gather(tables["shown_at"], event)[:, None], [[0, 0], [0, self.negatives_per_event]])
        return {"query": query, "candidates": candidates, "labels": labels, "positions": positions}

    def _query(self, event: tf.Tensor, shift: tf.Tensor) -> Query:
        tables, log = self._tables, self._tables["log"]
        user, position = tf.gather(tables["user"], event), tf.gather(tables["position"], event)
        now = tf.gather(tables["timestamp"], event)
        if log.has_time:
            return log.before(user, position, now)
        # Without times, an event of the history itself is left out of it; the others leave nothing out.
        known = tf.gather(tables["is_history"], event)
        last = tf.gather(log.offsets, user + 1) - 1
        without, whole = log.around(user, tf.minimum(position, last), shift), log.latest(user, now)
        return Query(*(tf.where(_like(known, part), part, other) for part, other in zip(without, whole, strict=True)))


def _like(flags: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Flags `[B]` in the rank of `values`, `[B, ...]`."""
    return flags if values.shape.rank == 1 else flags[:, None]


def shuffled(index: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Where each int64 index `[B]` goes in the pseudo-random permutation of `size` that an integer seed `[2]` chooses."""
    return tf.random.experimental.index_shuffle(index, tf.cast(seed, tf.uint32), tf.constant(size - 1, tf.int64))


def _hash(values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Scrambles int64 `[B]` to int64 `[B]` of 0 or more, another way for each int64 seed (the finaliser of SplitMix64)."""
    mixed = tf.cast(values + 1, tf.uint64) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    mixed += tf.cast(seed, tf.uint64) * tf.constant(0xD1B54A32D192ED03, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(shift, tf.uint64)))
        mixed *= tf.constant(factor, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(mixed, tf.constant(1, tf.uint64)), tf.int64)
