"""GET /audit: who did what, and the crops that were searched for."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from model.data.images import CONTENT_TYPES
from service.api.problems import responses
from service.api.routes.dependencies import AnyCursors, ReadyStore, RequestId
from service.api.schemas.audit import AuditAnswer, AuditPage, AuditRowFields
from service.audit.chain import head_of
from service.audit.queries import find_query
from service.audit.reading import fields_of, read_rows
from service.uploads.requests import read_header, stored_limits

router = APIRouter(tags=["operations"])


@router.get("/audit", responses=responses(422, 503))
def get_audit(
    page: Annotated[AuditPage, Query()], store: ReadyStore, cursors: AnyCursors, request_id: RequestId
) -> AuditAnswer:
    """List the rows of the audit, the oldest first, a page at a time."""
    with store.read() as session:
        found, last = read_rows(session, page.wanted(), page.limit, cursors.after(page.cursor))
        head = head_of(session)
    return AuditAnswer(
        request_id=request_id,
        head=str(head),
        rows=[AuditRowFields.model_validate(fields_of(row, people)) for row, people in found],
        next_cursor=cursors.of(last),
    )


@router.get(
    "/audit/queries/{sha256}",
    response_class=Response,
    responses={
        200: {"content": {kind: {} for kind in CONTENT_TYPES.values()}},
        **responses(404, 410, 422, 503),
    },
)
def get_query(sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], store: ReadyStore) -> Response:
    """Return a crop that was searched for, with the bytes as posted, if REID_AUDIT_KEEP_QUERIES kept it."""
    data = find_query(store, sha256)
    kind = CONTENT_TYPES[read_header(data, stored_limits(store.settings.max_pixels)).format]
    return Response(data, media_type=kind, headers={"Cache-Control": "private, no-store"})
