"""Receipts of erasures, as the API documents them."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel

from service.store.tables import Erasure

OUT_OF_REACH = (
    "earlier backups: restore them with this receipt",
    "the log and the backups of PostgreSQL",
    "copies that callers have made, and what a disk keeps of deleted files",
)


class Erased(BaseModel):
    """How much is erased; `crops_kept_for_others` are shown by items of others too.

    `cleaned` says that crops, snapshots and the free pages of the database are gone from the disk as well.
    """

    items: int
    embeddings: dict[str, int]
    """By model version."""
    replaced_embeddings: int = 0
    """What `reid check --repair` had replaced and still kept."""
    crops: int
    crops_kept_for_others: int
    operations: int
    rejections: int
    kept_answers: int
    job_files: int
    snapshots: int
    cleaned: bool


class ErasureReceipt(BaseModel):
    """What was erased; `identity_sha256` is of the identity's id in UTF-8, in hex."""

    sequence: int
    at: datetime
    reason: Literal["requested", "retention", "restored"]
    identity_sha256: str | None
    item_ids: list[str]
    erased: Erased
    out_of_reach: list[str]

    @classmethod
    def of(cls, erasure: Erasure, **more: Any) -> Self:
        """Return the receipt of an erasure, and `more` fields of a subclass."""
        names = ErasureReceipt.model_fields.keys() - {"out_of_reach"}
        fields = {name: getattr(erasure, name) for name in names}
        return cls.model_validate(fields | {"out_of_reach": list(OUT_OF_REACH)} | more)


class ErasureAnswer(ErasureReceipt):
    """One receipt."""

    request_id: str


class ErasuresAnswer(BaseModel):
    """One page of receipts, in the order of the erasures; the last one has no `next_cursor`."""

    request_id: str
    erasures: list[ErasureReceipt]
    next_cursor: str | None
