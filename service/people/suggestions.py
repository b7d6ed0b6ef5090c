"""Suggestions: pairs of identities that are likely the same person, by their mean embeddings.

Every pair is compared, without approximation. A pair is impossible if both identities were seen in one frame,
which is one camera at one time. A pair is also impossible if an item of one identity was rejected for the
other. Impossible pairs are left out before the top k are taken.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from service.errors import TooManyIdentities
from service.gallery.conditions import to_filter
from service.gallery.items import find_identity
from service.gallery.selection import Selection
from service.index import NO_TIME, Columns
from service.serving.generation import Generation
from service.store.store import Store
from service.store.tables import Identity, Item, Rejection

MAX_IDENTITIES = 20_000
"""At most this many identities are compared with each other; the comparison takes some seconds."""

BLOCK = 512
"""Identities that are compared with all others in one step."""

ROWS = 4_096
"""Embeddings that are converted to float32 in one step."""

MAX_FRAME = 64
"""A frame with more identities than this is a crowd, whose pairs are too many to be listed."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PairMember:
    """One identity of a pair, and its item that is most similar to the other identity."""

    identity: Identity
    item: Item


@dataclass(frozen=True)
class Suggestion:
    """Two identities, and as `score` the cosine of their mean embeddings."""

    score: float
    members: tuple[PairMember, PairMember]


@dataclass(frozen=True)
class People:
    """The identities of some rows of an index. The rows of identity i are `rows[starts[i] : starts[i + 1]]`.

    The number i of an identity, from 0 to M - 1, is called its place.

    Attributes:
        keys: (M,), the key of each identity.
        rows: row numbers, grouped by identity.
        starts: (M + 1,), where the rows of each identity begin.
        rows_ND: the embeddings of all rows of the index, L2-normalised.
    """

    keys: Ints
    rows: Ints
    starts: Ints
    rows_ND: NDArray[np.float16]  # noqa: N815 - a shape suffix

    @classmethod
    def of(cls, columns: Columns, rows: Ints, rows_ND: NDArray[np.float16]) -> "People":
        """Group rows by identity."""
        codes, num_rows = np.unique(columns.identities.codes[rows], return_counts=True)
        rows = rows[np.argsort(columns.identities.codes[rows], kind="stable")]
        keys = np.array([columns.identities.values[code] for code in codes.tolist()], np.int64)
        return cls(keys, rows, np.concatenate([[0], np.cumsum(num_rows)]), rows_ND)

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, place: int) -> Ints:
        """Return the rows of one identity."""
        return self.rows[self.starts[place] : self.starts[place + 1]]

    def means(self, first: int, end: int) -> Floats:
        """Return the mean embeddings of the places `first` to `end` - 1, (M, D), L2-normalised."""
        rows = self.rows[self.starts[first] : self.starts[end]]
        places = np.repeat(np.arange(end - first), np.diff(self.starts[first : end + 1]))
        means_MD: Floats = np.zeros((end - first, self.rows_ND.shape[1]), np.float32)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            firsts = np.flatnonzero(np.diff(places[part], prepend=-1))
            sums = np.add.reduceat(self.rows_ND[rows[part]].astype(np.float32), firsts)
            means_MD[places[part][firsts]] += sums
        means_MD /= np.maximum(np.linalg.norm(means_MD, axis=1, keepdims=True), 1e-12)
        return means_MD


@dataclass(frozen=True)
class ImpossiblePairs:
    """Pairs of identities that cannot be one person, by place.

    Attributes:
        pairs_P2: (P, 2), every pair in both orders, sorted by the first place.
        crowds: for each crowd the places of its identities. Any two identities of a crowd are an impossible
            pair.
    """

    pairs_P2: Ints  # noqa: N815 - a shape suffix
    crowds: list[Ints]

    def rule_out(self, first: int, scores_BM: Floats) -> None:
        """Set the scores of impossible pairs to -inf.

        Args:
            first: the place of the identity of the first row.
            scores_BM: scores of B identities with all M identities; is changed.
        """
        end = first + len(scores_BM)
        a, b = self.pairs_P2[slice(*np.searchsorted(self.pairs_P2[:, 0], [first, end]))].T
        scores_BM[a - first, b] = -np.inf
        for crowd in self.crowds:
            inside = crowd[(crowd >= first) & (crowd < end)] - first
            scores_BM[np.ix_(inside, crowd)] = -np.inf


