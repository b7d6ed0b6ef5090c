"""Receipts of erasures, as the API documents them."""

from datetime import datetime
from typing import Literal

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
    def of(cls, erasure: Erasure) -> "ErasureReceipt":
        """Show a row."""
        fields = {name: getattr(erasure, name) for name in cls.model_fields if name != "out_of_reach"}
        return cls.model_validate(fields | {"out_of_reach": list(OUT_OF_REACH)})


class ErasureAnswer(ErasureReceipt):
    """One receipt."""

    request_id: str


class ErasuresAnswer(BaseModel):
    """One page of receipts, in the order of the erasures; the last one has no `next_cursor`."""

    request_id: str
    erasures: list[ErasureReceipt]
    next_cursor: str | None
