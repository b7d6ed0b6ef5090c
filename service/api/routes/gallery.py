"""/gallery: list, show, correct and delete items."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from model.data.images import decoded_bytes
from service.api.problems import responses
from service.api.routes.dependencies import AnyCaller, AnyCursors, ReadyServing, ReadyStore, RequestId
from service.api.schemas.gallery import (
    Correction,
    CorrectionAnswer,
    DeletionAnswer,
    DeletionOrder,
    ItemAnswer,
    ItemPage,
    ItemsAnswer,
    ItemWarning,
)
from service.errors import Fault, InvalidRequest
from service.gallery.ages import warn
from service.gallery.items import delete_item as delete_gallery_item
from service.gallery.items import delete_items, find_embeddings, find_item, find_with_crop, list_items
from service.people.corrections import correct_item
from service.store.store import Store
from service.uploads.requests import read_header, stored_limits, thumbnail

router = APIRouter(prefix="/gallery", tags=["gallery"])

IfNoneMatch = Annotated[str, Header(description="ETags of the pictures that the caller has.")]
UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The picture that the caller has is unchanged"}
}


@router.get("", response_model_exclude_unset=True, responses=responses(422, 503))
def get_items(
    page: Annotated[ItemPage, Query()],
    serving: ReadyServing,
    request_id: RequestId,
    caller: AnyCaller,
    cursors: AnyCursors,
) -> ItemsAnswer:
    """List the items that pass the filters in the order of enrolment, a page at a time."""
    among, after = page.within(caller.cameras), cursors.after(page.cursor)
    items, last = list_items(serving.store, among, page.limit, after)
    version = serving.current().replica.version
    embeddings = find_embeddings(serving.store, items, version) if page.embeddings else None
    return ItemsAnswer.of(items, cursors.of(last), version, request_id, embeddings)


@router.post("/delete", responses=responses(400, 409, 413, 422, 503))
def post_deletion(order: DeletionOrder, store: ReadyStore, request_id: RequestId) -> DeletionAnswer:
    """Delete all items that pass the filter. If their number is not `expected_count`, none is deleted."""
    if not order.dry_run and order.expected_count is None:
        raise InvalidRequest(
            Fault(("body", "expected_count"), "is required unless dry_run is true", "missing")
        )
    expected = None if order.dry_run else order.expected_count
    num_items = delete_items(store, order.filter, expected)
    return DeletionAnswer(request_id=request_id, num_items=num_items, deleted=not order.dry_run)


@router.get("/{item_id}", responses=responses(404, 422, 503))
def get_item(item_id: str, serving: ReadyServing, request_id: RequestId, caller: AnyCaller) -> ItemAnswer:
    """Show one item."""
    item = find_item(serving.store, item_id, caller.cameras)
    return ItemAnswer.of(item, serving.current().version, request_id=request_id)


@router.get(
    "/{item_id}/image",
    response_class=Response,
    responses={
        200: {"content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp", "bmp")}},
        **UNCHANGED,
        **responses(404, 410, 422, 503),
    },
)
def get_image(
    item_id: str, store: ReadyStore, caller: AnyCaller, if_none_match: IfNoneMatch = ""
) -> Response:
    """Return the crop of an item, with the bytes and the media type as posted."""
    item = find_with_crop(store, item_id, caller.cameras)
    return _picture(item.sha256, if_none_match, item.content_type, lambda: store.crops.get(item.sha256))


@router.get(
    "/{item_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **UNCHANGED, **responses(404, 410, 422, 503)},
)
def get_thumbnail(
    item_id: str,
    store: ReadyStore,
    caller: AnyCaller,
    size: Annotated[int, Query(ge=16, le=1024, description="Most pixels of the longer side.")] = 128,
    if_none_match: IfNoneMatch = "",
) -> Response:
    """Return a small JPEG of the crop, made for each request and never stored, so an erasure leaves none."""
    item = find_with_crop(store, item_id, caller.cameras)
    etag = f"{item.sha256}-{size}"
    return _picture(etag, if_none_match, "image/jpeg", lambda: _thumbnail(store, item.sha256, size))


def _thumbnail(store: Store, sha256: str, size: int) -> bytes:
    data = store.crops.get(sha256)
    limits = stored_limits(store.settings.max_pixels)
    with store.decoding.claim(decoded_bytes(read_header(data, limits))):
        return thumbnail(data, size, limits)


def _picture(tag: str, if_none_match: str, media_type: str, read: Callable[[], bytes]) -> Response:
    """Return a picture, or a 304 if the caller has the picture already.

    Caches must ask each time, because the picture may have been erased.
    """
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match.strip() == "*" or f'"{tag}"' in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(read(), media_type=media_type, headers=headers)


@router.patch("/{item_id}", responses=responses(400, 404, 413, 422, 503))
def patch_item(
    item_id: str,
    correction: Correction,
    serving: ReadyServing,
    request_id: RequestId,
    caller: AnyCaller,
) -> CorrectionAnswer:
    """Correct the metadata of an item: identity, camera, time and track."""
    corrections = correction.given()
    if not corrections:
        fault = Fault(("body",), "no field to change", "missing")
        raise InvalidRequest(fault, detail="give at least one field to change")
    item, operation = correct_item(serving.store, item_id, corrections, caller.cameras)
    version, operation_id = serving.current().version, operation and operation.id
    warned = warn([item], [item.id], serving.store.settings, serving.store.clock.now())
    warnings = [ItemWarning(**vars(one)) for one in warned] if "captured_at" in corrections else []
    return CorrectionAnswer.of(
        item, version, request_id=request_id, operation_id=operation_id, warnings=warnings
    )


@router.delete("/{item_id}", status_code=204, responses=responses(404, 422, 503))
def delete_item(item_id: str, store: ReadyStore) -> None:
    """Delete an item: row, embedding and crop are gone, and no search returns it."""
    delete_gallery_item(store, item_id)