_turn = Lock()


def suggest(
    store: Store,
    generation: Generation,
    among: Selection,
    limit: int,
    min_score: float,
    identity_id: str | None,
) -> tuple[str, list[Suggestion]]:
    """Return the pairs of identities that are most likely one person, best first.

    Args:
        store: the gallery.
        generation: the generation in service.
        among: the items whose embeddings are compared.
        limit: most pairs.
        min_score: least cosine of a pair, from -1 to 1.
        identity_id: one identity of every pair; None for pairs of all identities.

    Returns:
        The model version of the compared embeddings, and the pairs.

    Raises:
        IdentityNotFound: there is no such identity.
        TooManyIdentities: there are more identities than can be compared with each other.
    """
    with store.read() as session:
        key = None if identity_id is None else find_identity(session, identity_id).key
        only = to_filter(session, among)
        rejected = session.execute(
            select(Rejection.identity_key, Item.identity_key).join(Item, Item.slot == Rejection.slot)
        )
        rejected_keys = [(a, b) for a, b in rejected]
    columns, rows, rows_ND = generation.index.matching(only)
    with _turn:
        people = People.of(columns, rows, rows_ND)
        if key is None and len(people) > MAX_IDENTITIES:
            raise TooManyIdentities(len(people), MAX_IDENTITIES)
        impossible = impossible_pairs(columns, people, rejected_keys)
        pairs = topk_pairs(people, limit, min_score, impossible, key)
    return generation.replica.version, _look_up(store, columns, people, pairs)


def topk_pairs(
    people: People, k: int, min_score: float, impossible: ImpossiblePairs, key: int | None = None
) -> list[tuple[float, int, int]]:
    """Return the k pairs of highest score as (score, place, place), best first, ties by place.

    With `key` only pairs of that identity count.
    """
    found: list[tuple[float, int, int]] = []
    for first, scores_BM in _blocks(people, key):
        impossible.rule_out(first, scores_BM)
        least = max(min_score, found[-1][0]) if len(found) == k else min_score
        scores = scores_BM.ravel()
        for number in _topk(scores, k, least):
            line, place = divmod(number, scores_BM.shape[1])
            found.append((float(scores[number]), first + line, place))
        found = sorted(found, key=lambda pair: (-pair[0], pair[1:]))[:k]
    return found


def _topk(scores: Floats, k: int, least: float) -> list[int]:
    """Return the places of the k highest scores of at least `least`; of tied scores the first ones count."""
    good = scores[scores >= least]
    if len(good) <= k:
        return list(map(int, np.flatnonzero(scores >= least)))
    good.partition(len(good) - k)
    last = good[len(good) - k]
    better = np.flatnonzero(scores > last)
    ties = np.flatnonzero(scores == last)[: k - len(better)]
    return [*map(int, better), *map(int, ties)]


def _blocks(people: People, key: int | None) -> Iterator[tuple[int, Floats]]:
    """Yield blocks of B identities: the place of the first, and their scores with all identities, (B, M).

    Each pair has a score above -inf in one block only. With `key` there is one block, of that identity.
    """
    if key is not None:
        for place in np.flatnonzero(people.keys == key).tolist():
            yield place, _scores_of(people, place)
        return
    means_MD = people.means(0, len(people))
    for first in range(0, len(people), BLOCK):
        scores_BM = means_MD[first : first + BLOCK] @ means_MD.T
        scores_BM[np.arange(len(scores_BM))[:, None] + first >= np.arange(len(people))] = -np.inf
        yield first, scores_BM


