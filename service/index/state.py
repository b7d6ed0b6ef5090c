"""One immutable state of the index, and the search for the best items and groups in it.

A search works on one state from start to end, so a change made during the search does not affect its answer.

Shape suffixes: D dimensions of an embedding.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from service.index.ann import AnnIndex, AnnKind
from service.index.columns import Columns, Grouping, Ints, Mask
from service.index.vectors import Embeddings, Floats

MAX_EXACT_SHARE = 1 / 32
"""If a filter passes at most this share of the rows, the search is exact, because that is as fast as ANN."""

MIN_TOPK_ROWS = 256
"""Fewest rows to ask for in one round of a group search, because more rows cost little more time."""


@dataclass(frozen=True)
class Hits:
    """The items that a search found, best first; H is the number of hits.

    Items that tie with the last requested one are included, so H may exceed the number requested.

    Attributes:
        slots: (H,) the slot of each item.
        group_keys: (H,) equal for items of the same group; the values have no other meaning. A search for
            items makes each item a group of its own.
        scores: (H,) inner products with the query, descending.
        num_searched: how many items passed the filter.
        num_identities: how many identities these items are of.
    """

    slots: Ints
    group_keys: Ints
    scores: Floats
    num_searched: int
    num_identities: int


@dataclass(frozen=True)
class State:
    """Columns and embeddings of the same rows, deleted rows included.

    Attributes:
        columns: the properties of the items.
        embeddings: row i belongs to row i of `columns`.
        num_dead: how many rows belong to deleted items.
        ann: ANN index over the first rows, or None if every search is exact.
        layout_version: changes when items move to other rows. An ANN index fits the states of one version.
    """

    columns: Columns
    embeddings: Embeddings
    num_dead: int
    ann: AnnIndex | None
    layout_version: int = 0

    @property
    def kind(self) -> Literal["exact", AnnKind]:
        """Return the kind of index."""
        return "exact" if self.ann is None else self.ann.kind

    @cached_property
    def num_identities(self) -> int:
        """Return how many identities the items that are not deleted are of; counted once in each state."""
        return self._count_identities(self.columns.is_alive)

    def topk(self, query_1D: Floats, k: int, mask: Mask) -> Hits:
        """Find the k best marked items, and all items that tie with the k-th."""
        num_requested = k + 1
        while True:
            rows, scores = self._topk_rows(query_1D, num_requested, mask)
            if len(rows) < num_requested or scores[-1] < scores[k - 1]:
                break
            num_requested *= 4
        keep = slice(0, k) if len(rows) <= k else scores >= scores[k - 1]
        rows = rows[keep]
        return self._hits(rows, scores[keep], self.columns.slots[rows], mask)

    def topk_groups(self, query_1D: Floats, k: int, items_each: int, mask: Mask, by: Grouping) -> Hits:
        """Find the k best groups of marked items; `GalleryIndex.search_groups` describes the answer."""
        rows, scores, groups = self._rows_of_topk_groups(query_1D, k, items_each, mask, by)
        if items_each > 1:
            mask_of_groups = mask & self.columns.in_groups(by, np.unique(groups))
            num = int(np.count_nonzero(mask_of_groups))
            rows, scores = self.embeddings.topk(query_1D, num, mask_of_groups)
            groups = self.columns.groups(by, rows)
        keep = _topk_of_each_group(groups, scores, items_each)
        return self._hits(rows[keep], scores[keep], groups[keep], mask)

    def _topk_rows(self, query_1D: Floats, k: int, mask: Mask) -> tuple[Ints, Floats]:
        """Return the k best marked rows and their scores, best first; all marked rows if there are fewer.

        With an ANN index, some of the true k best rows may be missing. The scores are exact in any case.
        """
        ann = self.ann
        max_exact = MAX_EXACT_SHARE * len(self.columns)
        if ann is None or k > max_exact or np.count_nonzero(mask) <= max_exact:
            return self.embeddings.topk(query_1D, k, mask)
        newer_rows = ann.num_rows + np.flatnonzero(mask[ann.num_rows :])
        rows = np.concatenate([ann.candidates(query_1D, k, mask), newer_rows])
        return self.embeddings.topk_among(rows, query_1D, k)

    def _rows_of_topk_groups(
        self, query_1D: Floats, k: int, items_each: int, mask: Mask, by: Grouping
    ) -> tuple[Ints, Floats, Ints]:
        """Return rows of the k best groups, their scores and their groups; ties with the k-th are included.

        The best row of each group is among the rows; other rows of a group may be missing.

        The search works in rounds. A round fetches the best of the remaining rows. If the best row of a group
        scores higher than the last row fetched, the score of the group is final, and the next rounds skip its
        rows. So a group of thousands of rows delays the search by at most one round.
        """
        remaining = mask.copy()
        num_requested = max(k * items_each + 1, MIN_TOPK_ROWS)
        found: list[tuple[Ints, Floats, Ints]] = []
        group_scores: list[float] = []
        while True:
            rows, scores = self._topk_rows(query_1D, num_requested, remaining)
            is_last_round = len(rows) < num_requested
            is_final = scores > (float("-inf") if is_last_round else scores[-1])
            rows, scores = rows[is_final], scores[is_final]
            groups = self.columns.groups(by, rows)
            found.append((rows, scores, groups))
            new_groups, first_hits = np.unique(groups, return_index=True)
            group_scores += scores[np.sort(first_hits)].tolist()
            if is_last_round or len(group_scores) >= k:
                break
            remaining &= ~self.columns.in_groups(by, new_groups)
            num_requested *= 2
        rows, scores, groups = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(group_scores) >= k:
            best_groups = np.unique(groups[scores >= group_scores[k - 1]])
            is_best = np.isin(groups, best_groups)
            rows, scores, groups = rows[is_best], scores[is_best], groups[is_best]
        return rows, scores, groups

    def _hits(self, rows: Ints, scores: Floats, groups: Ints, mask: Mask) -> Hits:
        num = int(np.count_nonzero(mask))
        has_all = num == len(self.columns) - self.num_dead
        num_identities = self.num_identities if has_all else self._count_identities(mask)
        return Hits(self.columns.slots[rows], groups, scores, num, num_identities)

    def _count_identities(self, mask: Mask) -> int:
        identities = self.columns.identities
        is_there = np.zeros(len(identities.values), np.bool_)
        is_there[identities.codes[mask]] = True
        return int(np.count_nonzero(is_there))


def _topk_of_each_group(groups: Ints, scores: Floats, k: int) -> Mask:
    """Mark the first k hits of each group, and the hits that tie with the k-th.

    `scores` must descend.

    >>> _topk_of_each_group(np.array([1, 1, 2, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32), 2).tolist()
    [True, True, True, False]
    """
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    kth_hits = order[starts + np.minimum(sizes, k) - 1]
    threshold = np.empty(len(scores), np.float32)
    threshold[order] = np.repeat(scores[kth_hits], sizes)
    return np.asarray(scores >= threshold)
