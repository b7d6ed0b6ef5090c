"""/identities: describe, show and correct people; /operations: list and undo these corrections."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Response

from service.api.problems import responses
from service.api.proxies import url_path
from service.api.routes.dependencies import (
    AnyCaller,
    AnyCursors,
    CheckClient,
    ReadyServing,
    ReadyStore,
    RequestId,
)
from service.api.schemas.gallery import ItemsAnswer
from service.api.schemas.identities import (
    IdentitiesAnswer,
    IdentityAnswer,
    IdentityDescription,
    IdentityFields,
    IdentityItemPage,
    IdentityPage,
    NewIdentity,
    TimelineAnswer,
    TimelinePage,
    TimelineVisit,
)
from service.api.schemas.operations import (
    MergeOrder,
    OperationAnswer,
    OperationFields,
    OperationPage,
    OperationsAnswer,
    RejectOrder,
    SplitOrder,
)
from service.api.schemas.suggestions import SuggestedPair, SuggestionFields, SuggestionsAnswer
from service.api.slashes import IdentityId
from service.gallery.items import list_items_of
from service.people.corrections import merge, reject, split
from service.people.identities import create, describe, find, list_identities, timeline
from service.people.operations import find_operation, list_operations, tell
from service.people.suggestions import suggest
from service.people.undo import undo
from service.store.store import Store
from service.store.tables import Operation

router = APIRouter(tags=["identities"])


@router.post("/identities", status_code=201, responses=responses(400, 409, 413, 422, 503))
def post_identity(
    new: NewIdentity, response: Response, store: ReadyStore, request_id: RequestId
) -> IdentityAnswer:
    """Make an identity without items. The identity stays when its last item is deleted."""
    summary = create(store, new.id, new.given())
    response.headers["Location"] = url_path(f"/identities/{quote(summary.row.id, safe='')}")
    return IdentityAnswer.of(summary, request_id=request_id)


@router.get("/identities", responses=responses(422, 503))
def get_identities(
    page: Annotated[IdentityPage, Query()],
    store: ReadyStore,
    request_id: RequestId,
    caller: AnyCaller,
    cursors: AnyCursors,
) -> IdentitiesAnswer:
    """List identities in the order in which they were made, a page at a time.

    With filters for items, such as a camera or a time, an identity is listed if one of its items passes.
    """
    among, after = page.within(caller.cameras), cursors.after(page.cursor)
    summaries, last = list_identities(store, among, page.limit, after, page.name or "", caller.cameras)
    return IdentitiesAnswer(
        request_id=request_id,
        identities=[IdentityFields.of(one) for one in summaries],
        next_cursor=cursors.of(last),
    )


@router.get("/identities/suggestions", responses=responses(404, 422, 503))
def get_suggestions(
    fields: Annotated[SuggestionFields, Query()],
    serving: ReadyServing,
    request_id: RequestId,
    check_client: CheckClient,
    caller: AnyCaller,
) -> SuggestionsAnswer:
    """List pairs of identities that are likely the same person.

    Two identities that one camera saw at the same moment are never suggested, nor are rejected pairs.
    """
    among = fields.within(caller.cameras)
    version, found = suggest(
        serving, among, fields.limit, fields.min_score, fields.of, check_client, caller.cameras
    )
    return SuggestionsAnswer(
        request_id=request_id,
        model_version=version,
        suggestions=[SuggestedPair.showing(pair) for pair in found],
    )


@router.get("/identities/{identity_id}", responses=responses(404, 422, 503))
def get_identity(
    identity_id: IdentityId, store: ReadyStore, request_id: RequestId, caller: AnyCaller
) -> IdentityAnswer:
    """Show one identity."""
    return IdentityAnswer.of(find(store, identity_id, caller.cameras), request_id=request_id)


@router.patch("/identities/{identity_id}", responses=responses(400, 404, 413, 422, 503))
def patch_identity(
    identity_id: IdentityId,
    description: IdentityDescription,
    store: ReadyStore,
    request_id: RequestId,
) -> IdentityAnswer:
    """Change name, notes or attributes of an identity, which then stays when its last item is deleted."""
    return IdentityAnswer.of(describe(store, identity_id, description.given()), request_id=request_id)


@router.get(
    "/identities/{identity_id}/items",
    response_model_exclude_unset=True,
    responses=responses(404, 422, 503),
)
def get_identity_items(
    identity_id: IdentityId,
    page: Annotated[IdentityItemPage, Query()],
    serving: ReadyServing,
    request_id: RequestId,
    caller: AnyCaller,
    cursors: AnyCursors,
) -> ItemsAnswer:
    """List the items of one identity that pass the filters, in the order of enrolment."""
    among, after = page.within(caller.cameras), cursors.after(page.cursor)
    items, last = list_items_of(serving.store, identity_id, among, page.limit, after, caller.cameras)
    return ItemsAnswer.of(items, cursors.of(last), serving.current().version, request_id)


@router.get("/identities/{identity_id}/timeline", responses=responses(404, 422, 503))
def get_timeline(
    identity_id: IdentityId,
    page: Annotated[TimelinePage, Query()],
    store: ReadyStore,
    request_id: RequestId,
    caller: AnyCaller,
    cursors: AnyCursors,
) -> TimelineAnswer:
    """List the visits of a person, a page at a time: which camera saw the person, and from when to when."""
    among, after = page.within(caller.cameras), cursors.after_place(page.cursor)
    found = timeline(store, identity_id, among, page.visit_gap_s, page.limit, after, caller.cameras)
    return TimelineAnswer(
        request_id=request_id,
        identity_id=found.identity_id,
        visits=[TimelineVisit.of(visit) for visit in found.visits],
        num_untimed=found.num_untimed,
        next_cursor=cursors.of_place(found.last),
    )


@router.post("/identities/{identity_id}/merge", responses=responses(400, 404, 413, 422, 503))
def post_merge(
    identity_id: IdentityId, order: MergeOrder, store: ReadyStore, request_id: RequestId
) -> OperationAnswer:
    """Move all items of other identities to this one, and delete those identities. An undo restores them."""
    return _told(store, merge(store, identity_id, order.source_ids), request_id)


@router.post("/identities/{identity_id}/split", responses=responses(400, 404, 409, 413, 422, 503))
def post_split(
    identity_id: IdentityId, order: SplitOrder, store: ReadyStore, request_id: RequestId
) -> OperationAnswer:
    """Move items of this identity to another identity, by default to a new one."""
    operation = split(store, identity_id, order.item_ids, order.identity_id)
    return _told(store, operation, request_id)


@router.post("/identities/{identity_id}/reject", responses=responses(400, 404, 413, 422, 503))
def post_rejection(
    identity_id: IdentityId, order: RejectOrder, store: ReadyStore, request_id: RequestId
) -> OperationAnswer:
    """Record that items do not show this identity; items that belong to it move to new identities.

    The suggestions never pair this identity with an identity that has one of these items.
    """
    return _told(store, reject(store, identity_id, order.item_ids), request_id)


@router.get("/operations", responses=responses(422, 503))
def get_operations(
    page: Annotated[OperationPage, Query()], store: ReadyStore, request_id: RequestId
) -> OperationsAnswer:
    """List merges, splits, relabels and rejections, the newest first, a page at a time."""
    found, last = list_operations(store, page.limit, page.cursor, page.identity_id)
    return OperationsAnswer(
        request_id=request_id,
        operations=[OperationFields.of(told) for told in tell(store, found)],
        next_cursor=last,
    )


@router.get("/operations/{operation_id}", responses=responses(404, 422, 503))
def get_operation(operation_id: str, store: ReadyStore, request_id: RequestId) -> OperationAnswer:
    """Show a merge, split, relabel or rejection."""
    return _told(store, find_operation(store, operation_id), request_id)


@router.post("/operations/{operation_id}/undo", responses=responses(404, 409, 422, 503))
def post_undo(operation_id: str, store: ReadyStore, request_id: RequestId) -> OperationAnswer:
    """Undo a merge, split, relabel or rejection, unless a later change prevents the undo."""
    return _told(store, undo(store, operation_id), request_id)


def _told(store: Store, operation: Operation, request_id: str) -> OperationAnswer:
    (told,) = tell(store, [operation])
    return OperationAnswer.of(told, request_id=request_id)