def _scores_of(people: People, place: int) -> Floats:
    """Return the scores of one identity with all identities, (1, M), a block of means at a time."""
    mean_1D = people.means(place, place + 1)
    ends = [*range(0, len(people), BLOCK), len(people)]
    scores_1M = np.concatenate([mean_1D @ people.means(*part).T for part in pairwise(ends)], axis=1)
    scores_1M[0, place] = -np.inf
    return scores_1M


def impossible_pairs(
    columns: Columns, people: People, rejected_keys: Iterable[tuple[int, int]]
) -> ImpossiblePairs:
    """Return the pairs that were seen in one frame, and the pairs of keys in `rejected_keys`."""
    place_of = {key: place for place, key in enumerate(people.keys.tolist())}
    known = [(place_of[a], place_of[b]) for a, b in rejected_keys if a in place_of and b in place_of]
    frames, places = _frames(columns, people)
    is_crowded = np.bincount(frames)[frames] > MAX_FRAME
    starts = np.flatnonzero(np.diff(frames[is_crowded])) + 1
    crowds = np.split(places[is_crowded], starts) if is_crowded.any() else []
    frames, places = frames[~is_crowded], places[~is_crowded]
    pairs = [np.array(known, np.int64).reshape(-1, 2)]
    for distance in range(1, MAX_FRAME):
        is_one = frames[distance:] == frames[:-distance]
        if not is_one.any():
            break
        pairs.append(np.stack([places[:-distance][is_one], places[distance:][is_one]], axis=1))
    pairs_P2 = np.concatenate(pairs)
    pairs_P2 = np.concatenate([pairs_P2, pairs_P2[:, ::-1]])
    return ImpossiblePairs(pairs_P2[np.argsort(pairs_P2[:, 0], kind="stable")], crowds)


def _frames(columns: Columns, people: People) -> tuple[Ints, Ints]:
    """Return the numbers of the frames and the places of the identities in them, sorted by frame.

    An identity that has several items in a frame is listed once.
    """
    places = np.repeat(np.arange(len(people)), np.diff(people.starts))
    cameras, times = columns.cameras.codes[people.rows], columns.times[people.rows]
    is_known = (times != NO_TIME) & (cameras != columns.cameras.code_of.get(None, -1))
    seen_3S = np.stack([cameras[is_known], times[is_known], places[is_known]])
    seen_3S = seen_3S[:, np.lexsort(seen_3S[::-1])]
    is_new = np.diff(seen_3S, axis=1, prepend=seen_3S[:, :1] - 1) != 0
    frames = np.cumsum(is_new[:2].any(axis=0)) - 1
    is_once = is_new.any(axis=0)
    return frames[is_once], seen_3S[2, is_once]


def _look_up(
    store: Store, columns: Columns, people: People, pairs: list[tuple[float, int, int]]
) -> list[Suggestion]:
    """Read the identities and items of pairs; pairs whose items were deleted or moved since are left out."""

    def best_slot(place: int, other: int) -> int:
        rows = people.rows_of(place)
        scores = people.rows_ND[rows].astype(np.float32) @ people.means(other, other + 1)[0]
        return int(columns.slots[rows[int(scores.argmax())]])

    slots = [(best_slot(a, b), best_slot(b, a)) for _, a, b in pairs]
    all_slots = {slot for pair in slots for slot in pair}
    with store.read() as session:
        items = {item.slot: item for item in session.scalars(select(Item).where(Item.slot.in_(all_slots)))}
    suggestions = []
    for (score, *places), pair in zip(pairs, slots, strict=True):
        found = [items[slot] for slot in pair if slot in items]
        if [item.identity_key for item in found] == people.keys[places].tolist():
            first, second = (PairMember(item.identity, item) for item in found)
            suggestions.append(Suggestion(min(1.0, score), (first, second)))
    return suggestions
