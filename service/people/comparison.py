"""Compare identities by their mean embeddings, and find the pairs that are most alike.

Every pair is compared, without approximation. A pair is impossible if both identities were seen in one frame,
which is one camera at one time. A pair is also impossible if an item of one identity was rejected for the
other. Impossible pairs are left out before the top k are taken.

A comparison takes seconds on the cores that also answer searches. So it goes in steps of some milliseconds,
and calls `pause` before each of them.

Shape suffixes: N rows, D dimensions of an embedding, M identities, B identities of a block.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.index import NO_TIME, Columns
from service.uploads.requests import go_on

BLOCK = 512
"""Identities whose scores with all later identities are in memory at a time."""

STEP = 2_048
"""Identities that a block is compared with in one step."""

ROWS = 4_096
"""Embeddings that are converted to float32 in one step."""

MAX_FRAME = 64
"""A frame with more identities than this is a crowd, whose pairs are too many to be listed."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pause = Callable[[], object]


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

    def only(self, places: Sequence[int]) -> "People":
        """Return these identities alone, in this order."""
        rows = [self.rows_of(place) for place in places]
        starts = np.cumsum([0, *map(len, rows)])
        keys = self.keys[np.array(places, np.int64)]
        return replace(self, keys=keys, rows=np.concatenate([self.rows[:0], *rows]), starts=starts)

    def means(self, first: int, end: int, pause: Pause = go_on) -> Floats:
        """Return the mean embeddings of the places `first` to `end` - 1, (M, D), L2-normalised."""
        rows = self.rows[self.starts[first] : self.starts[end]]
        places = np.repeat(np.arange(end - first), np.diff(self.starts[first : end + 1]))
        means_MD: Floats = np.zeros((end - first, self.rows_ND.shape[1]), np.float32)
        for start in range(0, len(rows), ROWS):
            pause()
            part = slice(start, start + ROWS)
            firsts = np.flatnonzero(np.diff(places[part], prepend=-1))
            sums = np.add.reduceat(self.rows_ND[rows[part]].astype(np.float32), firsts)
            means_MD[places[part][firsts]] += sums
        means_MD /= np.maximum(np.linalg.norm(means_MD, axis=1, keepdims=True), 1e-12)
        return means_MD


@dataclass(frozen=True)
class Block:
    """The scores of some identities with others.

    Attributes:
        first: the place of the identity of the first line.
        first_other: the place of the identity of the first column.
        scores_BM: one line for each of the B identities. The places of lines and of columns are consecutive.
    """

    first: int
    first_other: int
    scores_BM: Floats  # noqa: N815 - a shape suffix


@dataclass(frozen=True)
class ImpossiblePairs:
    """Pairs of identities that cannot be one person, by place.

    Attributes:
        pairs_P2: (P, 2), every pair in both orders, sorted by the first place.
        crowds: for each crowd the places of its identities, ascending. Any two identities of a crowd are an
            impossible pair.
    """

    pairs_P2: Ints  # noqa: N815 - a shape suffix
    crowds: list[Ints]

    def rule_out(self, block: "Block") -> None:
        """Set the scores of impossible pairs to -inf."""
        end = block.first + len(block.scores_BM)
        a, b = self.pairs_P2[slice(*np.searchsorted(self.pairs_P2[:, 0], [block.first, end]))].T
        is_inside = b >= block.first_other
        block.scores_BM[a[is_inside] - block.first, b[is_inside] - block.first_other] = -np.inf
        for crowd in self.crowds:
            start, stop, start_other = np.searchsorted(crowd, [block.first, end, block.first_other])
            if start < stop:
                inside = np.ix_(crowd[start:stop] - block.first, crowd[start_other:] - block.first_other)
                block.scores_BM[inside] = -np.inf


def topk_pairs(
    people: People,
    k: int,
    min_score: float,
    impossible: ImpossiblePairs,
    key: int | None = None,
    pause: Pause = go_on,
) -> list[tuple[float, int, int]]:
    """Return the k pairs of highest score as (score, place, place), best first, ties by place.

    With `key` only pairs of that identity count.
    """
    found: list[tuple[float, int, int]] = []
    for block in _blocks(people, key, pause):
        impossible.rule_out(block)
        least = max(min_score, found[-1][0]) if len(found) == k else min_score
        scores = block.scores_BM.ravel()
        for number in _topk(scores, k, least):
            line, column = divmod(number, block.scores_BM.shape[1])
            found.append((float(scores[number]), block.first + line, block.first_other + column))
        found = sorted(found, key=lambda pair: (-pair[0], pair[1:]))[:k]
    return found


