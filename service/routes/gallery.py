"""/gallery: enrol crops, look at them, delete them."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, File, Form, Header, Query, Response, UploadFile
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidRequest
from service.gallery import Label, enroll, find, list_items, remove, remove_all
from service.identity_schemas import Correction, CorrectionAnswer, given
from service.images import thumbnail
from service.operations import correct_item
from service.problems import responses
from service.routes.dependencies import ReadyServing, RequestId
from service.schemas import (
    DeletionAnswer,
    DeletionOrder,
    EnrolmentAnswer,
    GalleryItem,
    ItemAnswer,
    ItemMetadata,
    ItemsAnswer,
    OptionalName,
    OptionalTime,
    Page,
    cursor_of,
    number_of_cursor,
)

router = APIRouter(prefix="/gallery", tags=["gallery"])

MAX_IMAGES = 64

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=MAX_IMAGES, description="Person crops: JPEG, PNG, WebP or BMP."),
]
IfNoneMatch = Annotated[str, Header(description="ETags of what the caller has.")]
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The caller has it"}}
_NOTHING = {"loc": ["body"], "msg": "no field to change", "type": "missing"}
_NO_COUNT = {"loc": ["body", "expected_count"], "msg": "is needed unless dry_run", "type": "missing"}
MetadataList = TypeAdapter(list[ItemMetadata])


class Posted(NamedTuple):
    """The images of a request and one label for each."""

    images: list[UploadFile]
    labels: list[Label]


def posted(
    images: Images,
    identity_id: Annotated[
        OptionalName, Form(description="Whose the crops are; without it each is an identity of its own.")
    ] = None,
    camera_id: Annotated[OptionalName, Form(description="Which camera saw them.")] = None,
    captured_at: Annotated[
        OptionalTime, Form(description="When: RFC 3339 with an offset, such as 2026-01-31T08:15:00Z.")
    ] = None,
    track_id: Annotated[OptionalName, Form(description="The tracker's id of the walk they are from.")] = None,
    metadata: Annotated[
        str,
        Form(
            description="Instead of the fields for all: a JSON array with one object of identity_id, "
            "camera_id, captured_at and track_id for each image, in their order. An empty field counts as "
            "absent."
        ),
    ] = "",
) -> Posted:
    """Read the images and their labels from the form.

    Raises:
        InvalidRequest: if the metadata are malformed, too few or many, or given beside the common fields.
    """
    common = Label(identity_id, camera_id, captured_at, track_id)
    if not metadata:
        return Posted(images, [common] * len(images))
    if common != Label():
        raise _bad_metadata("give either metadata or the fields for all images, not both")
    try:
        entries = MetadataList.validate_json(metadata)
    except ValidationError as error:
        faults = [
            {"loc": ["body", "metadata", *e["loc"]], "msg": e["msg"], "type": e["type"]}
            for e in error.errors()
        ]
        where = ".".join(map(str, faults[0]["loc"][1:]))
        raise InvalidRequest(f"{where}: {faults[0]['msg']}", faults) from error
    if len(entries) != len(images):
        raise _bad_metadata(f"{len(entries)} entries for {len(images)} images")
    return Posted(images, [Label(**entry.model_dump()) for entry in entries])


def _bad_metadata(message: str) -> InvalidRequest:
    fault: dict[str, Any] = {"loc": ["body", "metadata"], "msg": message, "type": "value_error"}
    return InvalidRequest(f"metadata: {message}", [fault])


@router.post("", status_code=201, responses=responses(400, 413, 415, 422, 503))
def post_gallery(
    posted: Annotated[Posted, Depends(posted)],
    serving: ReadyServing,
    request_id: RequestId,
) -> EnrolmentAnswer:
    """Enrol 1 to 64 crops, all or none; what is answered 201 is on the disk and found by searches."""
    enrolment = enroll(serving, [image.file for image in posted.images], posted.labels)
    version = enrolment.model_version
    items = [GalleryItem.of(item, version) for item in enrolment.items]
    return EnrolmentAnswer(request_id=request_id, model_version=version, items=items)


@router.get("", responses=responses(422, 503))
def get_items(page: Annotated[Page, Query()], serving: ReadyServing, request_id: RequestId) -> ItemsAnswer:
    """List items in the order of enrolment, a page at a time, by the filters of a search."""
    items, last = list_items(serving, page.selection(), page.limit, number_of_cursor(page.cursor))
    version = serving.current().version
    return ItemsAnswer(
        request_id=request_id,
        items=[GalleryItem.of(item, version) for item in items],
        next_cursor=None if last is None else cursor_of(last),
    )


@router.post("/delete", responses=responses(400, 409, 413, 422, 503))
def post_deletion(order: DeletionOrder, serving: ReadyServing, request_id: RequestId) -> DeletionAnswer:
    """Delete the items that the filter lets through, all or none; needs the count of a dry run."""
    if not order.dry_run and order.expected_count is None:
        raise InvalidRequest("expected_count is needed unless it is a dry run", [_NO_COUNT])
    expected = None if order.dry_run else order.expected_count
    num_items = remove_all(serving, order.filter.selection(), expected)
    return DeletionAnswer(request_id=request_id, num_items=num_items, deleted=not order.dry_run)


@router.get("/{item_id}", responses=responses(404, 422, 503))
def get_item(item_id: str, serving: ReadyServing, request_id: RequestId) -> ItemAnswer:
    """Show one item."""
    item = GalleryItem.of(find(serving, item_id), serving.current().version)
    return ItemAnswer(**item.model_dump(), request_id=request_id)


@router.get(
    "/{item_id}/image",
    response_class=Response,
    responses={
        200: {"content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp", "bmp")}},
        **UNCHANGED,
        **responses(404, 422, 503),
    },
)
def get_image(item_id: str, serving: ReadyServing, if_none_match: IfNoneMatch = "") -> Response:
    """Return the bytes as they were posted, with their type."""
    item = find(serving, item_id)
    return _picture(item.sha256, if_none_match, item.content_type, lambda: serving.crops.get(item.sha256))


@router.get(
    "/{item_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **UNCHANGED, **responses(404, 422, 503)},
)
def get_thumbnail(
    item_id: str,
    serving: ReadyServing,
    size: Annotated[int, Query(ge=16, le=1024, description="Pixels on the longer side at most.")] = 128,
    if_none_match: IfNoneMatch = "",
) -> Response:
    """Return a small JPEG of the crop; made anew each time, so none is left when the crop is erased."""
    item = find(serving, item_id)
    etag = f"{item.sha256}-{size}"
    return _picture(
        etag, if_none_match, "image/jpeg", lambda: thumbnail(serving.crops.get(item.sha256), size)
    )


def _picture(tag: str, if_none_match: str, media_type: str, read: Callable[[], bytes]) -> Response:
    """Answer with a picture, or say that the caller has it; to be asked again, as it may have been erased."""
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
    item_id: str, correction: Correction, serving: ReadyServing, request_id: RequestId
) -> CorrectionAnswer:
    """Correct what is known of an item: whose it is, which camera, when, on which track."""
    corrections = given(correction)
    if not corrections:
        raise InvalidRequest("give at least one field to change", [_NOTHING])
    item, operation = correct_item(serving, item_id, corrections)
    shown = GalleryItem.of(item, serving.current().version)
    operation_id = operation and operation.id
    return CorrectionAnswer(**shown.model_dump(), request_id=request_id, operation_id=operation_id)


@router.delete("/{item_id}", status_code=204, responses=responses(404, 422, 503))
def delete_item(item_id: str, serving: ReadyServing) -> None:
    """Delete an item: row, embedding and crop are gone, and no search returns it."""
    remove(serving, item_id)
