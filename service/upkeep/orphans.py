"""Crops on the disk that nothing refers to: what a request leaves that was killed before its commit.

The service lets them go by itself, and `reid check --repair` on demand. A crop is noted as doomed first, so
an enrolment of the same bytes that comes in between keeps it, or puts it back.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.store.database import pages
from service.store.doomed import doom, needed_crops
from service.store.store import Store
from service.store.tables import Change, DoomedCrop, Item

logger = structlog.get_logger(__name__)

FORGOTTEN = timedelta(hours=1)
"""No request, not even with a large archive, takes so long from its first crop to its commit."""

MOST_LEFT_BY_CRASHES = 1_000
MOST_SHARE = 0.1
"""More crops of nothing than both of these are no leftovers: the database may be an old or a wrong one."""


def find_strays(store: Store) -> Iterator[tuple[Path, float]]:
    """Find crops that no item, job or note refers to, and when each was written; one query a page.

    Young ones may belong to requests under way.
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


def let_go(store: Store, sha256s: Collection[str]) -> None:
    """Delete crops, but for those that something refers to by now."""
    for page in pages(sha256s):
        with store.change() as change:
            doom(change.session, page)


def sweep(store: Store, moment: datetime) -> int:
    """Let go of what killed requests have left, if it is old at this moment; return how many crops went.

    Crops from before the gallery's first change are of another gallery, and are left alone. So are all if
    they are too many.
    """
    for path in store.crops.unfinished():
        path.unlink(missing_ok=True)
    with store.read() as session:
        began = session.scalar(select(Change.at).order_by(Change.sequence).limit(1))
        num_items = session.scalar(select(func.count()).select_from(Item)) or 0
    if began is None:
        return 0
    last_s = (moment - FORGOTTEN).timestamp()
    strays = [path.name for path, written_s in find_strays(store) if began.timestamp() < written_s < last_s]
    if len(strays) > max(MOST_LEFT_BY_CRASHES, MOST_SHARE * num_items):
        logger.warning(
            "many crops belong to nothing; if this is their database, `reid check --repair` removes them",
            num_crops=len(strays),
        )
        return 0
    let_go(store, strays)
    return len(strays)


def _used(session: Session, sha256s: Collection[str]) -> set[str]:
    doomed = select(DoomedCrop.sha256).where(DoomedCrop.sha256.in_(sha256s))
    return needed_crops(session, sha256s) | set(session.scalars(doomed))
