"""DELETE /identities/{id} and GET /erasures: delete or erase a person, and list receipts of erasures."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from service.api.problems import responses
from service.api.routes.dependencies import AnyCursors, ReadyStore, RequestId
from service.api.schemas.erasures import ErasureAnswer, ErasureReceipt, ErasuresAnswer
from service.api.schemas.pages import Page
from service.api.slashes import IdentityId
from service.people.erasure import delete_identity as delete_with_items
from service.people.erasure import erase_identity, list_erasures

router = APIRouter(tags=["identities"])


@router.delete(
    "/identities/{identity_id}",
    response_model=ErasureAnswer,
    responses={
        200: {"description": "Erased: the receipt"},
        204: {"description": "Deleted"},
        **responses(404, 422, 503),
    },
)
def delete_identity(
    identity_id: IdentityId,
    store: ReadyStore,
    request_id: RequestId,
    mode: Annotated[
        Literal["delete", "erase"],
        Query(description="erase also purges the traces that deleted rows leave in files on the disk."),
    ] = "delete",
) -> Response | ErasureAnswer:
    """Delete an identity with its items and crops. With `erase`, no trace of them stays on the disk.

    After `delete`, names and embeddings can stay in free pages of the database file and in the snapshot of
    the index until these files are rewritten. `erase` rewrites both files at once. If there is no such
    identity, `erase` still purges the traces of earlier deletions, and then answers 404.

    If `erase` answers 503 `database_unavailable` and the identity is not found afterwards, the identity is
    erased, and the service rewrites the database file in the background. GET /erasures has the receipt.
    """
    if mode == "delete":
        delete_with_items(store, identity_id)
        return Response(status_code=204)
    return ErasureAnswer.of(erase_identity(store, identity_id), request_id=request_id)


@router.get("/erasures", responses=responses(422, 503))
def get_erasures(
    page: Annotated[Page, Query()], store: ReadyStore, cursors: AnyCursors, request_id: RequestId
) -> ErasuresAnswer:
    """List the receipts of all erasures, a page at a time."""
    erasures, last = list_erasures(store, page.limit, cursors.after(page.cursor))
    return ErasuresAnswer(
        request_id=request_id,
        erasures=[ErasureReceipt.of(erasure) for erasure in erasures],
        next_cursor=cursors.of(last),
    )
