"""Tracks: consecutive sightings by one camera under one track id, with no long gap between neighbours.

Trackers count from 1 on each camera, and again after a restart. So a track id alone names no track.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NO_TIME = np.iinfo(np.int64).min
"""Stands for an unknown time in the column `times`."""


def track_starts(keys_N: Ints, times_N: Ints, gap: int) -> Ints:
    """Return for each sighting the place of the first sighting of its track, (N,).

    Sightings of one key without a time form a track of their own, because nothing tells how far apart they
    are. Of sightings at one time the one that comes first in the arrays is the first.

    Args:
        keys_N: (N,), equal for sightings by one camera under one track id.
        times_N: (N,), microseconds since 1970, or NO_TIME.
        gap: microseconds; a longer gap between neighbouring sightings begins another track.

    >>> track_starts(np.array([7, 8, 7, 7]), np.array([90, 0, 0, 10]), 10).tolist()
    [0, 1, 2, 2]
    """
    order = np.argsort(times_N, kind="stable")  # both sorts are fast on items in the order of enrolment
    order = order[np.argsort(keys_N[order], kind="stable")]
    keys, times = keys_N[order], times_N[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    is_first[1:] |= (times[1:] == NO_TIME) != (times[:-1] == NO_TIME)
    is_first[1:] |= times[1:] - times[:-1] > gap
    starts = np.empty(len(order), np.int64)
    starts[order] = order[is_first][np.cumsum(is_first) - 1]
    return starts


def numbered(keys: Sequence[object]) -> Ints:
    """Return a number for each key, equal for equal keys.

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
