"""Orphans: crops on the disk that no item and no job needs, left by requests that were killed before commit.

The service purges orphans by itself, and `reid check --repair` does so on demand. An orphan is first noted as
doomed. So an enrolment of the same bytes, if one comes in between, keeps the crop or writes it again.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.store.database import pages
from service.store.doomed import mark_doomed, needed_crops
from service.store.store import Store
from service.store.tables import Change, DoomedCrop, Item

logger = structlog.get_logger(__name__)

MIN_AGE = timedelta(hours=1)
"""No request takes so long from its first crop to its commit, not even with a large archive."""

MAX_ORPHANS = 1_000
"""Up to this many orphans are always purged."""

MAX_SHARE = 0.1
"""If the orphans are more than `MAX_ORPHANS` and more than this share of the items, none is purged. Crashes
do not leave so many orphans, so the database may be an old one, or that of another gallery."""


def find_orphans(store: Store) -> Iterator[tuple[Path, float]]:
    """Find crops that no item and no job needs and that are not doomed yet.

    A young orphan may belong to a request in progress.

    Returns:
        The path of each crop, and the time when it was written, in seconds since 1970.
    """
    for page in pages(store.crops.paths()):
        if store.stopping.is_set():
            return
        paths = {path.name: path for path in page}
        with store.read() as session:
            used = _used(session, paths)
        for name in sorted(paths.keys() - used):
            try:
                written_s = paths[name].stat().st_mtime
            except FileNotFoundError:
                continue
            yield paths[name], written_s


def delete_orphans(store: Store, sha256s: Collection[str]) -> None:
    """Delete crops from the disk, except those that an item or a job needs."""
    for page in pages(sha256s):
        with store.change() as change:
            mark_doomed(change.session, page)


def purge_orphans(store: Store, moment: datetime) -> int:
    """Delete the orphans that are older than `MIN_AGE` at this moment, and return how many there were.

    Crops from before the first change of the gallery stay, because they belong to another gallery. All
    orphans stay if there are too many of them.

    Raises:
        OtherGallery: the data folder belongs to another gallery; nothing is deleted.
    """
    store.folder.check()
    for path in store.crops.unfinished():
        path.unlink(missing_ok=True)
    with store.read() as session:
        began = session.scalar(select(Change.at).order_by(Change.sequence).limit(1))
        num_items = session.scalar(select(func.count()).select_from(Item)) or 0
    if began is None:
        return 0
    last_s = (moment - MIN_AGE).timestamp()
    orphans = [path.name for path, written_s in find_orphans(store) if began.timestamp() < written_s < last_s]
    if len(orphans) > max(MAX_ORPHANS, MAX_SHARE * num_items):
        logger.warning(
            "many crops belong to no item; if the database is the right one, delete these crops with "
            "`reid check --repair`",
            num_crops=len(orphans),
        )
        return 0
    delete_orphans(store, orphans)
    return len(orphans)


def _used(session: Session, sha256s: Collection[str]) -> set[str]:
    doomed = select(DoomedCrop.sha256).where(DoomedCrop.sha256.in_(sha256s))
    return needed_crops(session, sha256s) | set(session.scalars(doomed))
