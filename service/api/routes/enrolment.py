"""POST /gallery: enrol crops, at once or as a job."""

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, File, Form, Header, Request, Response, UploadFile
from pydantic import TypeAdapter, ValidationError

from service.api.idempotency import keep_answer
from service.api.problems import responses
from service.api.routes.dependencies import ReadyServing, RequestId
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
MetadataList = TypeAdapter(list[ItemMetadata])


class Posted(NamedTuple):
    """The images of a request with the metadata of each, or an archive and metadata for all its crops."""

    images: list[UploadFile]
    metadata: list[ItemMetadata]
    archive: UploadFile | None
    common: ItemMetadata


def posted(
    images: Images = [],  # noqa: B006
    archive: Annotated[
        UploadFile | None,
        File(
            description="Instead of images a tar (plain, gz, bz2) or zip of them; labels are those of "
            "its gallery.csv (path, identity_id, camera_id, captured_at, track_id) or by `layout`."
        ),
    ] = None,
    identity_id: Annotated[
        OptionalIdentityName,
        Form(description="Whose the crops are; without it each is an identity of its own."),
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
    """Read the images and their metadata from the form.

    Raises:
        InvalidRequest: if there is nothing to enrol, or too much, or the metadata are malformed, too few or
            many, or given beside the common fields.
    """
    if bool(images) == (archive is not None):
        raise InvalidRequest(Fault(("body", "images"), "give 1 to 64 images, or one archive"))
    common = ItemMetadata(
        identity_id=identity_id, camera_id=camera_id, captured_at=captured_at, track_id=track_id
    )
    if not metadata:
        return Posted(images, [common] * len(images), archive, common)
    if common != ItemMetadata() or archive is not None:
        reason = "give either metadata or the fields for all images, not both, and none for an archive"
        raise InvalidRequest(Fault(("body", "metadata"), reason))
    try:
        entries = MetadataList.validate_json(metadata)
    except ValidationError as error:
        faults = (Fault(("body", "metadata", *one["loc"]), one["msg"], one["type"]) for one in error.errors())
        raise InvalidRequest(*faults) from error
    if len(entries) != len(images):
        raise InvalidRequest(Fault(("body", "metadata"), f"{len(entries)} entries for {len(images)} images"))
    return Posted(images, entries, None, common)


@router.post(
    "",
    status_code=201,
    response_model=EnrolmentAnswer,
    responses={
        200: {"model": EnrolmentAnswer, "description": "All were there already"},
        202: {"model": JobAnswer, "description": "A job enrols them"},
        **responses(400, 409, 413, 415, 422, 503),
    },
)
def post_gallery(
    posted: Annotated[Posted, Depends(posted)],
    request: Request,
    serving: ReadyServing,
    request_id: RequestId,
    on_duplicate: Annotated[
        OnDuplicate,
        Form(
            description="What to do with the same bytes from the same camera: give the item there is, or..."
        ),
    ] = "return",
    layout: Annotated[Layout, Form(description="What names in an archive mean.")] = Layout.flat,
    prefer: Annotated[str, Header(description="respond-async: answer with a job.")] = "",
) -> Response:
    """Enrol 1 to 64 crops, all or none; what is answered 201 is on the disk and found by searches.

    An archive, and images with `Prefer: respond-async`, are kept at once and enrolled by a job.
    """

    def answer_job(session: Any, job: Any) -> None:
        answers.append((202, JobAnswer.queued(job, request_id).model_dump_json(), f"/jobs/{job.id}"))
        keep_answer(request.scope, session, *answers[-1])

    def answer_items(session: Any, enrolment: Any) -> None:
        status = 201 if any(enrolment.are_new) else 200
        warned = warn(enrolment.items, names, serving.store.settings, serving.store.clock.now())
        answers.append((status, EnrolmentAnswer.of(enrolment, warned, request_id).model_dump_json(), None))
        keep_answer(request.scope, session, *answers[-1])

    answers: list[tuple[int, str, str | None]] = []
    names = [image.filename or f"images[{place}]" for place, image in enumerate(posted.images)]
    if posted.archive is not None:
        accept_archive(serving, posted.archive.file, posted.common, layout, on_duplicate, answer_job)
    elif "respond-async" in prefer.lower():
        named = list(zip(names, (image.file for image in posted.images), strict=True))
        accept_images(serving, named, posted.metadata, on_duplicate, answer_job)
    else:
        files = [image.file for image in posted.images]
        enroll(serving, files, posted.metadata, on_duplicate, answer_items)
    status, body, location = answers[-1]
    headers = {} if location is None else {"Location": location}
    return Response(body, status, headers, media_type="application/json")
