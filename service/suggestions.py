"""Which identities are likely the same person: every pair compared exactly, by the means of their embeddings.

Two people who were seen in the same frame, by one camera at one time, are two; so are an identity and that of
an item that was rejected for it. Such pairs are left out before the best are taken.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from service.columns import NO_TIME, Columns, Ints
from service.errors import TooManyIdentities
from service.identities import get
from service.selection import Selection, to_filter
from service.serving import Serving
from service.tables import Identity, Item, Rejection

MAX_IDENTITIES = 20_000
"""So many are compared with each other in some seconds."""

BLOCK = 1_024
"""Identities that are compared with all others at a time."""

ROWS = 4_096
"""Embeddings that are turned into float32 at a time."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Side:
    """One identity of a pair, and its item that is most like the other one."""

    identity: Identity
    item: Item


@dataclass(frozen=True)
class Suggestion:
    """Two identities and the cosine of the means of their embeddings."""

    score: float
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Means:
    """The mean embeddings of identities, of length 1, (M, D), and the rows of each in the index."""

    keys: Ints
    means_MD: Floats  # noqa: N815 - a shape suffix
    rows: list[Ints]


_turn = Lock()


def suggest(
    serving: Serving, among: Selection, limit: int, min_score: float, identity_id: str | None
) -> list[Suggestion]:
    """Return the likeliest pairs, best first; of one identity or of all, by the items that are meant.

    Raises:
        IdentityNotFound: there is no such identity.
        TooManyIdentities: more than can be compared with each other at once.
    """
    generation = serving.refresh()
    with serving.sessions.read() as session:
        key = None if identity_id is None else get(session, identity_id).key
        only = to_filter(session, among)
        rejected = session.execute(
            select(Rejection.identity_key, Item.identity_key).join(Item, Item.slot == Rejection.slot)
        ).all()
    columns, rows, rows_ND = generation.index.living(only)
    with _turn:
        means = means_of(columns, rows, rows_ND)
        if key is None and len(means.keys) > MAX_IDENTITIES:
            raise TooManyIdentities(len(means.keys), MAX_IDENTITIES)
        apart = [*_seen_together(columns, means), *_places(means, ((a, b) for a, b in rejected))]
        pairs = best_pairs(means, limit, min_score, apart, key)
    return _show(serving, columns, rows_ND, means, pairs)


def means_of(columns: Columns, rows: Ints, rows_ND: NDArray[np.float16]) -> Means:
    """Return the means of the identities that these rows show."""
    codes, places = np.unique(columns.identities.codes[rows], return_inverse=True)
    order = np.argsort(places, kind="stable")
    rows, places = rows[order], places[order]
    means_MD = np.zeros((len(codes), rows_ND.shape[1]), np.float32)
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        firsts = np.flatnonzero(np.diff(places[part], prepend=-1))
        means_MD[places[part][firsts]] += np.add.reduceat(rows_ND[rows[part]].astype(np.float32), firsts)
    means_MD /= np.maximum(np.linalg.norm(means_MD, axis=1, keepdims=True), 1e-12)
    keys = np.array([columns.identities.values[code] for code in codes.tolist()], np.int64)
    return Means(keys, means_MD, np.split(rows, np.flatnonzero(np.diff(places)) + 1) if len(rows) else [])


def best_pairs(
    means: Means, k: int, min_score: float, apart: Iterable[Ints], key: int | None = None
) -> list[tuple[float, int, int]]:
    """Return the k likeliest pairs as (score, place, place), best first, ties by place.

    Any two of the places in an array of `apart` are no pair. With `key` only pairs of that identity count.
    """
    groups = [group for group in apart if len(group) > 1]
    found: list[tuple[float, int, int]] = []
    for first, scores_BM in _blocks(means, key):
        for group in groups:
            inside = group[(group >= first) & (group < first + len(scores_BM))] - first
            scores_BM[np.ix_(inside, group)] = -np.inf
        least = max(min_score, found[-1][0]) if len(found) == k else min_score
        lines, places = np.nonzero(scores_BM >= least)
        found += zip(
            scores_BM[lines, places].tolist(), (lines + first).tolist(), places.tolist(), strict=True
        )
        found = sorted(found, key=lambda pair: (-pair[0], pair[1:]))[:k]
    return found


def _blocks(means: Means, key: int | None) -> Iterator[tuple[int, Floats]]:
    """Return scores of some identities with all others; each pair is above -inf once."""
    if key is not None:
        for place in np.flatnonzero(means.keys == key).tolist():
            scores_1M = means.means_MD[place : place + 1] @ means.means_MD.T
            scores_1M[0, place] = -np.inf
            yield place, scores_1M
        return
    for first in range(0, len(means.keys), BLOCK):
        scores_BM = means.means_MD[first : first + BLOCK] @ means.means_MD.T
        scores_BM[np.arange(len(scores_BM))[:, None] + first >= np.arange(len(means.keys))] = -np.inf
        yield first, scores_BM


def _seen_together(columns: Columns, means: Means) -> Iterator[Ints]:
    """Return the places of the identities that are in one frame, for each frame of several."""
    if not means.rows:
        return
    rows = np.concatenate(means.rows)
    places = np.repeat(np.arange(len(means.rows)), [len(own) for own in means.rows])
    cameras, times = columns.cameras.codes[rows], columns.times[rows]
    is_known = (times != NO_TIME) & (cameras != columns.cameras.code_of.get(None, -1))
    sightings = np.stack([cameras[is_known], times[is_known], places[is_known]], axis=1)
    sightings = np.unique(sightings, axis=0)
    ends = np.flatnonzero((np.diff(sightings[:, :2], axis=0) != 0).any(axis=1)) + 1
    for frame in np.split(sightings[:, 2], ends):
        if len(frame) > 1:
            yield frame


def _places(means: Means, pairs: Iterable[tuple[int, int]]) -> Iterator[Ints]:
    """Return pairs of keys as places, as far as both are there."""
    place_of = {key: place for place, key in enumerate(means.keys.tolist())}
    for pair in pairs:
        known = [place_of[key] for key in set(pair) if key in place_of]
        if len(known) > 1:
            yield np.array(sorted(known))


def _show(
    serving: Serving,
    columns: Columns,
    rows_ND: NDArray[np.float16],
    means: Means,
    pairs: list[tuple[float, int, int]],
) -> list[Suggestion]:
    """Look up the identities and items of pairs; what is gone by now is left out."""

    def best_slot(place: int, other: int) -> int:
        rows = means.rows[place]
        scores = rows_ND[rows].astype(np.float32) @ means.means_MD[other]
        return int(columns.slots[rows[int(scores.argmax())]])

    slots = [(best_slot(a, b), best_slot(b, a)) for _, a, b in pairs]
    statement = select(Item).options(selectinload(Item.identity).selectinload(Identity.attributes))
    with serving.sessions.read() as session:
        wanted = {slot for pair in slots for slot in pair}
        items = {item.slot: item for item in session.scalars(statement.where(Item.slot.in_(wanted)))}
    return [
        Suggestion(min(1.0, score), (Side(items[a].identity, items[a]), Side(items[b].identity, items[b])))
        for (score, _, _), (a, b) in zip(pairs, slots, strict=True)
        if a in items and b in items
    ]
