"""The claim of the data folder at the start: one gallery, one folder.

A folder of an older version of this program has no mark. A gallery claims such a folder if the folder has no
crops, or at least one crop that the gallery knows. A new database beside the crops of a gallery is refused,
because the database file was probably lost or misplaced, and because the crops would be deleted as leftovers.
"""

from pathlib import Path

from sqlalchemy import select

from service.errors import OtherGallery
from service.settings import Settings
from service.store.audit_tables import AuditQuery
from service.store.crops import CropStore
from service.store.database import sqlite_file
from service.store.folder import HINT, MARK, DataFolder
from service.store.store import Store
from service.store.tables import DoomedCrop, Gallery, Item, JobFile

SAMPLE = 1_000
"""Crops of each kind that are looked for in the folder."""


def refuse_lost_database(settings: Settings) -> None:
    """Check, before a database file is made, that the data folder holds no gallery.

    Raises:
        OtherGallery: the SQLite file is absent or empty, and the folder belongs to a gallery.
    """
    path = sqlite_file(settings.database_url)
    if path is None or (path.exists() and path.stat().st_size):
        return
    crops = CropStore(settings.crops_dir)
    if DataFolder(settings.data_dir).owner() is not None or next(crops.paths(), None) is not None:
        state = "is empty" if path.exists() else "does not exist"
        raise OtherGallery(f"the database {path} {state}, and {_folder_of(settings)}: {_hint(settings)}")


def claim_folder(store: Store) -> None:
    """Claim the data folder for the gallery in the database, or check that the gallery has claimed it.

    Raises:
        OtherGallery: the folder belongs to another gallery, or its crops do.
    """
    with store.read() as session:
        gallery_id = session.scalars(select(Gallery.id)).one()
    if store.folder.owner() is None and not _fits(store):
        raise OtherGallery(
            f"the database knows no crop of the data folder, and {_folder_of(store.settings)}: "
            + _hint(store.settings)
        )
    store.folder.claim(gallery_id)


def check_folder(store: Store) -> None:
    """Check that no other gallery has claimed the data folder; nothing is written.

    Raises:
        OtherGallery: another gallery has.
    """
    with store.read() as session:
        store.folder.require_owner(session.scalars(select(Gallery.id)).one())


def _fits(store: Store) -> bool:
    """Tell whether a folder without a mark has no crops, or some that the gallery knows."""
    statements = (
        select(Item.sha256).where(Item.has_crop),
        select(JobFile.sha256).where(JobFile.sha256.is_not(None)),
        select(DoomedCrop.sha256),
        select(AuditQuery.sha256),
    )
    with store.read() as session:
        for statement in statements:
            if any(store.crops.has(str(sha256)) for sha256 in session.scalars(statement.limit(SAMPLE))):
                return True
    return next(store.crops.paths(), None) is None


def _folder_of(settings: Settings) -> str:
    return f"the data folder {Path(settings.data_dir).absolute()} holds the crops of a gallery"


def _hint(settings: Settings) -> str:
    leftovers = f"{settings.crops_dir} and {settings.data_dir / MARK}"
    return f"put the database of these crops back, or {HINT}, or delete {leftovers}"
