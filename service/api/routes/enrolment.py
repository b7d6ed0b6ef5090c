"""POST /gallery: enrol crops, at once or as a job."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, File, Form, Header, Request, Response, UploadFile
from pydantic import TypeAdapter, ValidationError

from model.data.names import is_text
from service.api.claims import keep_answer
from service.api.problems import responses
from service.api.proxies import url_path
from service.api.routes.dependencies import AnyCaller, CheckClient, ReadyServing, RequestId
from service.api.schemas.gallery import EnrolmentAnswer
from service.api.schemas.jobs import JobAnswer
from service.errors import Fault, InvalidRequest
from service.gallery.ages import warn
from service.gallery.duplicates import OnDuplicate
from service.gallery.enrolment import enroll
from service.gallery.imports import accept_archive, accept_images
from service.gallery.metadata import ItemMetadata, OptionalIdentityName, OptionalName, OptionalTime
from service.uploads.layouts import Layout

router = APIRouter(prefix="/gallery", tags=["gallery"])

MAX_IMAGES = 64

Images = Annotated[
    list[UploadFile],
    File(max_length=MAX_IMAGES, description="Person crops: JPEG, PNG, WebP or BMP; 1 to 64."),
]
NOT_UTF8 = (
    "holds half a character (a lone surrogate, such as \\udcfc), which stands for a byte of a name that is "
    "not UTF-8; rename the file or the folder"
)
MetadataList = TypeAdapter(list[ItemMetadata])


class EnrolmentForm(NamedTuple):
    """Either images with the metadata of each, or an archive with common metadata for its crops."""

    images: list[UploadFile]
    metadata: list[ItemMetadata]
    archive: UploadFile | None
    common: ItemMetadata


def read_form(
    images: Images = [],  # noqa: B006
    archive: Annotated[
        UploadFile | None,
        File(
            description="Instead of images: a tar (plain, gz or bz2) or zip of crops. Their metadata are in "
            "a gallery.csv in the archive (columns path, identity_id, camera_id, captured_at, track_id), or "
            "in the names of the crops, as `layout` says."
        ),
    ] = None,
    identity_id: Annotated[
        OptionalIdentityName,
        Form(description="The person on all crops. Without this field, each crop gets its own identity."),
    ] = None,
    camera_id: Annotated[OptionalName, Form(description="The camera that captured the crops.")] = None,
    captured_at: Annotated[
        OptionalTime,
        Form(description="Time of capture: RFC 3339 with an offset, such as 2026-01-31T08:15:00Z."),
    ] = None,
    track_id: Annotated[
        OptionalName, Form(description="The tracker's id of the track that the crops are from.")
    ] = None,
    metadata: Annotated[
        str,
        Form(
            description="Instead of identity_id, camera_id, captured_at and track_id: a JSON array with one "
            "object of these members for each image, in the order of the images. An empty member counts "
            "as absent."
        ),
    ] = "",
) -> EnrolmentForm:
    """Read the images and their metadata from the form.

    Raises:
        InvalidRequest: the form has both images and an archive, or neither; or the metadata are malformed,
            differ in number from the images, or are given beside an archive or the common fields.
    """
    if bool(images) == (archive is not None):
        raise InvalidRequest(Fault(("body", "images"), "give 1 to 64 images, or one archive"))
    common = ItemMetadata(
        identity_id=identity_id, camera_id=camera_id, captured_at=captured_at, track_id=track_id
    )
    if not metadata:
        return EnrolmentForm(images, [common] * len(images), archive, common)
    if common != ItemMetadata() or archive is not None:
        reason = "give either metadata or the fields for all images, not both; an archive takes no metadata"
        raise InvalidRequest(Fault(("body", "metadata"), reason))
    try:
        entries = MetadataList.validate_json(metadata)
    except ValidationError as error:
        raise InvalidRequest(*_faults(metadata, error)) from error
    if len(entries) != len(images):
        raise InvalidRequest(
            Fault(("body", "metadata"), f"has {len(entries)} entries for {len(images)} images")
        )
    return EnrolmentForm(images, entries, None, common)


def _faults(metadata: str, error: ValidationError) -> Iterator[Fault]:
    """Return the faults of the metadata, with a plain sentence about half a character."""
    for one in error.errors():
        is_name = one["type"] == "json_invalid" and _holds_half_characters(metadata)
        yield Fault(("body", "metadata", *one["loc"]), NOT_UTF8 if is_name else one["msg"], one["type"])


def _holds_half_characters(text: str) -> bool:
    try:
        return not is_text(json.dumps(json.loads(text), ensure_ascii=False))
    except (ValueError, RecursionError):
        return False


@router.post(
    "",
    status_code=201,
    response_model=EnrolmentAnswer,
    responses={
        200: {"model": EnrolmentAnswer, "description": "Every crop was in the gallery already"},
        202: {"model": JobAnswer, "description": "A job enrols the crops"},
        **responses(400, 409, 413, 415, 422, 503, 507),
    },
)
def post_gallery(
    form: Annotated[EnrolmentForm, Depends(read_form)],
    request: Request,
    serving: ReadyServing,
    request_id: RequestId,
    check_client: CheckClient,
    caller: AnyCaller,
    on_duplicate: Annotated[
        OnDuplicate,
        Form(
            description="What to do with a crop whose bytes the same camera has sent before: return the "
            "item that exists, store the crop again, or reject the request."
        ),
    ] = "return",
    layout: Annotated[
        Layout,
        Form(
            description="What the names in an archive say: nothing (flat), the identity (folders), or the "
            "identity and the camera (market1501)."
        ),
    ] = Layout.flat,
    prefer: Annotated[str, Header(description="respond-async: enrol the images as a job.")] = "",
) -> Response:
    """Enrol 1 to 64 crops, all or none. After a 201 the items are on the disk, and searches find them.

    A job enrols the crops of an archive, and images with the header `Prefer: respond-async`. Their files are
    on the disk before the answer.
    """

    def answer_job(session: Any, job: Any) -> None:
        location = url_path(f"/jobs/{job.id}")
        answers.append((202, JobAnswer.queued(job, request_id).model_dump_json(), location))
        keep_answer(request.scope, session, *answers[-1])

    def answer_items(session: Any, enrolment: Any) -> None:
        status = 201 if any(enrolment.are_new) else 200
        warned = warn(enrolment.items, names, serving.store.settings, serving.store.clock.now())
        answers.append((status, EnrolmentAnswer.of(enrolment, warned, request_id).model_dump_json(), None))
        keep_answer(request.scope, session, *answers[-1])

    answers: list[tuple[int, str, str | None]] = []
    names = [image.filename or f"images[{place}]" for place, image in enumerate(form.images)]
    if form.archive is not None:
        accept_archive(
            serving, form.archive.file, form.common, layout, on_duplicate, answer_job, caller.cameras
        )
    elif "respond-async" in prefer.lower():
        named = list(zip(names, (image.file for image in form.images), strict=True))
        accept_images(serving, named, form.metadata, on_duplicate, answer_job, caller.cameras)
    else:
        files = [image.file for image in form.images]
        cameras = caller.cameras
        enroll(serving, files, form.metadata, on_duplicate, answer_items, check_client, cameras=cameras)
    status, body, location = answers[-1]
    headers = {} if location is None else {"Location": location}
    return Response(body, status, headers, media_type="application/json")
