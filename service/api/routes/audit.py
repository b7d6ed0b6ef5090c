"""GET /audit: who did what."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.problems import responses
from service.api.routes.dependencies import ReadyStore, RequestId
from service.api.schemas.audit import AuditAnswer, AuditPage, AuditRowFields
from service.api.schemas.pages import cursor_of
from service.audit.chain import head_of
from service.audit.reading import fields_of, read_rows

router = APIRouter(tags=["operations"])


@router.get("/audit", responses=responses(422, 503))
def get_audit(page: Annotated[AuditPage, Query()], store: ReadyStore, request_id: RequestId) -> AuditAnswer:
    """List the rows of the audit, the oldest first, a page at a time."""
    with store.read() as session:
        found, last = read_rows(session, page.wanted(), page.limit, page.after())
        head = head_of(session)
    return AuditAnswer(
        request_id=request_id,
        head=str(head),
        rows=[AuditRowFields.model_validate(fields_of(row, people)) for row, people in found],
        next_cursor=cursor_of(last),
    )