def _topk(scores: Floats, k: int, least: float) -> list[int]:
    """Return the places of the k highest scores of at least `least`; of tied scores the first ones count."""
    is_good = scores >= least
    if np.count_nonzero(is_good) <= k:
        return list(map(int, np.flatnonzero(is_good)))
    good = scores[is_good]
    good.partition(len(good) - k)
    last = good[len(good) - k]
    better = np.flatnonzero(scores > last)
    ties = np.flatnonzero(scores == last)[: k - len(better)]
    return [*map(int, better), *map(int, ties)]


def _blocks(people: People, key: int | None, pause: Pause) -> Iterator[Block]:
    """Yield blocks of scores, in which each pair has a score above -inf once.

    A block has the scores of some identities with themselves and all later identities. With `key` there is
    one block, with the scores of that identity with all identities.
    """
    if key is not None:
        for place in np.flatnonzero(people.keys == key).tolist():
            yield Block(place, 0, _scores_of(people, place, pause))
        return
    num = len(people)
    means_MD = people.means(0, num, pause)
    for first in range(0, num, BLOCK):
        means_BD = means_MD[first : first + BLOCK]
        scores_BM = np.empty((len(means_BD), num - first), np.float32)
        for start in range(first, num, STEP):
            pause()
            columns = slice(start - first, start - first + STEP)
            np.matmul(means_BD, means_MD[start : start + STEP].T, out=scores_BM[:, columns])
        scores_BM[:, : len(means_BD)][np.tri(len(means_BD), dtype=np.bool_)] = -np.inf
        yield Block(first, first, scores_BM)


def _scores_of(people: People, place: int, pause: Pause) -> Floats:
    """Return the scores of one identity with all identities, (1, M), a step of means at a time."""
    mean_1D = people.means(place, place + 1, pause)
    ends = [*range(0, len(people), STEP), len(people)]
    scores_1M = np.concatenate([mean_1D @ people.means(*part, pause).T for part in pairwise(ends)], axis=1)
    scores_1M[0, place] = -np.inf
    return scores_1M


def best_rows(people: People, pairs: Sequence[tuple[float, int, int]], pause: Pause = go_on) -> Ints:
    """Return the rows that show each pair, (P, 2): of each identity the row most like the mean of the other.

    The rows of an identity that is in many pairs are read once.
    """
    others: dict[int, list[tuple[int, int, int]]] = {}
    for number, (_, a, b) in enumerate(pairs):
        others.setdefault(a, []).append((b, number, 0))
        others.setdefault(b, []).append((a, number, 1))
    shown = people.only(list(others))
    means_MD = shown.means(0, len(shown), pause)
    mean_of = dict(zip(others, means_MD, strict=True))
    best: Ints = np.empty((len(pairs), 2), np.int64)
    for place, wanted in others.items():
        means_PD = np.stack([mean_of[other] for other, _, _ in wanted])
        _, numbers, sides = zip(*wanted, strict=True)
        best[numbers, sides] = _most_like(people.rows_of(place), people.rows_ND, means_PD, pause)
    return best


def _most_like(rows: Ints, rows_ND: NDArray[np.float16], means_PD: Floats, pause: Pause) -> Ints:
    """Return for each mean the row that is most like it, (P,); of tied rows the first one counts.

    There is no pause before the first step, because most identities have few rows.
    """
    best_P, scores_P = np.full(len(means_PD), rows[0]), np.full(len(means_PD), -np.inf, np.float32)
    for start in range(0, len(rows), ROWS):
        if start:
            pause()
        part = rows[start : start + ROWS]
        scores_NP = rows_ND[part].astype(np.float32) @ means_PD.T
        firsts_P, most_P = scores_NP.argmax(axis=0), scores_NP.max(axis=0)
        is_better = most_P > scores_P
        best_P[is_better] = part[firsts_P[is_better]]
        scores_P = np.maximum(scores_P, most_P)
    return best_P


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
