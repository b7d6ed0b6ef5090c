"""When to compact the index, and when to build or extend its ANN index.

`GalleryIndex` asks after every change and does the work in a background thread.
"""

import time
from typing import Literal

import numpy as np

from service.index.ann import AnnIndex, AnnKind
from service.index.state import MIN_TOPK_ROWS, State

IndexKind = Literal["auto", "exact", AnnKind]

AUTO_ANN_KIND: AnnKind = "ivf"
"""The ANN kind that `auto` builds; tests/benchmarks/index.py compares the kinds."""

MAX_EXACT_S = 0.020
"""Seconds that an exact search may take before `auto` builds an ANN index."""

MIN_ROWS_TO_MEASURE = 50_000
"""Rows from which `auto` measures how long an exact search takes."""

REMEASURE_GROWTH = 1.1
"""`auto` measures again when there are this many times the rows of the last measurement."""

MIN_ROWS_FOR_ANN = 10_000
"""Fewer rows are always searched exactly."""

MAX_SHARE_WITHOUT_ANN = 0.05
"""Share of the rows that the ANN index may lack before it is extended."""

MAX_GROWTH_WITHOUT_TRAINING = 4
"""An ANN index is trained again when there are more than this many times the rows that it was trained on."""

MAX_DEAD_SHARE = 0.20
"""Share of the rows that deleted items may take before the index is compacted."""

MIN_DEAD_ROWS = 1_000
"""The index is not compacted for fewer rows of deleted items than this, whatever their share."""


class Maintenance:
    """The upkeep that one index needs, by its kind."""

    def __init__(self, kind: IndexKind, max_exact_s: float) -> None:
        self.kind = kind
        self.max_exact_s = max_exact_s
        self._num_rows_measured = 0

    @property
    def ann_kind(self) -> AnnKind:
        """Return the kind of ANN index to build."""
        if self.kind == "auto" or self.kind == "exact":
            return AUTO_ANN_KIND
        return self.kind

    def is_due(self, state: State) -> bool:
        """Tell whether to compact, to measure an exact search, or to build or extend the ANN index."""
        num = len(state.columns)
        if is_compaction_due(state):
            return True
        if self.kind == "exact" or num < MIN_ROWS_FOR_ANN:
            return False
        if state.ann is None:
            least = max(MIN_ROWS_TO_MEASURE, REMEASURE_GROWTH * self._num_rows_measured)
            return self.kind != "auto" or num > least
        return num - state.ann.num_rows > MAX_SHARE_WITHOUT_ANN * num

    def is_ann_needed(self, state: State) -> bool:
        """Tell whether exact search is too slow; kind `auto` measures that until there is an ANN index."""
        if self.kind != "auto" or state.ann is not None:
            return True
        if _exact_search_s(state) > self.max_exact_s:
            return True
        self._num_rows_measured = len(state.columns)
        return False


def is_compaction_due(state: State) -> bool:
    """Tell whether deleted rows take so much room that the index is copied without them."""
    return state.num_dead > max(MIN_DEAD_ROWS, MAX_DEAD_SHARE * len(state.columns))


def is_training_due(ann: AnnIndex, num_rows: int) -> bool:
    """Tell whether there are so many rows that the ANN index is trained again rather than extended."""
    return num_rows > MAX_GROWTH_WITHOUT_TRAINING * ann.num_trained


def _exact_search_s(state: State) -> float:
    """Return the median seconds of five exact searches of all rows."""
    query_1D = state.embeddings.rows_ND[:1].astype(np.float32)
    everything = np.ones(len(state.columns), np.bool_)
    seconds = []
    for _ in range(5):
        started_s = time.perf_counter()
        state.embeddings.topk(query_1D, MIN_TOPK_ROWS, everything)
        seconds.append(time.perf_counter() - started_s)
    return float(np.median(seconds))
