"""Receipts of erasures, as the API documents them."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel

from service.store.tables import Erasure

OUT_OF_REACH = (
    "earlier backups: apply this receipt when you restore one",
    "the log and the backups of PostgreSQL",
    "copies that callers have made, and what a disk keeps of deleted files",
)


class Erased(BaseModel):
    """How much was erased; `crops_kept_for_others` counts crops that items of other identities need too.

    `cleaned` says whether crops, snapshots and free pages of the database were purged from the disk too.
    """

    items: int
    embeddings: dict[str, int]
    """The number of embeddings by model version."""
    replaced_embeddings: int = 0
    """The number of embeddings that `reid check --repair` had replaced and still kept."""
    crops: int
    crops_kept_for_others: int
    operations: int
    rejections: int
    kept_answers: int
    job_files: int
    audit_rows: int = 0
    """The number of times that the audit mentioned what was erased."""
    audit_hashes: list[str] = []
    """The keyed hashes of the erased identities, which stand in the audit in their place."""
    audit_queries: int = 0
    """The number of kept query crops whose searches had found or named them."""
    snapshots: int
    cleaned: bool


class ErasureReceipt(BaseModel):
    """What was erased; `identity_sha256` is the SHA-256, in hex, of the identity's id in UTF-8."""

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
    """A page of receipts, in the order of the erasures; `next_cursor` is null on the last page."""

    request_id: str
    erasures: list[ErasureReceipt]
    next_cursor: str | None
