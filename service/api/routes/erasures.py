"""DELETE /identities/{id} and GET /erasures: delete or erase a person, and the receipts of that."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from service.api.problems import responses
from service.api.routes.dependencies import ReadyStore, RequestId
from service.api.schemas.erasures import ErasureAnswer, ErasureReceipt, ErasuresAnswer
from service.api.schemas.pages import Page, cursor_of
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
        Query(description="erase also cleans the files of what deleted rows leave there."),
    ] = "delete",
) -> Response | ErasureAnswer:
    """Delete an identity with its items and crops; `erase` leaves nothing of them on the disk.

    After a plain deletion names and embeddings stay in unused room of the database file, and in the snapshot
    of the index, until these are written anew. `erase` does that, also if it finds no such identity: then it
    answers 404 after it has cleaned the files of everything that was deleted before.

    A 503 `database_unavailable` after which the identity is not found says that cleaning the database file
    goes on in the background; its receipt is in GET /erasures.
    """
    if mode == "delete":
        delete_with_items(store, identity_id)
        return Response(status_code=204)
    return ErasureAnswer.of(erase_identity(store, identity_id), request_id=request_id)


@router.get("/erasures", responses=responses(422, 503))
def get_erasures(page: Annotated[Page, Query()], store: ReadyStore, request_id: RequestId) -> ErasuresAnswer:
    """List the receipts of all erasures, a page at a time."""
    erasures, last = list_erasures(store, page.limit, page.after())
    return ErasuresAnswer(
        request_id=request_id,
        erasures=[ErasureReceipt.of(erasure) for erasure in erasures],
        next_cursor=cursor_of(last),
    )
