"""A searchable index of embeddings with filters: a library on numpy and FAISS, independent of the service.

Other packages import the names below from `service.index`, never its modules. `GalleryIndex` is the place to
start reading.
"""

from service.index.columns import Columns, Grouping, times
from service.index.filters import CameraTracks, Filter, Sighting
from service.index.index import DEFAULT_TRACK_GAP_S, GalleryIndex
from service.index.maintenance import IndexKind
from service.index.rows import Rows
from service.index.state import Hits
from service.index.tracks import NO_TIME, numbered, track_starts

__all__ = [
    "DEFAULT_TRACK_GAP_S",
    "NO_TIME",
    "CameraTracks",
    "Columns",
    "Filter",
    "GalleryIndex",
    "Grouping",
    "Hits",
    "IndexKind",
    "Rows",
    "Sighting",
    "numbered",
    "times",
    "track_starts",
]
