"""What one search of the index sees, and how it finds the best items and groups in it.

A state never changes: searches of one state give one answer, whatever is changed meanwhile.
"""

from dataclasses import dataclass

import numpy as np

from service.index.columns import Columns, Grouping, Ints, Mask
from service.index.vectors import Approximate, Embeddings, Floats

FEW = 1 / 32
"""The share of rows up to which a filter's are better all looked at: as fast as a structure, and exact."""

MIN_ASKED = 256
"""How many items to look for at least when searching groups: looking for more costs little."""


@dataclass(frozen=True)
class Hits:
    """The best items, scores descending, with everything that ties with the last one asked for.

    `group_keys` are equal for items of one group, and mean nothing else.
    """

    slots: Ints
    identity_keys: Ints
    group_keys: Ints
    scores: Floats
    num_searched: int


@dataclass(frozen=True)
class State:
    """Row i of the columns is row i of the embeddings; dead rows count.

    Rows keep their numbers from one state to the next while `numbering` is the same.
    """

    columns: Columns
    embeddings: Embeddings
    num_dead: int
    structure: Approximate | None
    numbering: int = 0

    def best(self, query_1D: Floats, k: int, mask: Mask) -> tuple[Ints, Floats]:
        """Return the k best of the marked rows, or all if they are fewer, best first; perhaps not quite."""
        structure = self.structure
        few = FEW * len(self.columns)
        if structure is None or k > few or np.count_nonzero(mask) <= few:
            return self.embeddings.best(query_1D, k, mask)
        unknown = structure.num_rows + np.flatnonzero(mask[structure.num_rows :])
        rows = np.concatenate([structure.candidates(query_1D, k, mask), unknown])
        return self.embeddings.best_of(rows, query_1D, k)

    def best_items(self, query_1D: Floats, k: int, mask: Mask) -> Hits:
        """Find the k best of the marked items, and all that tie with the k-th."""
        asked = k + 1
        while True:
            rows, scores = self.best(query_1D, asked, mask)
            if len(rows) < asked or scores[-1] < scores[k - 1]:
                break
            asked *= 4
        keep = slice(0, k) if len(rows) <= k else scores >= scores[k - 1]
        rows = rows[keep]
        return self._hits(rows, scores[keep], self.columns.slots[rows], mask)

    def best_groups(self, query_1D: Floats, k: int, items_each: int, mask: Mask, by: Grouping) -> Hits:
        """Find the items of the k best groups among the marked items; see GalleryIndex.search_groups."""
        rows, scores, groups = self._best_groups(query_1D, k, items_each, mask, by)
        if items_each > 1:
            mask_of_groups = mask & self.columns.in_groups(by, np.unique(groups))
            num = int(np.count_nonzero(mask_of_groups))
            rows, scores = self.embeddings.best(query_1D, num, mask_of_groups)
            groups = self.columns.groups(by, rows)
        keep = _best_of_each(groups, scores, items_each)
        return self._hits(rows[keep], scores[keep], groups[keep], mask)

    def _best_groups(
        self, query_1D: Floats, k: int, items_each: int, mask: Mask, by: Grouping
    ) -> tuple[Ints, Floats, Ints]:
        """Return rows, scores and groups of the items that show which groups are the k best, ties included.

        In each round the best items are found of what is left; groups whose best item is above the last of
        them are certain, and left out of the next round. So the items of one group cost one round, however
        many.
        """
        left = mask.copy()
        asked = max(k * items_each + 1, MIN_ASKED)
        found: list[tuple[Ints, Floats, Ints]] = []
        best_scores: list[float] = []
        while True:
            rows, scores = self.best(query_1D, asked, left)
            is_last = len(rows) < asked
            certain = scores > (float("-inf") if is_last else scores[-1])
            rows, scores = rows[certain], scores[certain]
            groups = self.columns.groups(by, rows)
            found.append((rows, scores, groups))
            new, firsts = np.unique(groups, return_index=True)
            best_scores += scores[np.sort(firsts)].tolist()
            if is_last or len(best_scores) >= k:
                break
            left &= ~self.columns.in_groups(by, new)
            asked *= 2
        rows, scores, groups = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(best_scores) >= k:
            chosen = np.unique(groups[scores >= best_scores[k - 1]])
            is_chosen = np.isin(groups, chosen)
            rows, scores, groups = rows[is_chosen], scores[is_chosen], groups[is_chosen]
        return rows, scores, groups

    def _hits(self, rows: Ints, scores: Floats, groups: Ints, mask: Mask) -> Hits:
        identity_keys = np.array(self.columns.identities.decoded(rows), np.int64)
        return Hits(self.columns.slots[rows], identity_keys, groups, scores, int(np.count_nonzero(mask)))


def _best_of_each(groups: Ints, scores: Floats, num: int) -> Mask:
    """Mark the `num` first rows of each group and those that tie with the last of them; scores descend.

    >>> _best_of_each(np.array([1, 1, 2, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32), 2).tolist()
    [True, True, True, False]
    """
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    lasts = order[starts + np.minimum(sizes, num) - 1]
    threshold = np.empty(len(scores), np.float32)
    threshold[order] = np.repeat(scores[lasts], sizes)
    return np.asarray(scores >= threshold)
