"""A searchable index of embeddings with filters: a library on numpy and FAISS, independent of the service.

Other packages import the names below from `service.index`, never its modules. `GalleryIndex` is the place to
start reading.
"""

from service.index.columns import NO_TIME, Columns, Grouping
from service.index.filters import Filter, Sighting
from service.index.index import GalleryIndex, Rows
from service.index.maintenance import IndexKind
from service.index.state import Hits

__all__ = [
    "NO_TIME",
    "Columns",
    "Filter",
    "GalleryIndex",
    "Grouping",
    "Hits",
    "IndexKind",
    "Rows",
    "Sighting",
]
