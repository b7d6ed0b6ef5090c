"""What a repair of `reid check` replaces: kept for some days, so that the repair can be undone."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select

from service.store.changes import Transaction
from service.store.store import Store
from service.store.tables import Embedding, Item, ReplacedEmbedding, now


def replace(change: Transaction, repair_id: str, version: str, made: Mapping[int, bytes]) -> set[int]:
    """Store embeddings, and keep what they replace.

    Args:
        change: the transaction.
        repair_id: of the repair, which may take several transactions; sorts by time.
        version: the model version of the embeddings.
        made: the new embeddings by slot, float16, little endian.

    Returns:
        The slots of the items that still exist; their embeddings are stored.
    """
    session, moment = change.session, now()
    alive = set(session.scalars(select(Item.slot).where(Item.slot.in_(made))))
    mine = Embedding.model_version == version, Embedding.slot.in_(alive)
    for stored in session.scalars(select(Embedding).where(*mine)).all():
        session.add(
            ReplacedEmbedding(
                repair_id=repair_id,
                slot=stored.slot,
                model_version=version,
                values=stored.values,
                replaced_at=moment,
            )
        )
    for slot in sorted(alive):
        session.merge(Embedding(slot=slot, model_version=version, values=made[slot]))
    return alive


def undo_last_repair(store: Store) -> int:
    """Put back the embeddings that the last repair has replaced, and return their number.

    An embedding is not put back if its item has been deleted, or if the embeddings of its model version have
    been deleted. Another call undoes the repair before.
    """
    with store.change() as change:
        session = change.session
        repair_id = session.scalar(select(func.max(ReplacedEmbedding.repair_id)))
        if repair_id is None:
            return 0
        rows = session.scalars(
            select(ReplacedEmbedding).where(ReplacedEmbedding.repair_id == repair_id)
        ).all()
        num = 0
        for row in rows:
            if stored := session.get(Embedding, (row.slot, row.model_version)):
                stored.values = row.values
                num += 1
            session.delete(row)
        change.note("rebuilt")  # every process builds its index again
    return num


def purge_replaced(store: Store, moment: datetime) -> None:
    """Delete what repairs have replaced longer than `REID_KEEP_REPAIRED_DAYS` before a moment."""
    is_old = ReplacedEmbedding.replaced_at < moment - timedelta(days=store.settings.keep_repaired_days)
    with store.read() as session:
        if session.scalar(select(ReplacedEmbedding.slot).where(is_old).limit(1)) is None:
            return
    with store.write() as session:
        session.execute(delete(ReplacedEmbedding).where(is_old))
